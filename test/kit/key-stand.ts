import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { askApi } from './api.ts'
import { waitFor } from './clock.ts'
import type { TestEdge } from './edge.ts'
import { startFedStand, type FedStand } from './fed-edge.ts'
import { createImage, pushImage } from './images.ts'
import type { Credentials, RegistryClient } from './registry-client.ts'

/** A key as the admin API shows it. */
export interface ShownKey {
  readonly id: string
  readonly purpose: string
  readonly state: string
  readonly fingerprint: string
}

/** A primary whose keys change soon after they are told to, with a private image in `team/app`, and who may pull it. */
export interface KeyStand extends FedStand {
  readonly pusher: RegistryClient
  readonly robot: Credentials
  /** The admin API; any answer but 200 fails. */
  api(this: void, method: string, path: string, body?: object): Promise<unknown>
  keysOf(this: void, purpose: string): Promise<readonly ShownKey[]>
  /** The key that signs. */
  activeOf(this: void, purpose: string): Promise<ShownKey | undefined>
  /** Makes the next key, does what else it needs, and waits until it signs. */
  rotate(this: void, purpose: string, sign?: () => Promise<void>): Promise<ShownKey>
  /** Pulls by these again and again until it is told to stop; a pull that fails fails then. */
  startPulling(this: void, clients: () => readonly RegistryClient[]): () => Promise<void>
  /** What is pushed now reaches the edge by its log. */
  logComes(this: void, edge: TestEdge): Promise<void>
}

export async function startKeyStand(
  t: Pick<TestContext, 'after'>,
  { scopes }: { readonly scopes?: Readonly<Record<string, readonly string[]>> } = {},
): Promise<KeyStand> {
  const primary = { keys: { ahead: '1s' } }
  const stand = await startFedStand(t, { ...(scopes && { scopes }), primary })
  const pusher = stand.primary.client(stand.primary.admin)
  await stand.primary.createProject('team', { isPublic: false })
  const robot = await stand.primary.createRobot('team', 'puller')
  await pushImage(pusher, 'team/app', createImage({ seed: 'first' }), 'v0')

  const api: KeyStand['api'] = async (method, path, body) => {
    const answer = await askApi(pusher, method, path, body)
    assert.equal(answer.status, 200, String(answer.body))
    return answer.body.length === 0 ? undefined : answer.json()
  }
  const keysOf: KeyStand['keysOf'] = async (purpose) =>
    ((await api('GET', '/keys')) as readonly ShownKey[]).filter((key) => key.purpose === purpose)
  const activeOf: KeyStand['activeOf'] = async (purpose) =>
    (await keysOf(purpose)).find(({ state }) => state === 'active')
  let moved = 0
  return {
    ...stand,
    pusher,
    robot,
    api,
    keysOf,
    activeOf,
    async rotate(purpose, sign = () => Promise.resolve()) {
      const key = (await api('POST', '/keys/rotate', { purpose })) as ShownKey
      await sign()
      await waitFor(`the ${purpose} key`, async () => (await activeOf(purpose))?.id === key.id)
      return key
    },
    startPulling(clients) {
      const failures: unknown[] = []
      let pulls = 0
      let isOver = false
      const pull = async (): Promise<void> => {
        while (!isOver) {
          for (const client of clients()) {
            const answer = await tagOf(client, 'v0')
            if (typeof answer !== 'string') failures.push(answer)
            pulls++
          }
          // A log-in costs the primary a good part of a core, and the rest is for what is looked at.
          await delay(50)
        }
      }
      const pulling = pull()
      return async () => {
        isOver = true
        await pulling
        assert.deepEqual(failures, [])
        assert.ok(pulls > 10)
      }
    },
    async logComes(edge) {
      const client = edge.client(robot, 'bearer')
      const image = createImage({ seed: `moved ${++moved}` })
      await pushImage(pusher, 'team/app', image, 'moving')
      await waitFor(
        'a moved tag',
        async () =>
          (await tagOf(client, 'moving')) === image.manifest.digest &&
          (await edge.metric('outport_edge_log_fresh')) === 1,
      )
    },
  }
}

/** Where a tag points, or the status of a refusal. */
async function tagOf(client: RegistryClient, tag: string): Promise<unknown> {
  const answer = await client.request('GET', `/v2/team/app/manifests/${tag}`)
  return answer.status === 200 ? answer.headers['docker-content-digest'] : answer.status
}

/** A file of what an edge is known by. */
export function ownFile(edge: TestEdge, name: string): Promise<string> {
  return readFile(join(edge.data, 'edge', 'own-identity', name), 'utf8')
}

/** The list of trusted keys that an edge has, as text. */
export async function trustOf(edge: TestEdge): Promise<string> {
  const { list } = JSON.parse(await ownFile(edge, 'trust.json')) as {
    readonly list: { readonly payload: string }
  }
  return Buffer.from(list.payload, 'base64').toString()
}

/** Whether an edge has a certificate of this CA, and knows the CA. */
export async function isCertifiedBy(edge: TestEdge, ca: ShownKey): Promise<boolean> {
  const issuer = new X509Certificate(await ownFile(edge, 'edge-ca.pem'))
  const own = new X509Certificate(await ownFile(edge, 'certificate.pem'))
  const fingerprint = issuer.fingerprint256.replaceAll(':', '').toLowerCase()
  return fingerprint === ca.fingerprint && own.checkIssued(issuer)
}

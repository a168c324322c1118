import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { askApi } from '../../kit/api.ts'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { createImage, pushImage } from '../../kit/images.ts'
import type { Credentials, RegistryClient } from '../../kit/registry-client.ts'

interface ShownKey {
  readonly id: string
  readonly purpose: string
  readonly state: string
  readonly fingerprint: string
}

let stand: FedStand
let edge: TestEdge
let pusher: RegistryClient
let robot: Credentials
let ending: Pick<TestContext, 'after'>

before(async (t) => {
  ending = t as unknown as TestContext
  stand = await startFedStand(ending, { primary: { keys: { ahead: '1s' } } })
  const { primary } = stand
  edge = await stand.startEdge(ending)
  pusher = primary.client(primary.admin)
  await primary.createProject('team', { isPublic: false })
  robot = await primary.createRobot('team', 'puller')
  await pushImage(pusher, 'team/app', createImage({ seed: 'first' }), 'v0')
})

const api = async (method: string, path: string, body?: object): Promise<unknown> => {
  const answer = await askApi(pusher, method, path, body)
  assert.equal(answer.status, 200, String(answer.body))
  return answer.body.length === 0 ? undefined : answer.json()
}
const keysOf = async (purpose: string) =>
  ((await api('GET', '/keys')) as readonly ShownKey[]).filter((key) => key.purpose === purpose)
const activeOf = async (purpose: string) =>
  (await keysOf(purpose)).find(({ state }) => state === 'active')
const rotate = async (purpose: string): Promise<ShownKey> => {
  const key = (await api('POST', '/keys/rotate', { purpose })) as ShownKey
  await waitFor(`the ${purpose} key`, async () => (await activeOf(purpose))?.id === key.id)
  return key
}
const ownFile = (name: string) => readFile(join(edge.data, 'edge', 'own-identity', name), 'utf8')
const trustOfEdge = async (): Promise<string> => {
  const { list } = JSON.parse(await ownFile('trust.json')) as {
    readonly list: { readonly payload: string }
  }
  return Buffer.from(list.payload, 'base64').toString()
}
const tagOf = async (client: RegistryClient, tag: string): Promise<unknown> => {
  const answer = await client.request('GET', `/v2/team/app/manifests/${tag}`)
  return answer.status === 200 ? answer.headers['docker-content-digest'] : answer.status
}

/** Pulls by new log-ins, and by one that goes on, until it is told to stop. */
function startPulling() {
  const failures: unknown[] = []
  let pulls = 0
  let isOver = false
  const kept = edge.client(robot, 'bearer')
  const pull = async (): Promise<void> => {
    while (!isOver) {
      for (const client of [kept, edge.client(robot, 'bearer')]) {
        const answer = await tagOf(client, 'v0')
        if (typeof answer !== 'string') failures.push(answer)
        pulls++
      }
      // A log-in costs the primary a good part of a core.
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
}

test('every key takes the place of the one before, and no pull fails', async () => {
  const stop = startPulling()
  const client = edge.client(robot, 'bearer')
  let moved = 0
  /** What is pushed now reaches the edge by its log. */
  const logComes = async (): Promise<void> => {
    const image = createImage({ seed: `moved ${++moved}` })
    await pushImage(pusher, 'team/app', image, 'moving')
    await waitFor(
      'a moved tag',
      async () =>
        (await tagOf(client, 'moving')) === image.manifest.digest &&
        (await edge.metric('outport_edge_log_fresh')) === 1,
    )
  }

  const jwt = await rotate('jwt')
  assert.deepEqual((await keysOf('jwt')).map(({ state }) => state).sort(), ['active', 'retired'])
  const log = await rotate('log')
  await logComes()
  assert.ok((await trustOfEdge()).includes(log.id))
  const retired = (await keysOf('log')).find(({ state }) => state === 'retired')
  await api('DELETE', `/keys/${retired?.id ?? ''}`)
  await logComes()

  const ca = await rotate('edge-ca')
  await waitFor('a certificate of the new CA', async () => {
    const issuer = new X509Certificate(await ownFile('edge-ca.pem'))
    const own = new X509Certificate(await ownFile('certificate.pem'))
    const fingerprint = issuer.fingerprint256.replaceAll(':', '').toLowerCase()
    return fingerprint === ca.fingerprint && own.checkIssued(issuer)
  })
  await logComes()

  const root = await rotate('root')
  await logComes()
  await waitFor('the new root', async () => (await trustOfEdge()).includes(root.id))
  await stop()
  assert.notEqual(jwt.id, (await keysOf('jwt')).find(({ state }) => state === 'retired')?.id)
})

test('an edge that was away while roots took each other’s place comes to believe the last one', async () => {
  await edge.stop()
  await rotate('root')
  const root = await rotate('root')
  await rotate('log')
  edge = await stand.startEdge(ending, { data: edge.data })
  assert.ok((await trustOfEdge()).includes(root.id))
})

test('a key that signs is not ended, nor is one rotated that does not sign yet', async () => {
  const active = await activeOf('log')
  const status = async (method: string, path: string, body: object) =>
    (await askApi(pusher, method, path, body)).status
  assert.equal(await status('DELETE', `/keys/${active?.id ?? ''}`, {}), 412)
  await api('POST', '/keys/rotate', { purpose: 'jwt' })
  assert.equal(await status('POST', '/keys/rotate', { purpose: 'jwt' }), 409)
  const at = (await api('POST', '/keys/rotate', { purpose: 'log', at_once: true })) as ShownKey
  assert.equal(at.state, 'active')
  const audited = await stand.primary.records
    .selectFrom('audit')
    .select('operation')
    .where('resource_type', '=', 'key')
    .execute()
  assert.ok(audited.length >= 7)
})

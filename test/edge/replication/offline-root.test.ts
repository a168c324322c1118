import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { callApi } from '../../kit/api.ts'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { createImage, pushImage } from '../../kit/images.ts'
import { createOfflineRoot, type ShownPending } from '../../kit/offline-root.ts'
import type { Credentials, RegistryClient } from '../../kit/registry-client.ts'

interface ShownKey {
  readonly id: string
  readonly state: string
  readonly fingerprint: string
}

let stand: FedStand
let edge: TestEdge
let pusher: RegistryClient
let robot: Credentials
let ending: Pick<TestContext, 'after'>
const root = createOfflineRoot()

before(async (t) => {
  ending = t as unknown as TestContext
  const scopes = { one: ['*'], late: ['*'] }
  stand = await startFedStand(ending, { scopes, primary: { keys: { ahead: '1s' } } })
  const { primary } = stand
  edge = await stand.startEdge(ending)
  pusher = primary.client(primary.admin)
  await primary.createProject('team', { isPublic: false })
  robot = await primary.createRobot('team', 'puller')
  await pushImage(pusher, 'team/app', createImage({ seed: 'first' }), 'v0')
})

const api = async (method: string, path: string, body?: object): Promise<unknown> => {
  const answer = await callApi(pusher, method, path, body)
  return answer.body.length === 0 ? undefined : answer.json()
}
const signNow = async (): Promise<void> => {
  const pending = (await api('GET', '/keys/pending')) as ShownPending
  await api('POST', '/keys/lists', root.sign(pending))
}
const rotateAndSign = async (purpose: string): Promise<ShownKey> => {
  const key = (await api('POST', '/keys/rotate', { purpose })) as ShownKey
  await signNow()
  await waitFor(`the ${purpose} key`, async () => {
    const keys = (await api('GET', '/keys')) as readonly ShownKey[]
    return keys.find(({ id }) => id === key.id)?.state === 'active'
  })
  return key
}
const ownFile = (of: TestEdge, name: string) =>
  readFile(join(of.data, 'edge', 'own-identity', name), 'utf8')
const trustOf = async (of: TestEdge): Promise<string> => {
  const { list } = JSON.parse(await ownFile(of, 'trust.json')) as {
    readonly list: { readonly payload: string }
  }
  return Buffer.from(list.payload, 'base64').toString()
}
const tagOf = async (client: RegistryClient, tag: string): Promise<unknown> => {
  const answer = await client.request('GET', `/v2/team/app/manifests/${tag}`)
  return answer.status === 200 ? answer.headers['docker-content-digest'] : answer.status
}
const fingerprintOf = (certificate: X509Certificate) =>
  certificate.fingerprint256.replaceAll(':', '').toLowerCase()

/** Pulls by one log-in until it is told to stop. */
function startPulling() {
  const failures: unknown[] = []
  let pulls = 0
  let isOver = false
  const client = edge.client(robot, 'bearer')
  const pulling = (async () => {
    while (!isOver) {
      const answer = await tagOf(client, 'v0')
      if (typeof answer !== 'string') failures.push(answer)
      pulls++
      // The rest of a core is for what is looked at.
      await delay(50)
    }
  })()
  return async () => {
    isOver = true
    await pulling
    assert.deepEqual(failures, [])
    assert.ok(pulls > 10)
  }
}

let moved = 0
/** What is pushed now reaches the edge by its log. */
async function logComes(): Promise<void> {
  const client = edge.client(robot, 'bearer')
  const image = createImage({ seed: `moved ${++moved}` })
  await pushImage(pusher, 'team/app', image, 'moving')
  await waitFor(
    'a moved tag',
    async () =>
      (await tagOf(client, 'moving')) === image.manifest.digest &&
      (await edge.metric('outport_edge_log_fresh')) === 1,
  )
}

test('an edge follows the root to where it is kept offline, and on through rotations, with no failed pull', async () => {
  const stop = startPulling()
  await api('POST', '/keys/root', { jwk: root.jwk })
  await signNow()
  const { x = '' } = root.jwk
  await waitFor('the root at the edge', async () => (await trustOf(edge)).includes(x))
  await logComes()

  const log = await rotateAndSign('log')
  await logComes()
  assert.ok((await trustOf(edge)).includes(log.id))
  const keys = (await api('GET', '/keys')) as readonly (ShownKey & { readonly purpose: string })[]
  const retired = keys.find(({ purpose, state }) => purpose === 'log' && state === 'retired')
  await api('DELETE', `/keys/${retired?.id ?? ''}`)
  await logComes()
  await signNow()
  await waitFor(
    'the key that is gone',
    async () => !(await trustOf(edge)).includes(retired?.id ?? ''),
  )
  await logComes()
  await stop()
})

test('an edge that comes after the CA was rotated gets a certificate by the new one, once', async () => {
  const ca = await rotateAndSign('edge-ca')
  await logComes()
  const late = await stand.startEdge(ending, { id: 'late' })
  const certificate = await ownFile(late, 'certificate.pem')
  const issuer = new X509Certificate(await ownFile(late, 'edge-ca.pem'))
  assert.equal(fingerprintOf(issuer), ca.fingerprint)
  assert.ok(new X509Certificate(certificate).checkIssued(issuer))
  await late.stop()
  const again = await stand.startEdge(ending, { id: 'late', data: late.data })
  assert.equal(await ownFile(again, 'certificate.pem'), certificate)
  await again.stop()
})

test('an edge goes on in an epoch that the root announced from where it is kept', async () => {
  const pending = (await api('GET', '/keys/pending?epoch=next')) as ShownPending
  await api('POST', '/keys/epoch', { force: true, list: root.sign(pending) })
  await waitFor('the epoch at the edge', async () => (await trustOf(edge)).includes('"epoch":2'))
  await logComes()
})

test('an edge that was away while the root moved, and moved back, comes to believe the last one', async () => {
  await edge.stop()
  const log = await rotateAndSign('log')
  const made = (await api('POST', '/keys/rotate', { purpose: 'root' })) as ShownKey
  await signNow()
  edge = await stand.startEdge(ending, { data: edge.data })
  const trust = await trustOf(edge)
  assert.ok(trust.includes(made.id) && trust.includes(log.id))
  await logComes()
})

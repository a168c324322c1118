import assert from 'node:assert/strict'
import { before, test, type TestContext } from 'node:test'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import {
  isCertifiedBy,
  ownFile,
  startKeyStand,
  trustOf,
  type KeyStand,
  type ShownKey,
} from '../../kit/key-stand.ts'
import { createOfflineRoot, type ShownPending } from '../../kit/offline-root.ts'

let stand: KeyStand
let edge: TestEdge
let ending: Pick<TestContext, 'after'>
const root = createOfflineRoot()

before(async (t) => {
  ending = t as unknown as TestContext
  stand = await startKeyStand(ending, { scopes: { one: ['*'], late: ['*'] } })
  edge = await stand.startEdge(ending)
})

const signNow = async (): Promise<void> => {
  const pending = (await stand.api('GET', '/keys/pending')) as ShownPending
  await stand.api('POST', '/keys/lists', root.sign(pending))
}

test('an edge follows the root to where it is kept offline, and on through rotations, with no failed pull', async () => {
  const kept = edge.client(stand.robot, 'bearer')
  const stop = stand.startPulling(() => [kept])
  await stand.api('POST', '/keys/root', { jwk: root.jwk })
  await signNow()
  const { x = '' } = root.jwk
  await waitFor('the root at the edge', async () => (await trustOf(edge)).includes(x))
  await stand.logComes(edge)

  const log = await stand.rotate('log', signNow)
  await stand.logComes(edge)
  assert.ok((await trustOf(edge)).includes(log.id))
  const retired = (await stand.keysOf('log')).find(({ state }) => state === 'retired')
  await stand.api('DELETE', `/keys/${retired?.id ?? ''}`)
  await stand.logComes(edge)
  await signNow()
  await waitFor(
    'the key that is gone',
    async () => !(await trustOf(edge)).includes(retired?.id ?? ''),
  )
  await stand.logComes(edge)
  await stop()
})

test('an edge that comes after the CA was rotated gets a certificate by the new one, once', async () => {
  const ca = await stand.rotate('edge-ca', signNow)
  await stand.logComes(edge)
  const late = await stand.startEdge(ending, { id: 'late' })
  const certificate = await ownFile(late, 'certificate.pem')
  assert.ok(await isCertifiedBy(late, ca))
  await late.stop()
  const again = await stand.startEdge(ending, { id: 'late', data: late.data })
  assert.equal(await ownFile(again, 'certificate.pem'), certificate)
  await again.stop()
})

test('an edge goes on in an epoch that the root announced from where it is kept', async () => {
  const pending = (await stand.api('GET', '/keys/pending?epoch=next')) as ShownPending
  await stand.api('POST', '/keys/epoch', { force: true, list: root.sign(pending) })
  await waitFor('the epoch at the edge', async () => (await trustOf(edge)).includes('"epoch":2'))
  await stand.logComes(edge)
})

test('an edge that was away while the root moved, and moved back, comes to believe the last one', async () => {
  await edge.stop()
  const log = await stand.rotate('log', signNow)
  const made = (await stand.api('POST', '/keys/rotate', { purpose: 'root' })) as ShownKey
  await signNow()
  edge = await stand.startEdge(ending, { data: edge.data })
  const trust = await trustOf(edge)
  assert.ok(trust.includes(made.id) && trust.includes(log.id))
  await stand.logComes(edge)
})

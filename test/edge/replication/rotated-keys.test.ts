import assert from 'node:assert/strict'
import { before, test, type TestContext } from 'node:test'
import { askApi } from '../../kit/api.ts'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import {
  isCertifiedBy,
  startKeyStand,
  trustOf,
  type KeyStand,
  type ShownKey,
} from '../../kit/key-stand.ts'

let stand: KeyStand
let edge: TestEdge
let ending: Pick<TestContext, 'after'>

before(async (t) => {
  ending = t as unknown as TestContext
  stand = await startKeyStand(ending)
  edge = await stand.startEdge(ending)
})

test('every key takes the place of the one before, and no pull fails', async () => {
  const kept = edge.client(stand.robot, 'bearer')
  const stop = stand.startPulling(() => [kept, edge.client(stand.robot, 'bearer')])

  const jwt = await stand.rotate('jwt')
  assert.deepEqual((await stand.keysOf('jwt')).map(({ state }) => state).sort(), [
    'active',
    'retired',
  ])
  const log = await stand.rotate('log')
  await stand.logComes(edge)
  assert.ok((await trustOf(edge)).includes(log.id))
  const retired = (await stand.keysOf('log')).find(({ state }) => state === 'retired')
  await stand.api('DELETE', `/keys/${retired?.id ?? ''}`)
  await stand.logComes(edge)

  const ca = await stand.rotate('edge-ca')
  await waitFor('a certificate of the new CA', () => isCertifiedBy(edge, ca))
  await stand.logComes(edge)

  const root = await stand.rotate('root')
  await stand.logComes(edge)
  await waitFor('the new root', async () => (await trustOf(edge)).includes(root.id))
  await stop()
  assert.notEqual(jwt.id, (await stand.keysOf('jwt')).find(({ state }) => state === 'retired')?.id)
})

test('an edge that was away while roots took each other’s place comes to believe the last one', async () => {
  await edge.stop()
  await stand.rotate('root')
  const root = await stand.rotate('root')
  await stand.rotate('log')
  edge = await stand.startEdge(ending, { data: edge.data })
  assert.ok((await trustOf(edge)).includes(root.id))
})

test('a key that signs is not ended, nor is one rotated that does not sign yet', async () => {
  const active = await stand.activeOf('log')
  const status = async (method: string, path: string, body: object) =>
    (await askApi(stand.pusher, method, path, body)).status
  assert.equal(await status('DELETE', `/keys/${active?.id ?? ''}`, {}), 412)
  await stand.api('POST', '/keys/rotate', { purpose: 'jwt' })
  assert.equal(await status('POST', '/keys/rotate', { purpose: 'jwt' }), 409)
  const at = (await stand.api('POST', '/keys/rotate', {
    purpose: 'log',
    at_once: true,
  })) as ShownKey
  assert.equal(at.state, 'active')
  const audited = await stand.primary.records
    .selectFrom('audit')
    .select('operation')
    .where('resource_type', '=', 'key')
    .execute()
  assert.ok(audited.length >= 7)
})

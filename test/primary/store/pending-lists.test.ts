import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test, type TestContext } from 'node:test'
import { openCurrentKeys } from '../../../primary/events/current-keys.ts'
import { createKeyRotation } from '../../../primary/store/key-rotation.ts'
import { createPendingLists } from '../../../primary/store/pending-lists.ts'
import type { PendingList } from '../../../primary/store/trust.ts'
import { ApiError } from '../../../shared/api/errors.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { createSecrets } from '../../../shared/trust/secrets.ts'
import { payloadOf, signPayload, statementTypes } from '../../../shared/trust/statement.ts'
import { createOfflineRoot, type OfflineRoot } from '../../kit/offline-root.ts'
import { createTestDatabase } from '../../kit/postgres.ts'

const log = createLogger({ level: 'error', write: () => undefined })
const deed = { actor: { username: 'admin', address: '' }, now: new Date() }

/** An installation whose root is kept offline, and two primaries of it. */
async function createStand(t: TestContext) {
  const { records } = await createTestDatabase(t)
  const options = { issuer: 'here', secrets: createSecrets(randomBytes(32)) }
  const open = () => openCurrentKeys(records, { ...options, log })
  const [one, other] = [await open(), await open()]
  const rotation = createKeyRotation(records, options)
  const lists = createPendingLists(records, options)
  const root = createOfflineRoot()
  const { id } = await rotation.addOfflineRoot(root.jwk, deed)
  await lists.take(signed(await waiting(), { root, id }), deed)
  async function waiting(): Promise<PendingList> {
    const pending = await lists.get()
    assert.ok(pending)
    return pending
  }
  return { records, rotation, lists, primaries: [one, other], root: { root, id }, waiting }
}

function signed(
  { list }: PendingList,
  { root, id }: { readonly root: OfflineRoot; readonly id: string },
) {
  const key = { kid: id, privateKey: root.privateKey }
  return signPayload(statementTypes.trust, payloadOf(list), key)
}

test('a list comes into force once, whatever else happens to the keys at that moment', async (t) => {
  const { rotation, lists, primaries, root, waiting } = await createStand(t)
  for (const at of [1, 2, 3]) {
    const now = new Date(Date.now() + at)
    await rotation.begin('log', { atOnce: false }, { ...deed, now })
    const pending = await waiting()
    const list = signed(pending, root)
    const takes = [1, 2, 3].map(() => lists.take(list, deed))
    const others = [
      ...primaries.map((keys) => keys.refresh()),
      rotation.promote(new Date(0), now),
      rotation.forget('log', new Date(0), now),
    ]
    const outcomes = await Promise.allSettled(takes)
    await Promise.all(others)
    const failures = outcomes.filter((outcome) => outcome.status === 'rejected')
    assert.equal(failures.length, 2)
    for (const { reason } of failures as readonly PromiseRejectedResult[])
      assert.ok(reason instanceof ApiError && reason.code === 'CONFLICT', String(reason))
    await Promise.all(primaries.map((keys) => keys.refresh()))
    for (const keys of primaries) {
      assert.deepEqual(keys.trust().list, pending.list)
      assert.equal(keys.waitsForRoot(), false)
    }
    assert.equal(await rotation.promote(new Date(Date.now() + 1000), now), true)
    assert.equal(await lists.get(), undefined, 'what it named signs, and is no news')
  }
})

test('a key that nobody named does not sign, however long it waits', async (t) => {
  const { rotation, lists, root, waiting } = await createStand(t)
  const { id } = await rotation.begin('log', { atOnce: false }, deed)
  await rotation.begin('jwt', { atOnce: false }, deed)
  const later = new Date(Date.now() + 86_400_000)
  assert.equal(await rotation.promote(later, later), true)
  const stateOf = async () => (await rotation.list()).find((key) => key.id === id)?.state
  assert.equal(await stateOf(), 'next')
  await lists.take(signed(await waiting(), root), deed)
  assert.equal(await rotation.promote(later, later), true)
  assert.equal(await stateOf(), 'active')
})

test('only a root may lie elsewhere', async (t) => {
  const { records } = await createStand(t)
  const rows = await records.selectFrom('keys').select(['purpose', 'private_sealed']).execute()
  assert.deepEqual(
    rows.filter((row) => row.private_sealed === null).map(({ purpose }) => purpose),
    ['root'],
  )
  for (const purpose of ['jwt', 'log', 'ca'] as const) {
    const values = { id: `a ${purpose}`, purpose, algorithm: 'ES256', public_jwk: '{}' } as const
    await assert.rejects(
      records
        .insertInto('keys')
        .values({
          ...values,
          private_sealed: null,
          state: 'next',
          created_at: deed.now,
          changed_at: deed.now,
        })
        .execute(),
      /keys_offline/,
    )
  }
})

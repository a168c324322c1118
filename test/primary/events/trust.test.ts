import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { openCurrentKeys } from '../../../primary/events/current-keys.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { createChainReader } from '../../../shared/replication/chain.ts'
import { openTrustList, publicKeyOf, type TrustedKey } from '../../../shared/trust/trust-list.ts'
import { createSecrets } from '../../../shared/trust/secrets.ts'
import { waitFor } from '../../kit/clock.ts'
import { createTestDatabase } from '../../kit/postgres.ts'
import { startTestPrimary } from '../../kit/primary.ts'

const log = createLogger({ level: 'error', write: () => undefined })

test('a running primary signs its log by a key that its root names', async () => {
  const primary = await startTestPrimary({})
  await primary.createProject('signed', { isPublic: false })
  const answer = await fetch(new URL('/service/trust', primary.url))
  const text = await answer.text()
  assert.ok(!text.includes('"d"'), 'no private key')
  const { root, list: envelope } = JSON.parse(text) as { root: TrustedKey; list: unknown }
  const list = openTrustList(envelope, { root })
  assert.equal(list.version, 1)
  const keys = new Map(list.log.map((key) => [key.id, publicKeyOf(key)]))
  const { records } = primary
  const lastBatch = () =>
    records.selectFrom('event_batches').selectAll().orderBy('last_seq', 'desc').executeTakeFirst()
  await waitFor('the project to be in the log', async () => {
    const rows = await records.selectFrom('events').select('body').execute()
    return rows.some(({ body }) => body.includes('"signed"'))
  })
  const batch = await lastBatch()
  assert.ok(batch)
  const rows = await records
    .selectFrom('events')
    .selectAll()
    .where('seq', '<=', batch.last_seq)
    .orderBy('seq')
    .execute()
  const reader = createChainReader({ epoch: list.epoch, seq: 0, hash: Buffer.alloc(32) }, (kid) =>
    keys.get(kid),
  )
  for (const { seq, stream, body, body_hash } of rows)
    reader.take({ seq, stream, bodyHash: body_hash.toString('hex') }, body)
  reader.close(JSON.parse(batch.envelope))
  assert.equal(reader.head.seq, batch.last_seq)
})

test('primaries that start together agree on one list, and a restart says nothing new', async (t) => {
  const { records } = await createTestDatabase(t)
  const secrets = createSecrets(randomBytes(32))
  const open = () => openCurrentKeys(records, { secrets, issuer: 'here', log })
  const all = await Promise.all([open(), open(), open()])
  const again = await open()
  assert.deepEqual(new Set([...all, again].map((keys) => keys.trust().list.version)), new Set([1]))
  assert.equal(new Set([...all, again].map((keys) => keys.trust().root.id)).size, 1)
})

test('a new epoch is announced by a list of its own', async (t) => {
  const { records } = await createTestDatabase(t)
  const secrets = createSecrets(randomBytes(32))
  const open = () => openCurrentKeys(records, { secrets, issuer: 'here', log })
  const before = (await open()).trust()
  await records.updateTable('event_head').set({ epoch: 2 }).execute()
  const after = (await open()).trust()
  assert.deepEqual([before.list.epoch, after.list.epoch], [1, 2])
  assert.deepEqual([before.list.version, after.list.version], [1, 101])
  assert.equal(openTrustList(after.envelope, { root: before.root, after: 1 }).version, 101)
})

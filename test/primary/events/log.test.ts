import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { sql } from 'kysely'
import { startRelay } from '../../../primary/events/relay.ts'
import { createEvents, type Events } from '../../../primary/store/events.ts'
import { appendEvents } from '../../../primary/store/outbox.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { createChainReader } from '../../../shared/replication/chain.ts'
import type { EventFact } from '../../../shared/replication/events.ts'
import { createLogKey } from '../../kit/log-keys.ts'
import { createTestDatabase, type TestDatabase } from '../../kit/postgres.ts'

const log = createLogger({ level: 'error', write: () => undefined })
const { sign, keyOf } = createLogKey()
const options = { sign, log, pollMs: 10, retainMs: 60_000, now: () => new Date() }

/** A fact about one of several subjects; the user's name carries the order of its changes. */
const fact = (subject: number, turn: number): EventFact => ({
  type: 'edge',
  edgeId: `edge-${subject}`,
  name: String(turn),
  site: '',
  region: '',
  labels: {},
  scope: '*',
  suspended: false,
})

async function readAll(events: Events) {
  const all = []
  for (let seq = 0; ;) {
    const batch = await events.readAfter(seq)
    if (batch.length === 0) return all
    all.push(...batch)
    seq = batch.at(-1)?.seq ?? seq
  }
}

/** Changes a row and says so, the way every store does: the row's lock is held when the outbox id is taken. */
async function change({ records }: TestDatabase, subject: number): Promise<void> {
  await records.transaction().execute(async (trx) => {
    const { rows } = await sql<{ value: string }>`
      UPDATE settings SET value = (value::int + 1)::text WHERE name = ${`subject-${subject}`} RETURNING value`.execute(
      trx,
    )
    await appendEvents(trx, [fact(subject, Number(rows[0]?.value))], new Date())
  })
}

async function withSubjects(t: TestContext, count: number): Promise<TestDatabase> {
  const database = await createTestDatabase(t, { poolSize: 20 })
  for (let subject = 0; subject < count; subject++) {
    await sql`INSERT INTO settings VALUES (${`subject-${subject}`}, '0')`.execute(database.records)
  }
  return database
}

test("with many writers and two relays every event is numbered once, densely, and in its subject's order", async (t) => {
  const database = await withSubjects(t, 4)
  const events = createEvents(database.records)
  const relays = [startRelay({ events, ...options }), startRelay({ events, ...options })]
  const writers = Array.from({ length: 16 }, async (_, writer) => {
    for (let round = 0; round < 12; round++) await change(database, (writer + round) % 4)
  })
  await Promise.all(writers)
  for (const relay of relays) relay.wake()
  while ((await events.head()).seq < 16 * 12) await sleep(5)
  await Promise.all(relays.map((relay) => relay.stop()))

  const all = await readAll(events)
  assert.deepEqual(
    all.map(({ seq }) => seq),
    Array.from({ length: 16 * 12 }, (_, index) => index + 1),
  )
  const turns = new Map<string, number>()
  for (const { body } of all) {
    assert.equal(body.fact.type, 'edge')
    assert.ok(body.fact.type === 'edge')
    const expected = (turns.get(body.fact.edgeId) ?? 0) + 1
    assert.equal(Number(body.fact.name), expected)
    turns.set(body.fact.edgeId, expected)
  }
  assert.equal(await events.waiting(), false)
})

test("a transaction that commits late is not lost, and its subject's order holds", async (t) => {
  const database = await withSubjects(t, 2)
  const events = createEvents(database.records)
  const late = Promise.withResolvers<undefined>()
  const taken = Promise.withResolvers<undefined>()
  const slow = database.records.transaction().execute(async (trx) => {
    await appendEvents(trx, [fact(0, 1)], new Date())
    taken.resolve(undefined)
    await late.promise
  })
  await taken.promise
  await change(database, 1)
  await events.number(sign)
  assert.equal((await events.head()).seq, 1)
  late.resolve(undefined)
  await slow
  await events.number(sign)
  assert.equal((await readAll(events)).length, 2)
})

test('a relay that dies in the middle of a batch loses nothing and numbers nothing twice', async (t) => {
  const database = await withSubjects(t, 1)
  const events = createEvents(database.records)
  for (let round = 0; round < 5; round++) await change(database, 0)
  const dying = await database.connect()
  dying.on('error', () => undefined)
  await dying.query('BEGIN')
  await dying.query('SELECT seq FROM event_head FOR UPDATE')
  await dying.query('DELETE FROM outbox')
  const waiting = events.number(sign)
  const { rows } = await dying.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')
  await sql`SELECT pg_terminate_backend(${rows[0]?.pid ?? 0})`.execute(database.records)
  assert.deepEqual(await waiting, { moved: 5, full: false })
  assert.equal((await readAll(events)).length, 5)
})

test('every batch is signed, and its signature covers every body before it', async (t) => {
  const database = await withSubjects(t, 1)
  const events = createEvents(database.records)
  for (const rounds of [3, 1]) {
    for (let round = 0; round < rounds; round++) await change(database, 0)
    await events.number(sign)
  }
  const rows = await database.records.selectFrom('events').selectAll().orderBy('seq').execute()
  const batches = await database.records
    .selectFrom('event_batches')
    .selectAll()
    .orderBy('last_seq')
    .execute()
  assert.deepEqual(
    batches.map(({ last_seq }) => last_seq),
    [3, 4],
  )
  const reader = createChainReader({ epoch: 1, seq: 0, hash: Buffer.alloc(32) }, keyOf)
  for (const { seq, stream, body, body_hash: bodyHash, header_hash: headerHash } of rows) {
    reader.take({ seq, stream, bodyHash: bodyHash.toString('hex') }, body)
    const batch = batches.find(({ last_seq }) => last_seq === seq)
    if (batch === undefined) continue
    reader.close(JSON.parse(batch.envelope))
    assert.deepEqual(reader.head, { epoch: 1, seq, hash: headerHash })
  }
  assert.equal(reader.head.seq, 4)
  assert.equal(new Set(rows.map(({ body }) => body)).size, 4)
})

test('events older than asked are trimmed', async (t) => {
  const database = await withSubjects(t, 1)
  const events = createEvents(database.records)
  await change(database, 0)
  await events.number(sign)
  assert.equal(await events.trim(new Date(0)), 0)
  assert.equal(await events.trim(new Date(Date.now() + 60_000)), 1)
  assert.equal((await events.head()).seq, 1)
  const { batches } = await database.records
    .selectFrom('event_batches')
    .select((row) => row.fn.countAll<number>().as('batches'))
    .executeTakeFirstOrThrow()
  assert.equal(Number(batches), 0)
})

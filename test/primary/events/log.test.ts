import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test, type TestContext } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { sql } from 'kysely'
import { startRelay } from '../../../primary/events/relay.ts'
import { createEvents, headerHash, type Events } from '../../../primary/store/events.ts'
import { appendEvents } from '../../../primary/store/outbox.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import type { EventFact } from '../../../shared/replication/events.ts'
import { createTestDatabase, type TestDatabase } from '../../kit/postgres.ts'

const log = createLogger({ level: 'error', write: () => undefined })
const options = { log, pollMs: 10, retainMs: 60_000, now: () => new Date() }

/** A fact about one of several subjects; the user's name carries the order of its changes. */
const fact = (subject: number, turn: number): EventFact => ({
  type: 'edge',
  edgeId: `edge-${subject}`,
  name: String(turn),
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
  await events.number()
  assert.equal((await events.head()).seq, 1)
  late.resolve(undefined)
  await slow
  await events.number()
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
  const waiting = events.number()
  const { rows } = await dying.query<{ pid: number }>('SELECT pg_backend_pid() AS pid')
  await sql`SELECT pg_terminate_backend(${rows[0]?.pid ?? 0})`.execute(database.records)
  assert.deepEqual(await waiting, { moved: 5, full: false })
  assert.equal((await readAll(events)).length, 5)
})

test('the chain of headers covers every body', async (t) => {
  const database = await withSubjects(t, 1)
  const events = createEvents(database.records)
  for (let round = 0; round < 3; round++) await change(database, 0)
  await events.number()
  const rows = await database.records.selectFrom('events').selectAll().orderBy('seq').execute()
  let previous: Buffer = Buffer.alloc(32)
  for (const row of rows) {
    const bodyHash = createHash('sha256').update(row.body).digest()
    assert.deepEqual(row.body_hash, bodyHash)
    previous = headerHash({ epoch: 1, seq: row.seq, stream: row.stream, bodyHash, previous })
    assert.deepEqual(row.header_hash, previous)
  }
  assert.equal(new Set(rows.map(({ body }) => body)).size, 3)
})

test('events older than asked are trimmed', async (t) => {
  const database = await withSubjects(t, 1)
  const events = createEvents(database.records)
  await change(database, 0)
  await events.number()
  assert.equal(await events.trim(new Date(0)), 0)
  assert.equal(await events.trim(new Date(Date.now() + 60_000)), 1)
  assert.equal((await events.head()).seq, 1)
})

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test, type TestContext } from 'node:test'
import { sql } from 'kysely'
import { openCurrentKeys } from '../../../primary/events/current-keys.ts'
import { startHighWater } from '../../../primary/events/high-water.ts'
import { createPlaceCheck } from '../../../primary/events/shown-place.ts'
import type { StoreRecords } from '../../../primary/store/blobs.ts'
import { createEdgeStandings } from '../../../primary/store/edge-standings.ts'
import { createEdges } from '../../../primary/store/edges.ts'
import { createEvents } from '../../../primary/store/events.ts'
import { createLogMarks } from '../../../primary/store/log-mark.ts'
import { appendEvents } from '../../../primary/store/outbox.ts'
import { ApiError } from '../../../shared/api/errors.ts'
import type { LogHead } from '../../../shared/replication/chain.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { createSecrets } from '../../../shared/trust/secrets.ts'
import { createRosterEdge } from '../../kit/roster-edge.ts'
import { createTestRoot } from '../../kit/join-server.ts'
import { createLogKey } from '../../kit/log-keys.ts'
import { createTestDatabase } from '../../kit/postgres.ts'

const log = createLogger({ level: 'error', write: () => undefined })
const deed = { actor: { username: 'admin', address: '' }, now: new Date() }
const edge = createRosterEdge()

function memoryRecords(): StoreRecords {
  const records = new Map<string, Buffer>()
  return {
    async readRecord(name) {
      const value = records.get(name)
      return value && { value, tag: value.toString('hex') }
    },
    async writeRecord(name, value) {
      records.set(name, value)
      return true
    },
  }
}

/** A log with a mark, which a database from before may take the place of. */
async function createStand(t: TestContext) {
  const { records } = await createTestDatabase(t)
  const events = createEvents(records)
  const logKey = createLogKey()
  const trust = { issuer: 'here', secrets: createSecrets(randomBytes(32)) }
  await openCurrentKeys(records, { ...trust, log })
  // What is told of the keys is none of the log here.
  await records.deleteFrom('outbox').execute()
  const marks = createLogMarks(records, memoryRecords(), trust)
  const head = async (): Promise<LogHead> => {
    const row = await records
      .selectFrom('event_head')
      .select(['epoch', 'seq', 'header_hash as hash'])
      .executeTakeFirstOrThrow()
    return row
  }
  const start = async () => {
    const highWater = await startHighWater({
      marks,
      log,
      everyMs: 3_600_000,
      now: () => new Date(),
    })
    t.after(() => highWater.stop())
    return highWater
  }
  return {
    records,
    events,
    logKey,
    marks,
    head,
    start,
    async append(count = 1) {
      for (let n = 0; n < count; n++) {
        await records
          .transaction()
          .execute((trx) =>
            appendEvents(trx, [{ type: 'edge-deleted', edgeId: 'other' }], new Date()),
          )
        await events.number(logKey.sign)
      }
    },
    /** Puts an older copy of the log in its place. */
    async goBackTo({ epoch, seq, hash }: LogHead) {
      await sql`DELETE FROM event_batches WHERE last_seq > ${seq}`.execute(records)
      await sql`DELETE FROM events WHERE seq > ${seq}`.execute(records)
      await records.updateTable('event_head').set({ epoch, seq, header_hash: hash }).execute()
    },
  }
}

test('a database that is older than the mark is seen before anything is numbered, and goes on when that is accepted', async (t) => {
  const stand = await createStand(t)
  const { records, marks, events, logKey } = stand
  const rights = { scope: '*' as const, acceptsPeople: false }
  for (const id of ['gone', 'held', 'ended'])
    await createEdges(records).put(
      { id, name: id, ...rights },
      { secretHash: '', keepsKey: false, now: new Date() },
    )
  await stand.append(3)
  const backup = await stand.head()
  await stand.append(2)
  await records
    .updateTable('edges')
    .set({ deleted_at: new Date() })
    .where('id', '=', 'gone')
    .execute()
  await records.updateTable('edges').set({ suspended: true }).where('id', '=', 'held').execute()
  await createEdgeStandings(records).revoke('ended', deed)
  assert.equal((await marks.check(new Date())).behind, undefined)

  await stand.goBackTo(backup)
  await records
    .updateTable('edges')
    .set({ deleted_at: null, suspended: false, revoked_at: null })
    .execute()
  const highWater = await stand.start()
  assert.deepEqual(
    { ...highWater.behind(), since: '' },
    { epoch: 1, seq: backup.seq + 2, shownBy: 'the blob store', since: '' },
  )
  await stand.append()
  assert.equal((await stand.head()).seq, backup.seq, 'nothing is numbered')
  assert.equal(await events.trim(new Date(Date.now() + 60_000)), 0, 'nothing is removed')

  // What was given out since then is never given again, and who had lost his rights has not got them back.
  const { rows } = await sql<{ readonly id: number }>`
    SELECT nextval(pg_get_serial_sequence('projects', 'id')) AS id`.execute(records)
  assert.ok(Number(rows[0]?.id) > 1_000_000)
  const edges = await records
    .selectFrom('edges')
    .select(['id', 'deleted_at', 'suspended', 'revoked_at'])
    .orderBy('id')
    .execute()
  assert.deepEqual(
    edges.map(({ id, deleted_at: at, suspended, revoked_at: revokedAt }) => [
      id,
      at !== null,
      suspended,
      revokedAt !== null,
    ]),
    [
      ['ended', false, true, true],
      ['gone', true, false, false],
      ['held', false, true, false],
    ],
  )

  let announced = 0
  const state = await highWater.accept({ force: false }, deed, async () => {
    announced++
    assert.ok(highWater.behind() !== undefined, 'edges come in once the root has said so')
  })
  assert.deepEqual([state.epoch, state.seq, announced], [2, backup.seq, 1])
  assert.equal(highWater.behind(), undefined)
  await events.number(logKey.sign)
  const { epoch, seq } = await stand.head()
  assert.equal(epoch, 2)
  assert.ok(seq > backup.seq, 'what had waited is numbered')
  assert.equal((await marks.check(new Date())).behind, undefined)
  await assert.rejects(
    highWater.accept({ force: false }, deed, () => Promise.resolve()),
    (error) => error instanceof ApiError && error.code === 'CONFLICT',
  )
})

test('a log that went on after it was restored is seen by what is written in it', async (t) => {
  const stand = await createStand(t)
  await stand.append(2)
  const backup = await stand.head()
  await stand.append(2)
  await stand.marks.check(new Date())
  await stand.goBackTo(backup)
  await stand.append(5)
  assert.equal((await stand.marks.check(new Date())).behind?.seq, 4)
})

test('an edge shows what was lost by what the log key signed, and by nothing else', async (t) => {
  const stand = await createStand(t)
  const { logKey } = stand
  await stand.append(2)
  const backup = await stand.head()
  await stand.append(2)
  const { epoch, seq } = await stand.head()
  const proof = logKey.sign(await stand.head())
  const highWater = await stand.start()
  await highWater.stop()
  await stand.goBackTo(backup)
  const root = createTestRoot()
  const publicKey = logKey.keyOf(logKey.key.kid)
  assert.ok(publicKey)
  const jwk = publicKey.export({ format: 'jwk' })
  const listed = [{ id: logKey.key.kid, jwk }]
  const list = { version: 1, issuer: '', epoch: 1, root: root.trusted, log: listed, ca: [] }
  const check = createPlaceCheck({
    highWater,
    trust: () => ({
      root: root.trusted,
      list,
      envelope: { payloadType: '', payload: '', signatures: [] },
      rotations: [],
    }),
    isFed: () => false,
    place: () => ({ epoch: 1, seq: 2 }),
  })
  const applied = { epoch, seq }
  const stranger = createLogKey(logKey.key.kid)
  await check(edge, { applied: { epoch: 9, seq: 999 } })
  await check(edge, { applied, proof: stranger.sign({ ...backup, seq: 999 }) })
  await check(edge, { applied: backup, proof: logKey.sign(backup) })
  assert.equal(highWater.behind(), undefined, 'a number that nobody signed stops nothing')
  const isRefused = (error: unknown) => error instanceof ApiError && error.code === 'UNAVAILABLE'
  await assert.rejects(check(edge, { applied, proof }), isRefused)
  assert.equal(highWater.behind()?.shownBy, 'edge one')
  await assert.rejects(check(edge, { applied: backup }), isRefused, 'nor does another get a lease')
})

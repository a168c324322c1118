import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from 'kysely'
import { migrate } from '../../../primary/store/database.ts'
import { waitFor } from '../../kit/clock.ts'
import { createTestDatabase } from '../../kit/postgres.ts'

test('primaries that start together migrate once, and a second start changes nothing', async (t) => {
  const { records } = await createTestDatabase(t)
  const applied = async () =>
    (await sql`SELECT name FROM kysely_migration ORDER BY name`.execute(records)).rows
  const before = await applied()
  await Promise.all([migrate(records), migrate(records), migrate(records)])
  assert.notEqual(before.length, 0)
  assert.deepEqual(await applied(), before)
})

test('a database that a newer version wrote is refused in one line', async (t) => {
  const { records } = await createTestDatabase(t)
  await sql`INSERT INTO kysely_migration (name, timestamp) VALUES ('0099-later', now()::text)`.execute(
    records,
  )
  await assert.rejects(
    migrate(records),
    (error: Error) => /newer version/.test(error.message) && !error.message.includes('\n'),
  )
})

test('bigint is read as a number, and text is ordered bytewise', async (t) => {
  const { records } = await createTestDatabase(t)
  const { rows } = await sql<{ big: unknown }>`SELECT 9007199254740991::bigint AS big`.execute(
    records,
  )
  assert.equal(rows[0]?.big, Number.MAX_SAFE_INTEGER)
  const ordered = await sql<{ name: string }>`
    SELECT name FROM (VALUES ('a' COLLATE "C"), ('A'), ('_a'), ('a.b'), ('1')) AS v (name) ORDER BY name`.execute(
    records,
  )
  assert.deepEqual(
    ordered.rows.map(({ name }) => name),
    ['1', 'A', '_a', 'a', 'a.b'],
  )
})

test('a connection that breaks in the middle of a query fails that query, and nothing else', async (t) => {
  const { records } = await createTestDatabase(t)
  const failed = assert.rejects(sql`SELECT pg_sleep(60)`.execute(records))
  await waitFor('the query to run', async () => {
    const { rows } = await sql`
      SELECT pg_terminate_backend(pid) FROM pg_stat_activity
      WHERE datname = current_database() AND query LIKE 'SELECT pg_sleep%' AND state = 'active'`.execute(
      records,
    )
    return rows.length > 0
  })
  await failed
  // The pool may hand out the dying connection once more before it sees its end.
  await waitFor('the next query to be answered', () =>
    sql`SELECT 1`.execute(records).then(
      () => true,
      () => false,
    ),
  )
})

import { randomBytes } from 'node:crypto'
import { after, type TestContext } from 'node:test'
import { sql } from 'kysely'
import { openDatabase, type Database, type Records } from '../../primary/store/database.ts'
import { waitFor } from './clock.ts'
import {
  command,
  serverVariable,
  startTestServer,
  template,
  type SocketAddress,
  type TestServer,
} from './postgres-server.ts'

let own: Promise<TestServer> | undefined
// At the top: a hook that is registered inside a test belongs to that test.
after(async () => (await own)?.stop())

/** The run's server, or one of this file's own when it runs alone. */
async function findServer(): Promise<SocketAddress> {
  const given = process.env[serverVariable]
  if (given !== undefined) return JSON.parse(given) as SocketAddress
  own ??= startTestServer()
  return (await own).address
}

export interface TestDatabase extends Database {
  /** Where it is, for a second primary. */
  readonly address: SocketAddress
}

/** An empty, migrated database of the test's own; dropped when the test ends. */
export async function createTestDatabase(
  t: TestContext,
  { poolSize = 4 } = {},
): Promise<TestDatabase> {
  const server = await findServer()
  const name = `test_${randomBytes(8).toString('hex')}`
  await command(server, `CREATE DATABASE ${name} TEMPLATE ${template} STRATEGY FILE_COPY`)
  const address = { ...server, database: name }
  const database = await openDatabase({ address, poolSize })
  let closed: Promise<void> | undefined
  const close = () => (closed ??= database.close())
  t.after(async () => {
    await close()
    await command(server, `DROP DATABASE ${name} WITH (FORCE)`)
  })
  return { ...database, close, address }
}

/** Waits until a connection to this database waits for a lock that another one holds. */
export async function waitForLock(records: Records): Promise<void> {
  await waitFor('somebody to wait for a lock', async () => {
    const { rows } = await sql`
      SELECT 1 FROM pg_stat_activity
      WHERE datname = current_database() AND wait_event_type = 'Lock'`.execute(records)
    return rows.length > 0
  })
}

import { Kysely, PostgresDialect, sql } from 'kysely'
import { Migrator } from 'kysely/migration'
import pg from 'pg'
import { up as first } from './migrations/0001-first.ts'
import { up as labels } from './migrations/0002-labels.ts'
import { up as signedLog } from './migrations/0003-signed-log.ts'
import { up as enrolment } from './migrations/0004-enrolment.ts'
import { up as edgeStates } from './migrations/0005-edge-states.ts'
import { up as replication } from './migrations/0006-replication.ts'
import { up as peers } from './migrations/0007-peers.ts'
import { up as edgePulls } from './migrations/0008-edge-pulls.ts'
import { up as keys } from './migrations/0009-keys.ts'
import { up as preheats } from './migrations/0010-preheats.ts'
import { up as edgeStanding } from './migrations/0012-edge-standing.ts'
import { up as pieceLists } from './migrations/0013-piece-lists.ts'
import { up as offlineRoot } from './migrations/0014-offline-root.ts'
import { up as wantedLists } from './migrations/0015-wanted-lists.ts'
import type { Schema } from './schema.ts'

/** The records, as rooms are given them. */
export type Records = Kysely<Schema>

/** Where a PostgreSQL is: a URL, or the embedded one behind its socket folder. */
export type DatabaseAddress =
  | { readonly url: string }
  | {
      readonly socketFolder: string
      readonly user: string
      readonly password: string
      readonly database: string
    }

export interface DatabaseOptions {
  readonly address: DatabaseAddress
  /** Connections; at least 4, or requests wait for each other. */
  readonly poolSize: number
  /** A statement that runs longer than this many milliseconds is ended; 0: never. */
  readonly statementTimeoutMs?: number
  /** Told of each statement's milliseconds. */
  readonly onQuery?: (milliseconds: number) => void
  /** Told of a connection that broke while nobody used it; the pool replaces it. */
  readonly onIdleError?: (error: Error) => void
}

/** An open database; whoever opened it closes it. */
export interface Database {
  readonly records: Records
  /**
   * Runs the SQL of a library that brings its own, of several statements too, and gives what the driver answers: of
   * several a list.
   */
  query(text: string, values?: unknown[]): Promise<{ readonly rows: unknown[] }>
  /** A connection of its own outside the pool, for LISTEN; whoever asked for it ends it. */
  connect(): Promise<pg.Client>
  close(): Promise<void>
}

const oldestServer = 150_000
const migrations = {
  '0001-first': { up: first },
  '0002-labels': { up: labels },
  '0003-signed-log': { up: signedLog },
  '0004-enrolment': { up: enrolment },
  '0005-edge-states': { up: edgeStates },
  '0006-replication': { up: replication },
  '0007-peers': { up: peers },
  '0008-edge-pulls': { up: edgePulls },
  '0009-keys': { up: keys },
  '0010-preheats': { up: preheats },
  '0012-edge-standing': { up: edgeStanding },
  '0013-piece-lists': { up: pieceLists },
  '0014-offline-root': { up: offlineRoot },
  '0015-wanted-lists': { up: wantedLists },
}

/** Why a database cannot be used, in one line that says what to do. */
export class DatabaseError extends Error {
  override readonly name = 'DatabaseError'
}

/**
 * Connects, and checks that the server is new enough.
 * @throws DatabaseError, or what the driver throws when there is no such server
 */
export async function openDatabase(options: DatabaseOptions): Promise<Database> {
  const settings = clientSettings(options)
  const pool = new pg.Pool({ ...settings, max: options.poolSize, idleTimeoutMillis: 60_000 })
  // A connection that breaks while it is in use fails its query, and says so by an event too: without a listener
  // that event would end the process.
  pool.on('connect', (client) => client.on('error', () => undefined))
  let isClosing = false
  pool.on('error', (error) => {
    if (!isClosing) options.onIdleError?.(error)
  })
  const records: Records = new Kysely<Schema>({
    dialect: new PostgresDialect({ pool }),
    ...(options.onQuery && {
      log: (event) => options.onQuery?.(event.queryDurationMillis),
    }),
  })
  try {
    await checkServer(records)
  } catch (error) {
    await records.destroy()
    throw error
  }
  return {
    records,
    query: (text, values) => pool.query(text, values),
    async connect() {
      const client = new pg.Client(settings)
      await client.connect()
      return client
    },
    close() {
      isClosing = true
      return records.destroy()
    },
  }
}

/**
 * Brings the schema up to this version, under a lock, so that primaries which start together do it once.
 * @throws DatabaseError when a newer version has written the database
 */
export async function migrate(records: Records): Promise<void> {
  await refuseNewer(records)
  const migrator = new Migrator({
    db: records,
    provider: { getMigrations: () => Promise.resolve(migrations) },
  })
  const { error } = await migrator.migrateToLatest()
  if (error !== undefined)
    throw new DatabaseError('the database schema could not be brought up to date', { cause: error })
}

async function refuseNewer(records: Records): Promise<void> {
  const { rows } = await sql<{
    exists: boolean
  }>`SELECT to_regclass('kysely_migration') IS NOT NULL AS exists`.execute(records)
  if (rows[0]?.exists !== true) return
  const applied = await sql<{ name: string }>`SELECT name FROM kysely_migration`.execute(records)
  const unknown = applied.rows.find(({ name }) => !Object.hasOwn(migrations, name))
  if (unknown === undefined) return
  throw new DatabaseError(
    `the database was written by a newer version of Outport (its schema has ${unknown.name}): start that version, or restore a backup`,
  )
}

async function checkServer(records: Records): Promise<void> {
  const { rows } = await sql<{ version: number; name: string }>`
    SELECT current_setting('server_version_num')::int AS version, current_setting('server_version') AS name`.execute(
    records,
  )
  const [server] = rows
  if (server === undefined || server.version >= oldestServer) return
  throw new DatabaseError(`the database server is PostgreSQL ${server.name}: 15 or newer is needed`)
}

function clientSettings({
  address,
  statementTimeoutMs = 60_000,
}: DatabaseOptions): pg.ClientConfig {
  const place =
    'url' in address
      ? { connectionString: address.url }
      : {
          host: address.socketFolder,
          user: address.user,
          password: address.password,
          database: address.database,
        }
  return {
    ...place,
    application_name: 'outport',
    connectionTimeoutMillis: 10_000,
    statement_timeout: statementTimeoutMs,
    // For a server that hangs and ends nothing any more; one that is alive is always first.
    ...(statementTimeoutMs > 0 && { query_timeout: statementTimeoutMs + hungServerMs }),
    idle_in_transaction_session_timeout: 60_000,
    keepAlive: true,
    types: { getTypeParser },
  }
}

/** How long after its own limit a statement is given up here. */
const hungServerMs = 5_000

const bigintType = 20

/** Sequences and sizes stay under 2^53: bigint is read as a number. */
const getTypeParser = (id: number, format?: 'text' | 'binary'): ((value: string) => unknown) => {
  if (id === bigintType && format !== 'binary') return Number
  return pg.types.getTypeParser(id, format ?? 'text') as (value: string) => unknown
}

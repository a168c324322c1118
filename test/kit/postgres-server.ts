import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import pg from 'pg'
import { startJobs } from '../../primary/jobs/jobs.ts'
import { migrate, openDatabase, type DatabaseAddress } from '../../primary/store/database.ts'
import { startEmbeddedPostgres } from '../../primary/store/embedded-postgres.ts'
import { createLogger } from '../../shared/observability/log.ts'
import { fastestFolder } from './fastest-folder.ts'

/** The socket folder's address, as one environment variable: set by the global setup for all test processes. */
export const serverVariable = 'OUTPORT_TEST_POSTGRES'

export const template = 'outport_template'

export type SocketAddress = Extract<DatabaseAddress, { socketFolder: string }>

/** A server for tests, with a migrated template database. */
export interface TestServer {
  readonly address: SocketAddress
  stop(): Promise<void>
}

export async function startTestServer(): Promise<TestServer> {
  // Each test's database is hundreds of files: where they lie in memory they are made several times as fast.
  const folder = await mkdtemp(join(await fastestFolder(tmpdir()), 'outport-pg-'))
  const server = await startEmbeddedPostgres({ folder, startTimeoutMs: 60_000 })
  const { address } = server
  // Nothing of it outlives the run. What must survive a crash is tested on servers of its own.
  await command(address, 'ALTER SYSTEM SET fsync = off')
  await command(address, 'SELECT pg_reload_conf()')
  // A connection costs what makes a password hard to guess, and there are thousands.
  const password = pg.escapeLiteral(address.password)
  await command(address, `SET scram_iterations = 1; ALTER ROLE CURRENT_USER PASSWORD ${password}`)
  await command(address, `CREATE DATABASE ${template}`)
  const database = await openDatabase({ address: { ...address, database: template }, poolSize: 2 })
  await migrate(database.records)
  // Makes the queue's own tables.
  const jobs = await startJobs({ database, log: createLogger({ level: 'error' }) })
  await jobs.stop()
  await database.close()
  return {
    address,
    async stop() {
      await server.stop(10_000)
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** Runs one statement outside any pool. */
export async function command(
  { socketFolder, ...rest }: SocketAddress,
  text: string,
): Promise<void> {
  const client = new pg.Client({ host: socketFolder, ...rest })
  await client.connect()
  try {
    await client.query(text)
  } finally {
    await client.end()
  }
}

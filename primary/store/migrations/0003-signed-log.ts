import { sql, type Kysely } from 'kysely'

/** What is signed of the log, and what the root says of the keys that sign it. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

const statements = [
  `CREATE TABLE event_batches (last_seq bigint PRIMARY KEY, epoch integer NOT NULL, envelope text NOT NULL)`,
  `CREATE TABLE trust_lists (
    version integer PRIMARY KEY, envelope text NOT NULL, created_at timestamptz NOT NULL DEFAULT now())`,
]

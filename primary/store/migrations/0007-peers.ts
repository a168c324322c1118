import { sql, type Kysely } from 'kysely'

/** Where edges of one site reach each other. */
export async function up(database: Kysely<unknown>): Promise<void> {
  await sql`ALTER TABLE edges ADD COLUMN peer_url text NOT NULL DEFAULT ''`.execute(database)
}

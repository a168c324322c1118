import { sql, type Kysely } from 'kysely'

/** Large blobs have a list of their pieces, which is a blob too. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

const statements = [
  `ALTER TABLE blobs ADD COLUMN piece_list text COLLATE "C"`,
  // Those that have none yet, the smallest threshold that makes sense on.
  `CREATE INDEX blobs_unlisted ON blobs (size) WHERE piece_list IS NULL AND state = 'live' AND size > 1048576`,
]

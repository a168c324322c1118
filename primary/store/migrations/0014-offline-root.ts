import { sql, type Kysely } from 'kysely'

/** The root's private half may be kept elsewhere. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

const statements = [
  `ALTER TABLE keys ALTER COLUMN private_sealed DROP NOT NULL`,
  // What signs by itself must be here.
  `ALTER TABLE keys ADD CONSTRAINT keys_offline CHECK (private_sealed IS NOT NULL OR purpose = 'root')`,
]

import { sql, type Kysely } from 'kysely'

/** Keys that take each other's place, and a log that was found to be behind itself. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

const statements = [
  `ALTER TABLE keys ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now()`,
  // What shows that there was more of the log; null: nothing does.
  `ALTER TABLE event_head ADD COLUMN behind jsonb`,
]

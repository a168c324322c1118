import { sql, type Kysely } from 'kysely'

/** What edges last said of themselves, and a number for each. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

const statements = [
  // Small and never used again: a task of an execution is numbered by it.
  `ALTER TABLE edges ADD COLUMN number integer GENERATED ALWAYS AS IDENTITY`,
  `CREATE UNIQUE INDEX edges_number ON edges (number)`,
  `CREATE TABLE edge_states (
    edge_id text PRIMARY KEY REFERENCES edges, epoch integer NOT NULL, applied_seq bigint NOT NULL,
    held_seq bigint NOT NULL, waiting_bytes bigint NOT NULL, seen_at timestamptz NOT NULL, report jsonb NOT NULL)`,
]

import { sql, type Kysely } from 'kysely'

/** Which of an edge's reports of pulls are counted, and how many pulls it may still report. */
export async function up(database: Kysely<unknown>): Promise<void> {
  await sql`
    CREATE TABLE edge_pulls (
      edge_id text PRIMARY KEY REFERENCES edges, logs jsonb NOT NULL, applied_at timestamptz NOT NULL,
      allowance bigint NOT NULL)`.execute(database)
}

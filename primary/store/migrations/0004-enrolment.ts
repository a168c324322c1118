import { sql, type Kysely } from 'kysely'

/** Edges that join by a token: their keys, and where they are. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

const statements = [
  `ALTER TABLE edges
    ADD COLUMN site text NOT NULL DEFAULT '', ADD COLUMN region text NOT NULL DEFAULT '',
    ADD COLUMN labels jsonb NOT NULL DEFAULT '{}', ADD COLUMN suspended boolean NOT NULL DEFAULT false,
    ADD COLUMN public_key text`,
  // A key is one edge's alone.
  `CREATE UNIQUE INDEX edges_public_key ON edges (public_key) WHERE deleted_at IS NULL`,
  `CREATE TABLE join_tokens (
    id text PRIMARY KEY, secret_hash bytea NOT NULL, name text NOT NULL, scope jsonb NOT NULL,
    site text NOT NULL, region text NOT NULL, labels jsonb NOT NULL, accept_people boolean NOT NULL,
    expires_at timestamptz NOT NULL, created_at timestamptz NOT NULL DEFAULT now(),
    edge_id text REFERENCES edges)`,
]

import { sql, type Kysely } from 'kysely'

/** What an administrator, or the primary, made of an edge: it leaves, it gets nothing for now, or never again. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

const statements = [
  `ALTER TABLE edges
    ADD COLUMN draining boolean NOT NULL DEFAULT false,
    ADD COLUMN revoked_at timestamptz,
    ADD COLUMN standing_reason text NOT NULL DEFAULT '',
    ADD COLUMN configured boolean NOT NULL DEFAULT false`,
  // Every look-up that asks for edges that may read leaves revoked ones out by this.
  `ALTER TABLE edges ADD CONSTRAINT edges_revoked_reads_nothing CHECK (revoked_at IS NULL OR suspended)`,
  // The others say so themselves at the next start.
  `UPDATE edges SET configured = true WHERE public_key IS NULL`,
  // Its machine may join anew with the key that it has.
  `DROP INDEX edges_public_key`,
  `CREATE UNIQUE INDEX edges_public_key ON edges (public_key) WHERE deleted_at IS NULL AND revoked_at IS NULL`,
]

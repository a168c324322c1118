import { sql, type Kysely } from 'kysely'

/** What rules bring to edges is listed piece by piece from a smaller size on than other blobs. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

const statements = [
  // Not a column of blobs: who pushes a blob that is there already would wait for the whole transaction that sets it.
  `CREATE TABLE wanted_lists (
    digest text COLLATE "C" PRIMARY KEY, wanted_at timestamptz NOT NULL DEFAULT now())`,
  `CREATE INDEX wanted_lists_wanted_at ON wanted_lists (wanted_at)`,
  // What rules selected before.
  `WITH RECURSIVE needed AS (
    SELECT m.id, m.repository_id FROM rule_selections s
      JOIN manifests m USING (repository_id, digest) WHERE m.deleted_at IS NULL AND NOT s.stopped
    UNION
    SELECT m.id, m.repository_id FROM needed n
      JOIN manifest_children c ON c.manifest_id = n.id AND c.kind = 'manifest'
      JOIN manifests m ON m.repository_id = n.repository_id AND m.digest = c.digest AND m.deleted_at IS NULL)
  INSERT INTO wanted_lists (digest)
  SELECT DISTINCT c.digest FROM needed n JOIN manifest_children c ON c.manifest_id = n.id
  WHERE c.kind <> 'manifest' AND c.size >= 8388608 AND NOT EXISTS (
    SELECT FROM blobs b WHERE b.digest = c.digest AND b.state <> 'gone' AND b.piece_list IS NOT NULL)`,
]

import { sql, type Kysely } from 'kysely'

/** Labels, and which manifests bear them. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

const statements = [
  // Without a project a label is global: two of those may not share a name either.
  `CREATE TABLE labels (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id integer REFERENCES projects, name text COLLATE "C" NOT NULL, description text NOT NULL,
    color text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz, deletion_id uuid)`,
  `CREATE UNIQUE INDEX labels_name ON labels (project_id, name) NULLS NOT DISTINCT WHERE deleted_at IS NULL`,

  // Rows of what is deleted stay with it, unseen, until its own row is removed for good: a restore finds them.
  `CREATE TABLE artifact_labels (
    manifest_id bigint NOT NULL REFERENCES manifests ON DELETE CASCADE,
    label_id integer NOT NULL REFERENCES labels ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (manifest_id, label_id))`,
  `CREATE INDEX artifact_labels_label ON artifact_labels (label_id)`,
]

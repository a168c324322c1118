import { sql, type Kysely } from 'kysely'

/** Images that edges are to hold by a deadline. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

const statements = [
  `CREATE TABLE preheats (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, project_id integer NOT NULL, repository_id integer NOT NULL,
    image text NOT NULL, digest text COLLATE "C" NOT NULL, platforms text[] NOT NULL, edges jsonb NOT NULL,
    blobs jsonb NOT NULL, same_as bytea NOT NULL, creator text NOT NULL, status text NOT NULL,
    started_at timestamptz NOT NULL, deadline_at timestamptz NOT NULL, ended_at timestamptz, outcome jsonb)`,
  // A request that is repeated while it runs is the one that runs.
  `CREATE UNIQUE INDEX preheats_running ON preheats (same_as) WHERE status = 'Running'`,
  `CREATE INDEX preheats_project ON preheats (project_id, deadline_at)`,
]

import { sql, type Kysely } from 'kysely'

/** Rules that bring images to edges, what they select now, and what jobs did. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

const statements = [
  `CREATE TABLE registries (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE, type text NOT NULL,
    url text NOT NULL, description text NOT NULL, insecure boolean NOT NULL, selector jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now())`,
  `CREATE TABLE replication_policies (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL UNIQUE,
    description text NOT NULL, registry_id integer NOT NULL REFERENCES registries, filters jsonb NOT NULL,
    platforms text[] NOT NULL, trigger text NOT NULL, deletion boolean NOT NULL, override boolean NOT NULL, enabled boolean NOT NULL,
    serve text NOT NULL, copy_by_chunk boolean NOT NULL, single_active boolean NOT NULL,
    namespace_replace_count integer NOT NULL, creator text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now())`,
  `CREATE INDEX replication_policies_registry ON replication_policies (registry_id)`,

  // What each rule brings now. Its policy's row is locked while rows of it change.
  `CREATE TABLE rule_selections (
    rule_id integer NOT NULL REFERENCES replication_policies ON DELETE CASCADE, repository_id integer NOT NULL,
    digest text COLLATE "C" NOT NULL, project_id integer NOT NULL, tags text[] NOT NULL,
    execution_id bigint NOT NULL, stopped boolean NOT NULL DEFAULT false,
    PRIMARY KEY (rule_id, repository_id, digest))`,
  `CREATE INDEX rule_selections_repository ON rule_selections (repository_id)`,
  `CREATE INDEX rule_selections_execution ON rule_selections (execution_id)`,

  // One run of a job, of any kind: vendor_type and vendor_id say whose.
  `CREATE TABLE executions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, vendor_type text NOT NULL, vendor_id integer NOT NULL,
    trigger text NOT NULL, status text NOT NULL, status_text text NOT NULL DEFAULT '',
    started_at timestamptz NOT NULL DEFAULT now(), ended_at timestamptz, decided_at timestamptz,
    outbox_id bigint, epoch integer, seq bigint, project_ids integer[] NOT NULL DEFAULT '{}',
    selected integer NOT NULL DEFAULT 0, unselected integer NOT NULL DEFAULT 0,
    total integer NOT NULL DEFAULT 0, succeeded integer NOT NULL DEFAULT 0, failed integer NOT NULL DEFAULT 0,
    stopped integer NOT NULL DEFAULT 0)`,
  `CREATE INDEX executions_vendor ON executions (vendor_type, vendor_id, id)`,
  `CREATE INDEX executions_running ON executions (id) WHERE status = 'InProgress'`,

  // Rows only for what failed or was stopped: an execution may have a task for each of thousands of edges.
  `CREATE TABLE tasks (
    execution_id bigint NOT NULL REFERENCES executions ON DELETE CASCADE, number integer NOT NULL,
    status text NOT NULL, reason text NOT NULL, ended_at timestamptz NOT NULL, PRIMARY KEY (execution_id, number))`,
  // Without a number a line is about all tasks of the execution.
  `CREATE TABLE task_logs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    execution_id bigint NOT NULL REFERENCES executions ON DELETE CASCADE, number integer, at timestamptz NOT NULL,
    line text NOT NULL)`,
  `CREATE INDEX task_logs_execution ON task_logs (execution_id)`,

  // How far each follower of the log has come that writes down what it makes of it; its row is its lock.
  `CREATE TABLE log_cursors (name text PRIMARY KEY, epoch integer NOT NULL, seq bigint NOT NULL)`,
  `INSERT INTO log_cursors (name, epoch, seq) SELECT 'replication', epoch, seq FROM event_head`,
]

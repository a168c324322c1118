import { sql, type Kysely } from 'kysely'

/** The whole schema of the first release. Never edited once released. */
export async function up(database: Kysely<unknown>): Promise<void> {
  for (const statement of statements) await sql.raw(statement).execute(database)
}

// Names are compared bytewise everywhere: COLLATE "C" is what the spec's ordering of tags asks for.
const deletable = 'deleted_at timestamptz, deletion_id uuid'
const statements = [
  `CREATE TABLE settings (name text PRIMARY KEY, value text NOT NULL)`,

  `CREATE TABLE users (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username text COLLATE "C" NOT NULL, email text NOT NULL, realname text NOT NULL, comment text NOT NULL,
    password_hash text, sysadmin boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), ${deletable})`,
  `CREATE UNIQUE INDEX users_username ON users (username) WHERE deleted_at IS NULL`,
  `CREATE UNIQUE INDEX users_email ON users (lower(email)) WHERE deleted_at IS NULL AND email <> ''`,

  `CREATE TABLE projects (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL, owner_id integer NOT NULL REFERENCES users, public boolean NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), ${deletable})`,
  `CREATE UNIQUE INDEX projects_name ON projects (name) WHERE deleted_at IS NULL`,

  `CREATE TABLE members (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id integer NOT NULL REFERENCES projects, user_id integer NOT NULL REFERENCES users,
    role_id smallint NOT NULL CHECK (role_id BETWEEN 1 AND 5),
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (project_id, user_id))`,
  `CREATE INDEX members_user ON members (user_id)`,

  `CREATE TABLE robots (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text COLLATE "C" NOT NULL, description text NOT NULL, project_id integer REFERENCES projects,
    secret_hash text NOT NULL, disabled boolean NOT NULL, duration_days integer NOT NULL, expires_at timestamptz,
    permissions jsonb NOT NULL, creator_kind text NOT NULL, creator_id integer,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), ${deletable})`,
  `CREATE UNIQUE INDEX robots_name ON robots (name) WHERE deleted_at IS NULL`,
  `CREATE INDEX robots_project ON robots (project_id)`,

  `CREATE TABLE repositories (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    project_id integer NOT NULL REFERENCES projects, name text COLLATE "C" NOT NULL, description text NOT NULL DEFAULT '',
    pull_count bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), ${deletable})`,
  `CREATE UNIQUE INDEX repositories_name ON repositories (name) WHERE deleted_at IS NULL`,
  `CREATE INDEX repositories_project ON repositories (project_id)`,

  // One copy of a digest is live or condemned; the rows of copies that are gone stay until the sweep has seen them.
  `CREATE TABLE blobs (
    key text COLLATE "C" PRIMARY KEY, digest text COLLATE "C" NOT NULL, size bigint NOT NULL,
    state text NOT NULL CHECK (state IN ('live', 'condemned', 'gone')), condemned_at timestamptz,
    stored_at timestamptz NOT NULL DEFAULT now())`,
  `CREATE UNIQUE INDEX blobs_digest ON blobs (digest) WHERE state <> 'gone'`,

  `CREATE TABLE links (
    repository_id integer NOT NULL REFERENCES repositories, digest text COLLATE "C" NOT NULL,
    linked_at timestamptz NOT NULL DEFAULT now(), condemned_at timestamptz,
    PRIMARY KEY (repository_id, digest))`,
  `CREATE INDEX links_digest ON links (digest)`,

  `CREATE TABLE manifests (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository_id integer NOT NULL REFERENCES repositories, digest text COLLATE "C" NOT NULL,
    media_type text NOT NULL, size integer NOT NULL, content bytea NOT NULL,
    config_media_type text, artifact_type text, subject text COLLATE "C", annotations json,
    pushed_at timestamptz NOT NULL DEFAULT now(), pulled_at timestamptz, ${deletable})`,
  // Manifests are read whole by every pull: no compression to undo. Annotations are json, since jsonb refuses
  // NUL and lone surrogates, which JSON may hold.
  `ALTER TABLE manifests ALTER COLUMN content SET STORAGE EXTERNAL`,
  `CREATE UNIQUE INDEX manifests_digest ON manifests (repository_id, digest) WHERE deleted_at IS NULL`,
  `CREATE INDEX manifests_subject ON manifests (repository_id, subject) WHERE subject IS NOT NULL AND deleted_at IS NULL`,

  `CREATE TABLE manifest_children (
    manifest_id bigint NOT NULL REFERENCES manifests ON DELETE CASCADE, position integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('config', 'layer', 'manifest')),
    digest text COLLATE "C" NOT NULL, size bigint NOT NULL, media_type text NOT NULL,
    PRIMARY KEY (manifest_id, position))`,
  `CREATE INDEX manifest_children_digest ON manifest_children (digest)`,

  `CREATE TABLE tags (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    repository_id integer NOT NULL REFERENCES repositories, name text COLLATE "C" NOT NULL,
    digest text COLLATE "C" NOT NULL,
    pushed_at timestamptz NOT NULL DEFAULT now(), pulled_at timestamptz, ${deletable})`,
  `CREATE UNIQUE INDEX tags_name ON tags (repository_id, name) WHERE deleted_at IS NULL`,
  `CREATE INDEX tags_digest ON tags (repository_id, digest) WHERE deleted_at IS NULL`,

  `CREATE TABLE uploads (
    id uuid PRIMARY KEY, key text COLLATE "C" NOT NULL UNIQUE,
    repository_id integer NOT NULL REFERENCES repositories, owner text NOT NULL, algorithm text,
    claimed_by text, claimed_until timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now())`,
  `CREATE INDEX uploads_updated ON uploads (updated_at)`,
  `CREATE INDEX uploads_owner ON uploads (owner)`,

  `CREATE TABLE keys (
    id text PRIMARY KEY, purpose text NOT NULL, algorithm text NOT NULL, public_jwk jsonb NOT NULL,
    private_sealed bytea NOT NULL, state text NOT NULL, created_at timestamptz NOT NULL DEFAULT now())`,

  `CREATE TABLE audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz NOT NULL DEFAULT now(),
    username text NOT NULL, operation text NOT NULL, resource_type text NOT NULL, resource text NOT NULL,
    project_id integer, address text NOT NULL, succeeded boolean NOT NULL, description text NOT NULL)`,
  `CREATE INDEX audit_at ON audit (at)`,
  `CREATE INDEX audit_project ON audit (project_id, at)`,

  `CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, stream text NOT NULL, body text NOT NULL)`,
  `CREATE TABLE events (
    seq bigint PRIMARY KEY, stream text NOT NULL, body text NOT NULL, body_hash bytea NOT NULL,
    header_hash bytea NOT NULL, at timestamptz NOT NULL DEFAULT now())`,
  `CREATE INDEX events_at ON events (at)`,
  `CREATE TABLE event_head (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton), epoch integer NOT NULL, seq bigint NOT NULL,
    header_hash bytea NOT NULL)`,
  `INSERT INTO event_head (epoch, seq, header_hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'))`,

  `CREATE TABLE edges (
    id text PRIMARY KEY, name text NOT NULL, credential_hash text NOT NULL, scope jsonb NOT NULL,
    accept_people boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(), updated_at timestamptz NOT NULL DEFAULT now(), ${deletable})`,
  `CREATE UNIQUE INDEX edges_name ON edges (name) WHERE deleted_at IS NULL`,
]

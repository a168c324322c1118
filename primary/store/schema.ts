import type { ColumnType, Generated } from 'kysely'
import type { EventStream } from '../../shared/replication/events.ts'
import type { EdgeReport } from '../../shared/replication/lease.ts'

/** Written as Date or left to the column's default, read as Date. */
type Instant = ColumnType<Date, Date | undefined, Date>
type NullableInstant = ColumnType<Date | null, Date | null | undefined, Date | null>
/** bigint columns are read as numbers (a parser is set on the pool); sizes and sequences stay under 2^53. */
type Big = number
type GeneratedBig = ColumnType<number, number | undefined, number>

/** A name that was deleted keeps `deleted_at`, and `deletion_id` says what went together. */
interface Deletable {
  deleted_at: NullableInstant
  deletion_id: ColumnType<string | null, string | null | undefined, string | null>
}

export interface UsersTable extends Deletable {
  id: Generated<number>
  username: string
  email: string
  realname: string
  comment: string
  /** With its algorithm tag; null: cannot log in by password. */
  password_hash: string | null
  sysadmin: boolean
  created_at: Instant
  updated_at: Instant
}

export interface ProjectsTable extends Deletable {
  id: Generated<number>
  name: string
  owner_id: number
  /** Also stands in `metadata` as Harbor shows it; this column is what access reads. */
  public: boolean
  metadata: ColumnType<Record<string, string>, string, string>
  created_at: Instant
  updated_at: Instant
}

export interface MembersTable {
  id: Generated<number>
  project_id: number
  user_id: number
  /** Harbor's ids: 1 admin, 2 developer, 3 guest, 4 maintainer, 5 limited guest. */
  role_id: number
  created_at: Instant
  updated_at: Instant
}

export interface RobotsTable extends Deletable {
  id: Generated<number>
  /** As logged in with: `robot$name` or `robot$project+name`. */
  name: string
  description: string
  /** The project of a project robot; null for a system robot. */
  project_id: number | null
  secret_hash: string
  disabled: boolean
  /** Days, or -1 for ever. */
  duration_days: number
  expires_at: NullableInstant
  /** Harbor's `permissions` list. */
  permissions: ColumnType<unknown, string, string>
  creator_kind: 'user' | 'robot' | 'system'
  creator_id: number | null
  created_at: Instant
  updated_at: Instant
}

export interface RepositoriesTable extends Deletable {
  id: Generated<number>
  project_id: number
  /** The whole name: `library/app`. */
  name: string
  description: string
  pull_count: ColumnType<number, number | undefined, number>
  created_at: Instant
  updated_at: Instant
}

export interface BlobsTable {
  /** Random, 32 hex digits, never reused. */
  key: string
  digest: string
  size: Big
  state: 'live' | 'condemned' | 'gone'
  condemned_at: NullableInstant
  stored_at: Instant
}

export interface LinksTable {
  repository_id: number
  digest: string
  linked_at: Instant
  condemned_at: NullableInstant
}

export interface ManifestsTable extends Deletable {
  id: GeneratedBig
  repository_id: number
  digest: string
  media_type: string
  size: number
  content: Buffer
  config_media_type: string | null
  artifact_type: string | null
  subject: string | null
  annotations: ColumnType<Record<string, string> | null, string | null, string | null>
  pushed_at: Instant
  pulled_at: NullableInstant
}

/** What a manifest needs: its config, layers and children. Read by deletion and the collector. */
export interface ManifestChildrenTable {
  manifest_id: number
  position: number
  kind: 'config' | 'layer' | 'manifest'
  digest: string
  size: Big
  media_type: string
}

export interface TagsTable extends Deletable {
  id: GeneratedBig
  repository_id: number
  name: string
  digest: string
  pushed_at: Instant
  pulled_at: NullableInstant
}

export interface LabelsTable extends Deletable {
  id: Generated<number>
  /** null: global, for artifacts of every project. */
  project_id: number | null
  name: string
  description: string
  color: string
  created_at: Instant
  updated_at: Instant
}

/** Which manifests bear which labels; what is deleted on either side is not seen here. */
export interface ArtifactLabelsTable {
  manifest_id: number
  label_id: number
  created_at: Instant
}

export interface UploadsTable {
  /** What the client sees. */
  id: string
  /** The blob key that was registered before the first byte. */
  key: string
  repository_id: number
  /** Who opened it: `user:7`, `robot:3`; nobody else may go on with it. */
  owner: string
  algorithm: string | null
  /** The primary that holds the session's running hash, and until when. */
  claimed_by: string | null
  claimed_until: NullableInstant
  created_at: Instant
  updated_at: Instant
}

export interface KeysTable {
  id: string
  purpose: 'jwt' | 'log' | 'root' | 'ca'
  algorithm: string
  public_jwk: ColumnType<Record<string, unknown>, string, string>
  /** Sealed under the key file. */
  private_sealed: Buffer
  state: 'active' | 'retired'
  created_at: Instant
}

export interface AuditTable {
  id: GeneratedBig
  at: Instant
  /** The account's name; '' for anonymous callers. */
  username: string
  operation: string
  resource_type: string
  resource: string
  project_id: number | null
  address: string
  succeeded: boolean
  description: string
}

export interface OutboxTable {
  id: GeneratedBig
  stream: EventStream
  /** JSON of an EventBody, exactly the bytes that are hashed and sent. */
  body: string
}

export interface EventsTable {
  seq: Big
  stream: EventStream
  body: string
  body_hash: Buffer
  /** sha256 over the previous header's hash, seq, stream and body hash. */
  header_hash: Buffer
  at: Instant
}

/** One row: the newest number that the relay gave. */
export interface EventHeadTable {
  singleton: Generated<boolean>
  epoch: number
  seq: Big
  header_hash: Buffer
}

/** The signature over the header of a batch's last event: an envelope of a log key. */
export interface EventBatchesTable {
  last_seq: Big
  epoch: number
  envelope: string
}

/** What the root said of the other keys, each version: an envelope of the root that was then. */
export interface TrustListsTable {
  version: number
  envelope: string
  created_at: Instant
}

export interface EdgesTable extends Deletable {
  id: string
  name: string
  credential_hash: string
  /** `*`, or the ids of the projects that it may read. */
  scope: ColumnType<'*' | readonly number[], string, string>
  accept_people: boolean
  site: ColumnType<string, string | undefined, string>
  region: ColumnType<string, string | undefined, string>
  labels: ColumnType<Readonly<Record<string, string>>, string | undefined, string>
  suspended: ColumnType<boolean, boolean | undefined, boolean>
  /** RSA, SPKI PEM; null for an edge that the configuration names. */
  public_key: ColumnType<string | null, string | null | undefined, string | null>
  /** Small and never used again: a task of an execution is numbered by it. */
  number: Generated<number>
  created_at: Instant
  updated_at: Instant
}

/** What an edge last said of itself. */
export interface EdgeStatesTable {
  edge_id: string
  epoch: number
  /** The last event whose statements it has recorded. */
  applied_seq: Big
  /** All that rules selected for it up to this event is on its disk, or was given up with a reason. */
  held_seq: Big
  /** Of what is still to come. */
  waiting_bytes: Big
  seen_at: ColumnType<Date, Date, Date>
  report: ColumnType<EdgeReport, string, string>
}

/** What lets one key become an edge, once. */
export interface JoinTokensTable {
  id: string
  /** sha256. */
  secret_hash: Buffer
  name: string
  scope: ColumnType<'*' | readonly number[], string, string>
  site: string
  region: string
  labels: ColumnType<Readonly<Record<string, string>>, string, string>
  accept_people: boolean
  expires_at: ColumnType<Date, Date, Date>
  created_at: Instant
  /** Who used it. */
  edge_id: ColumnType<string | null, string | null | undefined, string | null>
}

/** Small facts of the installation: store id, key file fingerprint, data version. */
export interface SettingsTable {
  name: string
  value: string
}

/** The tables, by name, for Kysely. */
export interface Schema {
  users: UsersTable
  projects: ProjectsTable
  members: MembersTable
  robots: RobotsTable
  repositories: RepositoriesTable
  blobs: BlobsTable
  links: LinksTable
  manifests: ManifestsTable
  manifest_children: ManifestChildrenTable
  tags: TagsTable
  labels: LabelsTable
  artifact_labels: ArtifactLabelsTable
  uploads: UploadsTable
  keys: KeysTable
  audit: AuditTable
  outbox: OutboxTable
  events: EventsTable
  event_head: EventHeadTable
  event_batches: EventBatchesTable
  trust_lists: TrustListsTable
  edges: EdgesTable
  edge_states: EdgeStatesTable
  join_tokens: JoinTokensTable
  settings: SettingsTable
}

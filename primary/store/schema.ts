import type { ColumnType, Generated } from 'kysely'
import type { EdgeSelector, EventStream } from '../../shared/replication/events.ts'
import type { EdgeReport } from '../../shared/replication/lease.ts'
import type { LogBehind } from './log-mark.ts'

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
  /** The digest of its list of pieces, once there is one. */
  piece_list: ColumnType<string | null, string | null | undefined, string | null>
}

/** Blobs that are to have a list of their pieces however small they are, until they have it. */
export interface WantedListsTable {
  digest: string
  wanted_at: Instant
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
  /** Sealed under the key file; null for a root whose private half is kept elsewhere. */
  private_sealed: Buffer | null
  /** `next` is told of and does not sign yet; `retired` does not sign any more, and what it signed counts. */
  state: 'next' | 'active' | 'retired'
  created_at: Instant
  /** When it came to be what it is now. */
  changed_at: Instant
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
  /** What shows that there was more of the log than this: nothing is numbered before that is accepted. */
  behind: ColumnType<LogBehind | null, string | null | undefined, string | null>
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
  /** It leaves: nobody is sent there. */
  draining: ColumnType<boolean, boolean | undefined, boolean>
  /** Then it is suspended too: a constraint says so. */
  revoked_at: ColumnType<Date | null, Date | null | undefined, Date | null>
  /** Why it is suspended, where no administrator did it. */
  standing_reason: ColumnType<string, string | undefined, string>
  /** The configuration names it, or did; the others joined by a token. */
  configured: ColumnType<boolean, boolean | undefined, boolean>
  /** RSA, SPKI PEM; null for an edge that has not shown its key. */
  public_key: ColumnType<string | null, string | null | undefined, string | null>
  /** Small and never used again: a task of an execution is numbered by it. */
  number: Generated<number>
  /** Where other edges of its site reach it, as it said; empty: they do not. */
  peer_url: ColumnType<string, string | undefined, string>
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

/** Which of an edge's reports of pulls are counted. */
export interface EdgePullsTable {
  edge_id: string
  /** Its logs, the last used one first, and of each the last report that is counted. */
  logs: ColumnType<readonly CountedLog[], string, string>
  applied_at: ColumnType<Date, Date, Date>
  /** Pulls that it can have served until then, and did not report. */
  allowance: Big
}

export interface CountedLog {
  /** A UUID. */
  readonly log: string
  readonly n: number
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

/** A destination of replication rules: a group of edges. */
export interface RegistriesTable {
  id: Generated<number>
  name: string
  type: string
  url: string
  description: string
  insecure: boolean
  /** Which edges, for the type `outport-edges`. */
  selector: ColumnType<EdgeSelector, string, string>
  created_at: Instant
  updated_at: Instant
}

export interface ReplicationPoliciesTable {
  id: Generated<number>
  name: string
  description: string
  registry_id: number
  /** Harbor's list of filters, as it was given. */
  filters: ColumnType<unknown, string, string>
  /** What the filters say of platforms: edges are told. */
  platforms: readonly string[]
  trigger: 'manual' | 'event_based'
  deletion: boolean
  override: boolean
  enabled: boolean
  serve: 'latest' | 'complete'
  copy_by_chunk: boolean
  single_active: boolean
  namespace_replace_count: number
  creator: string
  created_at: Instant
  updated_at: Instant
}

/** What a rule brings to its edges now. */
export interface RuleSelectionsTable {
  rule_id: number
  repository_id: number
  digest: string
  project_id: number
  /** By which tags, without those that the filters drop. */
  tags: readonly string[]
  /** That brought it last. */
  execution_id: Big
  /** Taken back by who stopped that execution; only a run by hand brings it again. */
  stopped: ColumnType<boolean, boolean | undefined, boolean>
}

/** A run of a job. The columns up to `ended_at` are any job's; the others a replication's. */
export interface ExecutionsTable {
  id: GeneratedBig
  vendor_type: 'REPLICATION'
  vendor_id: number
  trigger: 'manual' | 'event_based'
  status: 'InProgress' | 'Succeed' | 'Failed' | 'Stopped'
  status_text: ColumnType<string, string | undefined, string>
  started_at: Instant
  ended_at: NullableInstant
  /** When its selections were written; null: it waits for that. */
  decided_at: NullableInstant
  /** The last fact that it wrote; null: none. */
  outbox_id: ColumnType<number | null, number | null | undefined, number | null>
  /** An edge that holds all up to here holds what it brought; null until its facts have numbers. */
  epoch: ColumnType<number | null, number | null | undefined, number | null>
  seq: ColumnType<number | null, number | null | undefined, number | null>
  /** Whose images it brought: only edges that may read one of these have a task. */
  project_ids: ColumnType<readonly number[], readonly number[] | undefined, readonly number[]>
  selected: ColumnType<number, number | undefined, number>
  unselected: ColumnType<number, number | undefined, number>
  /** How many tasks there were, and how they ended; written when it is over. */
  total: ColumnType<number, number | undefined, number>
  succeeded: ColumnType<number, number | undefined, number>
  failed: ColumnType<number, number | undefined, number>
  stopped: ColumnType<number, number | undefined, number>
}

/** Tasks that failed or were stopped; the others are computed. */
export interface TasksTable {
  execution_id: Big
  /** Within its execution; of a replication the edge's. */
  number: number
  status: 'Failed' | 'Stopped'
  reason: string
  ended_at: ColumnType<Date, Date, Date>
}

export interface TaskLogsTable {
  id: GeneratedBig
  execution_id: Big
  /** null: of all its tasks. */
  number: number | null
  at: ColumnType<Date, Date, Date>
  line: string
}

/** An image that edges are to hold by a deadline. */
export interface PreheatsTable {
  id: GeneratedBig
  project_id: number
  repository_id: number
  /** As it was asked for: `project/repository:tag`. */
  image: string
  digest: string
  platforms: readonly string[]
  edges: ColumnType<readonly PreheatEdge[], string, string>
  blobs: ColumnType<readonly PreheatBlob[], string, string>
  /** sha256 of what makes two requests the same. */
  same_as: Buffer
  creator: string
  status: 'Running' | 'Succeed' | 'Failed' | 'Stopped'
  started_at: ColumnType<Date, Date, Date>
  deadline_at: ColumnType<Date, Date, Date>
  ended_at: NullableInstant
  /** How it was at each edge when it ended, in the order of `edges`. */
  outcome: ColumnType<readonly PreheatOutcome[] | null, string | null | undefined, string | null>
}

export interface PreheatEdge {
  readonly id: string
  readonly name: string
}

/** A manifest or blob that an edge has to hold. */
export interface PreheatBlob {
  readonly digest: string
  readonly size: number
}

export interface PreheatOutcome {
  readonly isHeld: boolean
  /** Why not. */
  readonly reason: string
  /** Digests that were not there; absent: all, or nobody knows which. */
  readonly missing?: readonly string[]
}

/** How far a follower that writes down what it makes of the log has come. */
export interface LogCursorsTable {
  name: string
  epoch: number
  seq: Big
}

/** The tables, by name, for Kysely. */
export interface Schema {
  users: UsersTable
  projects: ProjectsTable
  members: MembersTable
  robots: RobotsTable
  repositories: RepositoriesTable
  blobs: BlobsTable
  wanted_lists: WantedListsTable
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
  edge_pulls: EdgePullsTable
  join_tokens: JoinTokensTable
  registries: RegistriesTable
  replication_policies: ReplicationPoliciesTable
  rule_selections: RuleSelectionsTable
  executions: ExecutionsTable
  tasks: TasksTable
  task_logs: TaskLogsTable
  log_cursors: LogCursorsTable
  preheats: PreheatsTable
  settings: SettingsTable
}

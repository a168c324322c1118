import type { Kysely } from 'kysely'
import type { Page } from '../../shared/api/paging.ts'
import type { Fields, Filter, Sort } from '../../shared/api/query.ts'
import type { Records } from './database.ts'
import { applyFilters, readPage } from './filters.ts'
import type { Schema } from './schema.ts'

/** Who did something, and from where. */
export interface AuditActor {
  /** The account's name; '' for anonymous callers and for the program itself. */
  readonly username: string
  /** The client's address; '' when the program itself acted. */
  readonly address: string
}

/** Who did it, where and when. */
export interface Deed {
  readonly actor: AuditActor
  readonly now: Date
}

/** What is written down, by what it is done to, in Harbor's words. Nothing else compiles as an entry. */
export const auditedDeeds = {
  artifact: ['create', 'delete'],
  'artifact-label': ['create', 'delete'],
  edge: ['create', 'update', 'delete', 'login'],
  'join-token': ['create', 'delete'],
  key: ['create', 'update', 'delete'],
  label: ['create', 'update', 'delete'],
  log: ['update'],
  member: ['create', 'update', 'delete'],
  preheat: ['create', 'stop'],
  project: ['create', 'update', 'delete'],
  registry: ['create', 'update', 'delete'],
  replication: ['create', 'stop'],
  'replication-policy': ['create', 'update', 'delete'],
  repository: ['update', 'delete'],
  robot: ['create', 'update', 'delete', 'login'],
  tag: ['delete'],
  user: ['create', 'update', 'delete', 'login'],
} as const

type AuditedDeeds = typeof auditedDeeds

/** What may be done to one of them. */
export type AuditOperation<Resource extends keyof AuditedDeeds> = AuditedDeeds[Resource][number]

type AuditedDeed = {
  [Resource in keyof AuditedDeeds]: {
    readonly resourceType: Resource
    readonly operation: AuditOperation<Resource>
  }
}[keyof AuditedDeeds]

/** What the audit log says of one deed. No field may hold a secret. */
export type AuditEntry = AuditedDeed & {
  readonly actor: AuditActor
  /** What it was done to, as people name it: `library/app:v1`. */
  readonly resource: string
  readonly projectId?: number | undefined
  /** false: it was refused. */
  readonly succeeded?: boolean
  readonly description?: string
}

/** One row of the audit log. */
export interface AuditRow {
  readonly id: number
  readonly at: Date
  readonly username: string
  readonly operation: string
  readonly resourceType: string
  readonly resource: string
  readonly projectId: number | undefined
  readonly succeeded: boolean
  readonly description: string
}

export interface AuditListing {
  /** The projects whose rows may be seen; `all` adds what belongs to none. */
  readonly projects: 'all' | readonly number[]
  readonly filters: readonly Filter[]
  readonly sorts: readonly Sort[]
  readonly page: Page
}

/** What the log may be filtered and sorted by. */
export const auditFields: Fields = {
  id: { column: 'id', type: 'integer' },
  username: { column: 'username', type: 'text' },
  operation: { column: 'operation', type: 'text' },
  resource: { column: 'resource', type: 'text' },
  resource_type: { column: 'resource_type', type: 'text' },
  project_id: { column: 'project_id', type: 'integer' },
  operation_result: { column: 'succeeded', type: 'boolean' },
  operation_description: { column: 'description', type: 'text' },
  op_time: { column: 'at', type: 'time' },
}

/** Longer texts are cut: names come from clients. */
const maxTextLength = 512

/** Writes what was done into the audit log, in the deed's own transaction. */
export async function appendAudit(
  records: Kysely<Schema>,
  entry: AuditEntry,
  now: Date,
): Promise<void> {
  await records
    .insertInto('audit')
    .values({
      at: now,
      username: clean(entry.actor.username),
      operation: entry.operation,
      resource_type: entry.resourceType,
      resource: clean(entry.resource),
      project_id: entry.projectId ?? null,
      address: clean(entry.actor.address),
      succeeded: entry.succeeded ?? true,
      description: clean(entry.description ?? ''),
    })
    .execute()
}

export type Audit = ReturnType<typeof createAudit>

/** The audit log: refused log-ins are written here, everything else with what it tells of. */
export function createAudit(records: Records) {
  return {
    /** Writes one entry that belongs to no other fact. */
    append: (entry: AuditEntry, now: Date): Promise<void> => appendAudit(records, entry, now),

    /** One page of the log, newest first unless sorted otherwise, and how many rows there are in all. */
    async list({ projects, filters, sorts, page }: AuditListing): Promise<{
      readonly rows: readonly AuditRow[]
      readonly total: number
    }> {
      let query = applyFilters(records.selectFrom('audit'), filters)
      if (projects !== 'all') {
        if (projects.length === 0) return { rows: [], total: 0 }
        query = query.where('project_id', 'in', projects)
      }
      const { rows, total } = await readPage(query, {
        sorts,
        page,
        last: { column: 'id', descending: true },
        select: (sorted) =>
          sorted.select([
            'id',
            'at',
            'username',
            'operation',
            'resource_type',
            'resource',
            'project_id',
            'succeeded',
            'description',
          ]),
      })
      return {
        total,
        rows: rows.map(({ resource_type: resourceType, project_id: projectId, ...row }) => ({
          ...row,
          resourceType,
          projectId: projectId ?? undefined,
        })),
      }
    },
  }
}

/** PostgreSQL refuses NUL in texts, and control characters could forge lines where the log is printed. */
function clean(text: string): string {
  // eslint-disable-next-line no-control-regex -- control characters are what is looked for
  return text.replaceAll(/[\u0000-\u001f\u007f]/g, '\ufffd').slice(0, maxTextLength)
}

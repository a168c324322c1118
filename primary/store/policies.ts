import { sql, type Selectable, type Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import type { Listing } from '../../shared/api/listing.ts'
import type { Fields } from '../../shared/api/query.ts'
import type {
  EdgeSelector,
  EventFact,
  RuleFact,
  TagGuard,
} from '../../shared/replication/events.ts'
import {
  appendAudit,
  type AuditActor,
  type AuditEntry,
  type AuditOperation,
  type Deed,
} from './audit.ts'
import { isUniqueViolation } from './conflicts.ts'
import type { Records } from './database.ts'
import { applyFilters, readPage } from './filters.ts'
import { appendEvents } from './outbox.ts'
import type { ReplicationPoliciesTable, Schema } from './schema.ts'

/** What may be said of a replication rule. */
export interface PolicyText {
  readonly name: string
  readonly description: string
  readonly registryId: number
  /** Harbor's list of filters, as it was given. */
  readonly filters: unknown
  /** What the filters say of platforms. */
  readonly platforms: readonly string[]
  readonly trigger: 'manual' | 'event_based'
  readonly deletion: boolean
  readonly override: boolean
  readonly enabled: boolean
  readonly serve: 'latest' | 'complete'
  readonly copyByChunk: boolean
  readonly singleActive: boolean
  readonly namespaceReplaceCount: number
}

/** A replication rule. */
export interface Policy extends PolicyText {
  readonly id: number
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** What policies may be filtered and sorted by. */
export const policyFields: Fields = {
  id: { column: 'id', type: 'integer' },
  name: { column: 'name', type: 'text' },
  description: { column: 'description', type: 'text' },
  enabled: { column: 'enabled', type: 'boolean' },
  dest_registry_id: { column: 'registry_id', type: 'integer' },
  creation_time: { column: 'created_at', type: 'time' },
  update_time: { column: 'updated_at', type: 'time' },
}

export type Policies = ReturnType<typeof createPolicies>

/** Replication rules. Whatever changes one, or what it selects, holds its row. */
export function createPolicies(records: Records) {
  return {
    async get(id: number): Promise<Policy | undefined> {
      const row = await records
        .selectFrom('replication_policies')
        .selectAll()
        .where('id', '=', id)
        .executeTakeFirst()
      return row && readPolicy(row)
    },

    /** Those of these ids, by id. */
    async getAll(ids: readonly number[]): Promise<ReadonlyMap<number, Policy>> {
      if (ids.length === 0) return new Map()
      const rows = await records
        .selectFrom('replication_policies')
        .selectAll()
        .where('id', '=', sql<number>`ANY(${ids}::integer[])`)
        .execute()
      return new Map(rows.map((row) => [row.id, readPolicy(row)]))
    },

    /** One page of the rules, by id unless sorted otherwise, and how many there are. */
    async list({ filters, sorts, page }: Listing): Promise<{
      readonly rows: readonly Policy[]
      readonly total: number
    }> {
      const query = applyFilters(records.selectFrom('replication_policies'), filters)
      const { rows, total } = await readPage(query, {
        sorts,
        page,
        last: { column: 'id', descending: false },
        select: (sorted) => sorted.selectAll(),
      })
      return { rows: rows.map(readPolicy), total }
    },

    /**
     * Creates a rule, and tells the edges.
     * @returns its id
     * @throws ApiError CONFLICT when the name is taken, BAD_REQUEST when there is no such registry
     */
    create(policy: PolicyText, { actor, now }: Deed): Promise<number> {
      return refusingTaken(policy.name, () =>
        records.transaction().execute(async (trx) => {
          const selector = await holdRegistry(trx, policy.registryId)
          const row = await trx
            .insertInto('replication_policies')
            .values({
              ...columnsOf(policy),
              creator: actor.username,
              created_at: now,
              updated_at: now,
            })
            .returningAll()
            .executeTakeFirstOrThrow()
          await appendAudit(
            trx,
            policyAudit({ actor, operation: 'create', name: policy.name }),
            now,
          )
          await appendEvents(trx, [ruleFactOf(readPolicy(row), selector)], now)
          return row.id
        }),
      )
    },

    /**
     * Changes a rule, and tells the edges. What it selects then is worked out by who follows the log.
     * @returns false when there is no such rule
     * @throws ApiError CONFLICT when the name is taken, BAD_REQUEST when there is no such registry
     */
    update(id: number, policy: PolicyText, { actor, now }: Deed): Promise<boolean> {
      return refusingTaken(policy.name, () =>
        records.transaction().execute(async (trx) => {
          const selector = await holdRegistry(trx, policy.registryId)
          const row = await trx
            .updateTable('replication_policies')
            .set({ ...columnsOf(policy), updated_at: now })
            .where('id', '=', id)
            .returningAll()
            .executeTakeFirst()
          if (row === undefined) return false
          await appendAudit(
            trx,
            policyAudit({ actor, operation: 'update', name: policy.name }),
            now,
          )
          await appendEvents(trx, [ruleFactOf(readPolicy(row), selector)], now)
          return true
        }),
      )
    },

    /**
     * Removes a rule with its executions and all that it selects: edges unpin what it brought.
     * @returns false when there is no such rule
     * @throws ApiError PRECONDITION while an execution of it runs
     */
    remove(id: number, { actor, now }: Deed): Promise<boolean> {
      return records.transaction().execute(async (trx) => {
        const row = await trx
          .selectFrom('replication_policies')
          .select('name')
          .where('id', '=', id)
          .forUpdate()
          .executeTakeFirst()
        if (row === undefined) return false
        const ofRule = trx
          .selectFrom('executions')
          .select('id')
          .where('vendor_type', '=', 'REPLICATION')
          .where('vendor_id', '=', id)
        const running = await ofRule.where('status', '=', 'InProgress').orderBy('id').execute()
        if (running.length > 0) {
          const ids = running.map((execution) => execution.id).join(', ')
          throw new ApiError(
            'PRECONDITION',
            `executions of the rule run (${ids}): stop them, or disable the rule, which stops them`,
          )
        }
        await trx.deleteFrom('executions').where('id', 'in', ofRule).execute()
        // What it selects goes with it.
        await trx.deleteFrom('replication_policies').where('id', '=', id).execute()
        await appendAudit(trx, policyAudit({ actor, operation: 'delete', name: row.name }), now)
        await appendEvents(trx, [{ type: 'rule-deleted', ruleId: id }], now)
        return true
      })
    },
  }
}

/** What edges are told of a rule. */
export function ruleFactOf(policy: Policy, selector: EdgeSelector): EventFact {
  return { type: 'rule', ...ruleOf(policy, selector) }
}

/** A rule as edges know it. */
export function ruleOf(policy: Policy, selector: EdgeSelector): RuleFact {
  const { id: ruleId, name, enabled, serve, platforms } = policy
  const guards = guardsOf(policy)
  return { ruleId, name, enabled, selector, serve, platforms, ...(guards && { guards }) }
}

/** Whether edges hold tags back until they know what this rule makes of them. */
export function isGuarding({ enabled, serve, trigger }: Policy): boolean {
  return enabled && serve === 'complete' && trigger === 'event_based'
}

/** By which tags a rule may be concerned: what its other filters leave of them is told once it is known. */
function guardsOf(policy: Policy): TagGuard | undefined {
  if (!isGuarding(policy)) return undefined
  const filters = policy.filters as readonly {
    readonly type: string
    readonly value?: unknown
    readonly decoration?: string
  }[]
  const patterns = (type: string) =>
    filters.flatMap(({ type: of, value, decoration }) =>
      of === type && decoration !== 'excludes' && typeof value === 'string' && value !== ''
        ? [value]
        : [],
    )
  return { repositories: patterns('name'), tags: patterns('tag') }
}

/** A row as a rule. */
export function readPolicy(row: Selectable<ReplicationPoliciesTable>): Policy {
  return {
    id: row.id,
    name: row.name,
    description: row.description,
    registryId: row.registry_id,
    filters: row.filters,
    platforms: row.platforms,
    trigger: row.trigger,
    deletion: row.deletion,
    override: row.override,
    enabled: row.enabled,
    serve: row.serve,
    copyByChunk: row.copy_by_chunk,
    singleActive: row.single_active,
    namespaceReplaceCount: row.namespace_replace_count,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  }
}

function columnsOf(policy: PolicyText) {
  return {
    name: policy.name,
    description: policy.description,
    registry_id: policy.registryId,
    filters: JSON.stringify(policy.filters),
    platforms: policy.platforms,
    trigger: policy.trigger,
    deletion: policy.deletion,
    override: policy.override,
    enabled: policy.enabled,
    serve: policy.serve,
    copy_by_chunk: policy.copyByChunk,
    single_active: policy.singleActive,
    namespace_replace_count: policy.namespaceReplaceCount,
  }
}

/** The registry must live on until this commits, with the selector that the edges are told. */
async function holdRegistry(trx: Transaction<Schema>, id: number): Promise<EdgeSelector> {
  const row = await trx
    .selectFrom('registries')
    .select('selector')
    // What is too large for an id finds nothing.
    .where('id', '=', sql<number>`${id}::bigint`)
    .forShare()
    .executeTakeFirst()
  if (row !== undefined) return row.selector
  throw new ApiError('BAD_REQUEST', `dest_registry: there is no registry with the id ${id}`)
}

async function refusingTaken<Result>(name: string, act: () => Promise<Result>): Promise<Result> {
  try {
    return await act()
  } catch (error) {
    if (!isUniqueViolation(error)) throw error
    throw new ApiError('CONFLICT', `the replication rule ${name} exists already`)
  }
}

function policyAudit(deed: {
  readonly actor: AuditActor
  readonly operation: AuditOperation<'replication-policy'>
  readonly name: string
}): AuditEntry {
  const { actor, operation, name } = deed
  return { actor, operation, resourceType: 'replication-policy', resource: name }
}

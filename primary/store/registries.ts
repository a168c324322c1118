import type { Selectable, Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import type { Listing } from '../../shared/api/listing.ts'
import type { Fields } from '../../shared/api/query.ts'
import type { EdgeSelector } from '../../shared/replication/events.ts'
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
import { readPolicy, ruleFactOf } from './policies.ts'
import type { RegistriesTable, Schema } from './schema.ts'

/** What may be said of a destination. */
export interface RegistryText {
  readonly name: string
  readonly url: string
  readonly description: string
  readonly insecure: boolean
  /** Which edges it is. */
  readonly selector: EdgeSelector
}

/** A destination of replication rules. */
export interface Registry extends RegistryText {
  readonly id: number
  readonly type: string
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** What registries may be filtered and sorted by. */
export const registryFields: Fields = {
  id: { column: 'id', type: 'integer' },
  name: { column: 'name', type: 'text' },
  type: { column: 'type', type: 'text' },
  url: { column: 'url', type: 'text' },
  description: { column: 'description', type: 'text' },
  creation_time: { column: 'created_at', type: 'time' },
  update_time: { column: 'updated_at', type: 'time' },
}

export type Registries = ReturnType<typeof createRegistries>

/** The destinations of replication rules. */
export function createRegistries(records: Records) {
  return {
    async get(id: number): Promise<Registry | undefined> {
      const row = await records
        .selectFrom('registries')
        .selectAll()
        .where('id', '=', id)
        .executeTakeFirst()
      return row && readRegistry(row)
    },

    /** Those of these ids, by id. */
    async getAll(ids: readonly number[]): Promise<ReadonlyMap<number, Registry>> {
      if (ids.length === 0) return new Map()
      const rows = await records
        .selectFrom('registries')
        .selectAll()
        .where('id', 'in', ids)
        .execute()
      return new Map(rows.map((row) => [row.id, readRegistry(row)]))
    },

    /** One page of them, by id unless sorted otherwise, and how many there are. */
    async list({ filters, sorts, page }: Listing): Promise<{
      readonly rows: readonly Registry[]
      readonly total: number
    }> {
      const query = applyFilters(records.selectFrom('registries'), filters)
      const { rows, total } = await readPage(query, {
        sorts,
        page,
        last: { column: 'id', descending: false },
        select: (sorted) => sorted.selectAll(),
      })
      return { rows: rows.map(readRegistry), total }
    },

    /**
     * Creates a destination.
     * @returns its id
     * @throws ApiError CONFLICT when the name is taken
     */
    create(registry: RegistryText & Pick<Registry, 'type'>, { actor, now }: Deed): Promise<number> {
      return refusingTaken(registry.name, () =>
        records.transaction().execute(async (trx) => {
          const { selector, ...text } = registry
          const { id } = await trx
            .insertInto('registries')
            .values({
              ...text,
              selector: JSON.stringify(selector),
              created_at: now,
              updated_at: now,
            })
            .returning('id')
            .executeTakeFirstOrThrow()
          await appendAudit(
            trx,
            registryAudit({ actor, operation: 'create', name: text.name }),
            now,
          )
          return id
        }),
      )
    },

    /**
     * Changes a destination, and tells the edges of its rules what these select now.
     * @returns false when there is none
     * @throws ApiError CONFLICT when the name is taken
     */
    update(id: number, text: RegistryText, { actor, now }: Deed): Promise<boolean> {
      return refusingTaken(text.name, () =>
        records.transaction().execute(async (trx) => {
          const row = await trx
            .updateTable('registries')
            .set({ ...text, selector: JSON.stringify(text.selector), updated_at: now })
            .where('id', '=', id)
            .returning('id')
            .executeTakeFirst()
          if (row === undefined) return false
          await appendAudit(
            trx,
            registryAudit({ actor, operation: 'update', name: text.name }),
            now,
          )
          const policies = await trx
            .selectFrom('replication_policies')
            .selectAll()
            .where('registry_id', '=', id)
            .orderBy('id')
            .forNoKeyUpdate()
            .execute()
          const { selector } = text
          await appendEvents(
            trx,
            policies.map((policy) => ruleFactOf(readPolicy(policy), selector)),
            now,
          )
          return true
        }),
      )
    },

    /**
     * Removes a destination.
     * @returns false when there is none
     * @throws ApiError PRECONDITION while a rule uses it
     */
    remove(id: number, { actor, now }: Deed): Promise<boolean> {
      return records.transaction().execute(async (trx) => {
        const row = await lockRegistry(trx, id)
        if (row === undefined) return false
        const user = await trx
          .selectFrom('replication_policies')
          .select('name')
          .where('registry_id', '=', id)
          .executeTakeFirst()
        if (user !== undefined) {
          throw new ApiError(
            'PRECONDITION',
            `the registry is used by the replication rule ${user.name}: delete the rule, or give it another destination`,
          )
        }
        await trx.deleteFrom('registries').where('id', '=', id).execute()
        await appendAudit(trx, registryAudit({ actor, operation: 'delete', name: row.name }), now)
        return true
      })
    },
  }
}

/** A rule that is made meanwhile holds the row by its foreign key. */
function lockRegistry(trx: Transaction<Schema>, id: number) {
  return trx
    .selectFrom('registries')
    .select('name')
    .where('id', '=', id)
    .forUpdate()
    .executeTakeFirst()
}

async function refusingTaken<Result>(name: string, act: () => Promise<Result>): Promise<Result> {
  try {
    return await act()
  } catch (error) {
    if (!isUniqueViolation(error)) throw error
    throw new ApiError('CONFLICT', `the registry ${name} exists already`)
  }
}

function readRegistry(row: Selectable<RegistriesTable>): Registry {
  const { id, type, name, url, description, insecure, selector } = row
  return {
    id,
    type,
    name,
    url,
    description,
    insecure,
    selector,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  }
}

function registryAudit(deed: {
  readonly actor: AuditActor
  readonly operation: AuditOperation<'registry'>
  readonly name: string
}): AuditEntry {
  const { actor, operation, name } = deed
  return { actor, operation, resourceType: 'registry', resource: name }
}

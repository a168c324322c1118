import { randomUUID } from 'node:crypto'
import { sql, type Expression, type SqlBool } from 'kysely'
import type { Page } from '../../shared/api/paging.ts'
import type { Fields, Filter, Sort } from '../../shared/api/query.ts'
import { appendAudit, type AuditActor, type AuditEntry, type AuditOperation } from './audit.ts'
import { isArtifact } from './artifacts.ts'
import type { Records } from './database.ts'
import { applyFilters, readPage } from './filters.ts'
import { appendEvents } from './outbox.ts'
import { visibleTo, type ProjectVisibility } from './projects.ts'
import { retryDeadlock } from './retry.ts'

/** A repository as the admin API shows it. */
export interface CatalogRepository {
  readonly id: number
  readonly projectId: number
  readonly projectName: string
  readonly projectPublic: boolean
  /** The whole name: `library/app`. */
  readonly name: string
  readonly description: string
  readonly artifactCount: number
  readonly pullCount: number
  readonly createdAt: Date
  readonly updatedAt: Date
}

export interface CatalogListing {
  /** Of one project, or of all that may be seen. */
  readonly projects: { readonly projectId: number } | ProjectVisibility
  readonly filters: readonly Filter[]
  readonly sorts: readonly Sort[]
  readonly page: Page
}

/** Who did it, where and when. */
export interface CatalogDeed {
  readonly actor: AuditActor
  readonly now: Date
}

/** What repositories may be filtered and sorted by. */
export const repositoryFields: Fields = {
  id: { column: 'r.id', type: 'integer' },
  repository_id: { column: 'r.id', type: 'integer' },
  name: { column: 'r.name', type: 'text' },
  project_id: { column: 'r.project_id', type: 'integer' },
  description: { column: 'r.description', type: 'text' },
  pull_count: { column: 'r.pull_count', type: 'integer' },
  creation_time: { column: 'r.created_at', type: 'time' },
  update_time: { column: 'r.updated_at', type: 'time' },
}

export type Catalog = ReturnType<typeof createCatalog>

/** Repositories as people see them: those that have a manifest. */
export function createCatalog(records: Records) {
  const select = () =>
    records
      .selectFrom('repositories as r')
      .innerJoin('projects as p', 'p.id', 'r.project_id')
      .where('r.deleted_at', 'is', null)
      .where('p.deleted_at', 'is', null)
      .where(
        sql<boolean>`EXISTS (SELECT 1 FROM manifests x WHERE x.repository_id = r.id AND x.deleted_at IS NULL)`,
      )

  return {
    /** One page of the repositories, by name unless sorted otherwise, and how many there are. */
    async list({ projects, filters, sorts, page }: CatalogListing): Promise<{
      readonly rows: readonly CatalogRepository[]
      readonly total: number
    }> {
      const query = applyFilters(select().where(ofProjects(projects)), filters)
      return readPage(query, {
        sorts,
        page,
        last: { column: 'r.name', descending: false },
        select: (sorted) => sorted.select(columns),
      })
    },

    /** A repository of that project by its whole name. */
    async get(projectId: number, name: string): Promise<CatalogRepository | undefined> {
      return select()
        .select(columns)
        .where('r.project_id', '=', projectId)
        .where('r.name', '=', name)
        .executeTakeFirst()
    },

    /** Changes what is said of a repository. */
    async setDescription(
      repository: CatalogRepository,
      description: string,
      { actor, now }: CatalogDeed,
    ): Promise<boolean> {
      return records.transaction().execute(async (trx) => {
        const changed = await trx
          .updateTable('repositories')
          .set({ description, updated_at: now })
          .where('id', '=', repository.id)
          .where('deleted_at', 'is', null)
          .returning('id')
          .executeTakeFirst()
        if (changed === undefined) return false
        await appendAudit(trx, repositoryAudit('update', repository, actor), now)
        return true
      })
    },

    /**
     * Deletes a repository with its tags and manifests, all under one deletion. Its links stay for the
     * collector; a new repository of that name has none of them.
     * @returns false when it is gone already
     */
    remove(repository: CatalogRepository, { actor, now }: CatalogDeed): Promise<boolean> {
      const { id, projectId, name } = repository
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          // Every push holds this row FOR KEY SHARE: what is committed is seen, what comes later is refused.
          const row = await trx
            .selectFrom('repositories')
            .select('id')
            .where('id', '=', id)
            .where('deleted_at', 'is', null)
            .forUpdate()
            .executeTakeFirst()
          if (row === undefined) return false
          const deletion = { deleted_at: now, deletion_id: randomUUID() }
          for (const table of ['tags', 'manifests'] as const) {
            await trx
              .updateTable(table)
              .set(deletion)
              .where('repository_id', '=', id)
              .where('deleted_at', 'is', null)
              .execute()
          }
          await trx.updateTable('repositories').set(deletion).where('id', '=', id).execute()
          await appendAudit(trx, repositoryAudit('delete', repository, actor), now)
          await appendEvents(
            trx,
            [{ type: 'repository-deleted', projectId, repositoryId: id, name }],
            now,
          )
          return true
        }),
      )
    },
  }
}

const columns = [
  'r.id',
  'r.project_id as projectId',
  'p.name as projectName',
  'p.public as projectPublic',
  'r.name',
  'r.description',
  'r.pull_count as pullCount',
  'r.created_at as createdAt',
  'r.updated_at as updatedAt',
  sql<number>`(
    SELECT count(*) FROM manifests a
    WHERE a.repository_id = r.id AND a.deleted_at IS NULL AND ${isArtifact(sql.ref('r.id'))})`.as(
    'artifactCount',
  ),
] as const

function ofProjects(projects: CatalogListing['projects']): Expression<SqlBool> {
  if ('projectId' in projects) return sql<SqlBool>`r.project_id = ${projects.projectId}`
  return visibleTo(projects)
}

function repositoryAudit(
  operation: AuditOperation<'repository'>,
  repository: CatalogRepository,
  actor: AuditActor,
): AuditEntry {
  return {
    actor,
    operation,
    resourceType: 'repository',
    resource: repository.name,
    projectId: repository.projectId,
  }
}

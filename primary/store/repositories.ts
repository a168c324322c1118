import { sql, type Transaction } from 'kysely'
import { OciError } from '../../shared/oci/errors.ts'
import { projectOf, type RepositoryName } from '../../shared/oci/reference.ts'
import type { EventFact } from '../../shared/replication/events.ts'
import type { RepositoryFacts } from '../accounts/caller.ts'
import type { Records } from './database.ts'
import type { Schema } from './schema.ts'

/** A repository that a transaction holds on to, and the fact to write if the transaction made it. */
export interface HeldRepository {
  readonly repository: RepositoryFacts
  readonly facts: readonly EventFact[]
}

export interface RepositoryPlace {
  readonly projectId: number
  readonly name: RepositoryName
}

export interface CatalogQuery {
  /** The projects whose repositories the caller may see. */
  readonly projectIds: 'all' | readonly number[]
  /** Names after this one, bytewise. */
  readonly after: string
  readonly limit: number
}

export type Repositories = ReturnType<typeof createRepositories>

/** Repositories as the distribution API lists them. */
export function createRepositories(records: Records) {
  return {
    /**
     * Names in bytewise order. A repository comes to be with its first upload session, and is listed
     * once it has a manifest.
     */
    async list({ projectIds, after, limit }: CatalogQuery): Promise<readonly RepositoryName[]> {
      let query = records
        .selectFrom('repositories as r')
        .select('r.name')
        .where('r.deleted_at', 'is', null)
        .where('r.name', '>', after)
        .where(
          sql<boolean>`EXISTS (SELECT 1 FROM manifests m WHERE m.repository_id = r.id AND m.deleted_at IS NULL)`,
        )
        .orderBy('r.name')
        .limit(limit)
      if (projectIds !== 'all') {
        query = query.where(sql<boolean>`r.project_id = ANY(${projectIds}::integer[])`)
      }
      const rows = await query.execute()
      return rows.map((row) => row.name as RepositoryName)
    },
  }
}

/**
 * The repository of that name, created when it is not there. Holds its row FOR KEY SHARE, and the
 * project's FOR SHARE where `guardProject` asks for it or the repository is new: whoever deletes
 * either locks the row FOR UPDATE first, and so sees what was pushed or makes the push be refused.
 * @throws OciError NAME_UNKNOWN when the project was deleted meanwhile
 */
export async function holdRepository(
  trx: Transaction<Schema>,
  place: RepositoryPlace & { readonly guardProject: boolean },
): Promise<HeldRepository> {
  if (place.guardProject) await holdProject(trx, place)
  const known = await findRepository(trx, place)
  if (known !== undefined) return { repository: known, facts: [] }
  if (!place.guardProject) await holdProject(trx, place)
  const inserted = await trx
    .insertInto('repositories')
    .values({ project_id: place.projectId, name: place.name, description: '' })
    .onConflict((conflict) =>
      conflict.columns(['name']).where('deleted_at', 'is', null).doNothing(),
    )
    .returning('id')
    .executeTakeFirst()
  if (inserted === undefined) {
    const other = await findRepository(trx, place)
    if (other === undefined) throw projectUnknown(place.name)
    return { repository: other, facts: [] }
  }
  const repository = { id: inserted.id, name: place.name, projectId: place.projectId }
  return {
    repository,
    facts: [
      {
        type: 'repository',
        projectId: place.projectId,
        repositoryId: inserted.id,
        name: place.name,
      },
    ],
  }
}

async function holdProject(trx: Transaction<Schema>, place: RepositoryPlace): Promise<void> {
  const row = await trx
    .selectFrom('projects')
    .select('id')
    .where('id', '=', place.projectId)
    .where('deleted_at', 'is', null)
    .forShare()
    .executeTakeFirst()
  if (row === undefined) throw projectUnknown(place.name)
}

async function findRepository(
  trx: Transaction<Schema>,
  place: RepositoryPlace,
): Promise<RepositoryFacts | undefined> {
  const row = await trx
    .selectFrom('repositories')
    .select('id')
    .where('name', '=', place.name)
    .where('project_id', '=', place.projectId)
    .where('deleted_at', 'is', null)
    .forKeyShare()
    .executeTakeFirst()
  return row && { id: row.id, name: place.name, projectId: place.projectId }
}

/** The refusal of what belongs to a project that is not there, for callers who may know that. */
export function projectUnknown(repository: RepositoryName): OciError {
  const project = projectOf(repository)
  return new OciError(
    'NAME_UNKNOWN',
    `the project ${project} does not exist: create it first (POST /api/v2.0/projects with {"project_name":"${project}"})`,
    { detail: { name: repository } },
  )
}

import { randomUUID } from 'node:crypto'
import { sql, type Expression, type SqlBool, type Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import type { Page } from '../../shared/api/paging.ts'
import type { Fields, Filter, Sort } from '../../shared/api/query.ts'
import type { EventFact } from '../../shared/replication/events.ts'
import type { ProjectFacts } from '../accounts/caller.ts'
import { roles } from '../accounts/permissions.ts'
import { appendAudit, type AuditActor, type AuditEntry, type AuditOperation } from './audit.ts'
import type { Records } from './database.ts'
import { applyFilters, readPage } from './filters.ts'
import { appendEvents } from './outbox.ts'
import { retryDeadlock } from './retry.ts'
import type { Schema } from './schema.ts'

/** What a project's settings are: Harbor's names and texts. `public` is always there. */
export type ProjectMetadata = Readonly<Record<string, string>>

/** A project as the API shows it. */
export interface Project extends ProjectFacts {
  readonly ownerId: number
  readonly ownerName: string
  readonly metadata: ProjectMetadata
  readonly repositoryCount: number
  readonly createdAt: Date
  readonly updatedAt: Date
  /** The role of who asks, by Harbor's ids. */
  readonly roleId: number | undefined
}

export interface NewProject {
  readonly name: string
  readonly public: boolean
  readonly metadata: ProjectMetadata
  readonly ownerId: number
}

/** Whose projects a list shows, besides the public ones. */
export type ProjectVisibility =
  | { readonly kind: 'all' }
  | { readonly kind: 'public' }
  | { readonly kind: 'member'; readonly userId: number }
  | { readonly kind: 'only' | 'all but'; readonly ids: readonly number[] }

export interface ProjectListing {
  readonly visibility: ProjectVisibility
  /** Whose role stands in the rows. */
  readonly userId: number | undefined
  readonly filters: readonly Filter[]
  readonly sorts: readonly Sort[]
  readonly page: Page
}

/** How many members have each role, by the role's id. */
export type MemberCounts = Readonly<Record<number, number>>

/** What projects may be filtered and sorted by. */
export const projectFields: Fields = {
  project_id: { column: 'p.id', type: 'integer' },
  name: { column: 'p.name', type: 'text' },
  public: { column: 'p.public', type: 'boolean' },
  owner_id: { column: 'p.owner_id', type: 'integer' },
  owner: { column: 'u.username', type: 'text' },
  creation_time: { column: 'p.created_at', type: 'time' },
  update_time: { column: 'p.updated_at', type: 'time' },
}

/** Projects are asked for by id or by name. */
export type ProjectKey = { readonly id: number } | { readonly name: string }

export type Projects = ReturnType<typeof createProjects>

/** Projects and their settings. A deleted name is free again, and a new project of that name inherits nothing. */
export function createProjects(records: Records) {
  const select = (userId: number | undefined) =>
    records
      .selectFrom('projects as p')
      .innerJoin('users as u', 'u.id', 'p.owner_id')
      .leftJoin('members as m', (join) =>
        join.onRef('m.project_id', '=', 'p.id').on('m.user_id', '=', userId ?? 0),
      )
      .where('p.deleted_at', 'is', null)
  const rolesOf = (
    userId: number,
  ): Promise<readonly { readonly projectId: number; readonly roleId: number }[]> =>
    records
      .selectFrom('members as m')
      .innerJoin('projects as p', 'p.id', 'm.project_id')
      .select(['p.id as projectId', 'm.role_id as roleId'])
      .where('m.user_id', '=', userId)
      .where('p.deleted_at', 'is', null)
      .execute()

  return {
    /** The user's roles, each in a project of its own. */
    rolesOf,

    /** The project, with the role in it of the user who asks. */
    async find(key: ProjectKey, userId: number | undefined): Promise<Project | undefined> {
      const query = select(userId)
      const row = await (
        'id' in key ? query.where('p.id', '=', key.id) : query.where('p.name', '=', key.name)
      )
        .select(projectColumns)
        .executeTakeFirst()
      return row && readProject(row)
    },

    /** The live projects of these names, with the user's role in each: what the token endpoint grants from. */
    findForGrant: async (
      names: readonly string[],
      userId: number | undefined,
    ): Promise<readonly (ProjectFacts & { readonly roleId: number | undefined })[]> => {
      if (names.length === 0) return []
      const rows = await records
        .selectFrom('projects as p')
        .leftJoin('members as m', (join) =>
          join.onRef('m.project_id', '=', 'p.id').on('m.user_id', '=', userId ?? 0),
        )
        .select(['p.id', 'p.name', 'p.public', 'm.role_id'])
        .where('p.name', 'in', names)
        .where('p.deleted_at', 'is', null)
        .execute()
      return rows.map(({ role_id: roleId, ...project }) => ({
        ...project,
        roleId: roleId ?? undefined,
      }))
    },

    /** The names of the projects of these ids; one that is deleted has none. */
    ids: async (): Promise<readonly number[]> => {
      const rows = await records
        .selectFrom('projects')
        .select('id')
        .where('deleted_at', 'is', null)
        .orderBy('id')
        .execute()
      return rows.map(({ id }) => id)
    },

    namesOf: async (ids: readonly number[]): Promise<ReadonlyMap<number, string>> => {
      if (ids.length === 0) return new Map()
      const rows = await records
        .selectFrom('projects')
        .select(['id', 'name'])
        .where('id', 'in', ids)
        .where('deleted_at', 'is', null)
        .execute()
      return new Map(rows.map(({ id, name }) => [id, name]))
    },

    /** One page of the projects that may be seen, by id unless sorted otherwise, and how many there are. */
    async list({ visibility, userId, filters, sorts, page }: ProjectListing): Promise<{
      readonly rows: readonly Project[]
      readonly total: number
    }> {
      const query = applyFilters(select(userId).where(visibleTo(visibility)), filters)
      const { rows, total } = await readPage(query, {
        sorts,
        page,
        last: { column: 'p.id', descending: false },
        select: (sorted) => sorted.select(projectColumns),
      })
      return { rows: rows.map(readProject), total }
    },

    /** The ids of the projects in which the user has that role. */
    async idsOfRole(userId: number, roleId: number): Promise<readonly number[]> {
      const roles = await rolesOf(userId)
      return roles.filter((role) => role.roleId === roleId).map(({ projectId }) => projectId)
    },

    /**
     * Creates a project, its owner being its first admin.
     * @returns its id
     * @throws ApiError CONFLICT when the name is taken
     */
    create(project: NewProject, actor: AuditActor, now: Date): Promise<number> {
      return records.transaction().execute(async (trx) => {
        const id = await insertProject(trx, project, now)
        if (id === undefined) {
          throw new ApiError('CONFLICT', `the project ${project.name} exists already`)
        }
        await recordCreation(trx, { id, project, actor, now })
        return id
      })
    },

    /**
     * Creates the project unless there is one of that name.
     * @returns its id, and whether it was created
     */
    ensure(
      project: NewProject,
      now: Date,
    ): Promise<{ readonly id: number; readonly created: boolean }> {
      return records.transaction().execute(async (trx) => {
        const id = await insertProject(trx, project, now)
        if (id !== undefined) {
          await recordCreation(trx, { id, project, actor: { username: '', address: '' }, now })
          return { id, created: true }
        }
        const known = await trx
          .selectFrom('projects')
          .select('id')
          .where('name', '=', project.name)
          .where('deleted_at', 'is', null)
          .executeTakeFirstOrThrow()
        return { id: known.id, created: false }
      })
    },

    /**
     * Changes settings: a text sets one, undefined removes it. `public` cannot be removed.
     * @param expect refuses the change unless the named setting is (or is not) there already
     * @returns false when there is no such project
     * @throws ApiError CONFLICT or NOT_FOUND as `expect` says
     */
    setMetadata(
      id: number,
      changes: Readonly<Record<string, string | undefined>>,
      deed: {
        readonly actor: AuditActor
        readonly now: Date
        readonly expect?: 'present' | 'absent'
      },
    ): Promise<boolean> {
      const { actor, now, expect } = deed
      return records.transaction().execute(async (trx) => {
        const project = await trx
          .selectFrom('projects')
          .select(['id', 'name', 'public', 'metadata'])
          .where('id', '=', id)
          .where('deleted_at', 'is', null)
          .forNoKeyUpdate()
          .executeTakeFirst()
        if (project === undefined) return false
        const metadata = showMetadata(project)
        for (const name of Object.keys(changes)) checkExpected(metadata, name, expect)
        const changed = mergeMetadata(metadata, changes)
        const isPublic = changed['public'] === 'true'
        await trx
          .updateTable('projects')
          .set({ public: isPublic, metadata: JSON.stringify(changed), updated_at: now })
          .where('id', '=', id)
          .execute()
        const description = describeChanges(changes)
        await appendAudit(
          trx,
          projectAudit({ actor, operation: 'update', project, description }),
          now,
        )
        await appendEvents(
          trx,
          [{ type: 'project', projectId: id, name: project.name, public: isPublic }],
          now,
        )
        return true
      })
    },

    /**
     * Deletes an empty project with its robots and labels. Repositories that never got a manifest go along.
     * @returns false when there is no such project
     * @throws ApiError PRECONDITION when it contains repositories
     */
    remove(id: number, actor: AuditActor, now: Date): Promise<boolean> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          // Whoever pushes holds this row FOR SHARE: from here on nobody can, and what was pushed is seen.
          const project = await trx
            .selectFrom('projects')
            .select(['id', 'name'])
            .where('id', '=', id)
            .where('deleted_at', 'is', null)
            .forUpdate()
            .executeTakeFirst()
          if (project === undefined) return false
          if (await hasRepositories(trx, id)) throw notEmpty()
          const facts = await removeContents(trx, { project, actor, now })
          await appendAudit(
            trx,
            projectAudit({ actor, operation: 'delete', project, description: '' }),
            now,
          )
          await appendEvents(trx, facts, now)
          return true
        }),
      )
    },

    /** How many members have each role. */
    async countMembers(id: number): Promise<MemberCounts> {
      const rows = await records
        .selectFrom('members as m')
        .innerJoin('users as u', 'u.id', 'm.user_id')
        .select((expression) => ['m.role_id', expression.fn.countAll<number>().as('count')])
        .where('m.project_id', '=', id)
        .where('u.deleted_at', 'is', null)
        .groupBy('m.role_id')
        .execute()
      return Object.fromEntries(rows.map(({ role_id: roleId, count }) => [roleId, count]))
    },

    /** The bytes that the project's repositories have by links, each digest counted once. */
    async usedBytes(id: number): Promise<number> {
      const { rows } = await sql<{ bytes: number }>`
        SELECT coalesce(sum(size), 0)::bigint AS bytes FROM (
          SELECT DISTINCT b.digest, b.size FROM links l
          JOIN repositories r ON r.id = l.repository_id AND r.deleted_at IS NULL
          JOIN blobs b ON b.digest = l.digest AND b.state <> 'gone'
          WHERE r.project_id = ${id}) AS held`.execute(records)
      return rows[0]?.bytes ?? 0
    },

    /** How many projects, and repositories in projects, may be seen: for the portal's first page. */
    async statistics(visible: {
      readonly projects: ProjectVisibility
      readonly repositories: ProjectVisibility
    }): Promise<Statistics> {
      const [projects, repositories] = [
        visibleTo(visible.projects),
        visibleTo(visible.repositories),
      ]
      const rows = await select(undefined)
        .where((expression) => expression.or([projects, repositories]))
        .select([
          'p.public',
          sql<number>`count(*) FILTER (WHERE ${projects})`.as('projects'),
          sql<number>`coalesce(sum(${repositoryCount}) FILTER (WHERE ${repositories}), 0)::bigint`.as(
            'repositories',
          ),
        ])
        .groupBy('p.public')
        .execute()
      const of = (isPublic: boolean) => {
        const row = rows.find((candidate) => candidate.public === isPublic)
        return { projects: row?.projects ?? 0, repositories: row?.repositories ?? 0 }
      }
      return { public: of(true), private: of(false) }
    },

    /** The bytes of all stored blobs. */
    async storedBytes(): Promise<number> {
      const row = await records
        .selectFrom('blobs')
        .select(sql<number>`coalesce(sum(size), 0)::bigint`.as('bytes'))
        .where('state', '<>', 'gone')
        .executeTakeFirstOrThrow()
      return row.bytes
    },
  }
}

/** Numbers of projects and repositories. */
export interface Statistics {
  readonly public: { readonly projects: number; readonly repositories: number }
  readonly private: { readonly projects: number; readonly repositories: number }
}

/** A repository is there for people once it has a manifest. */
const repositoryCount = sql<number>`(
  SELECT count(*) FROM repositories r WHERE r.project_id = p.id AND r.deleted_at IS NULL
    AND EXISTS (SELECT 1 FROM manifests x WHERE x.repository_id = r.id AND x.deleted_at IS NULL))`

const projectColumns = [
  'p.id',
  'p.name',
  'p.public',
  'p.metadata',
  'p.owner_id',
  'u.username as owner_name',
  'p.created_at',
  'p.updated_at',
  'm.role_id',
  repositoryCount.as('repository_count'),
] as const

interface ProjectRow {
  readonly id: number
  readonly name: string
  readonly public: boolean
  readonly metadata: Record<string, string>
  readonly owner_id: number
  readonly owner_name: string
  readonly created_at: Date
  readonly updated_at: Date
  readonly role_id: number | null
  readonly repository_count: number
}

function readProject(row: ProjectRow): Project {
  return {
    id: row.id,
    name: row.name,
    public: row.public,
    ownerId: row.owner_id,
    ownerName: row.owner_name,
    metadata: showMetadata(row),
    repositoryCount: row.repository_count,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
    roleId: row.role_id ?? undefined,
  }
}

/** The column `public` is what access reads, so it is what is shown. */
function showMetadata(row: {
  readonly public: boolean
  readonly metadata: ProjectMetadata
}): ProjectMetadata {
  return { ...row.metadata, public: String(row.public) }
}

function mergeMetadata(
  metadata: ProjectMetadata,
  changes: Readonly<Record<string, string | undefined>>,
): ProjectMetadata {
  const merged: Record<string, string> = { ...metadata }
  for (const [name, value] of Object.entries(changes)) {
    if (value !== undefined) merged[name] = value
    else if (name !== 'public') delete merged[name]
  }
  return merged
}

function checkExpected(
  metadata: ProjectMetadata,
  name: string,
  expect: 'present' | 'absent' | undefined,
): void {
  const isThere = Object.hasOwn(metadata, name)
  if (expect === 'present' && !isThere) {
    throw new ApiError('NOT_FOUND', `the project has no setting ${name}`)
  }
  if (expect === 'absent' && isThere) {
    throw new ApiError('CONFLICT', `the project has the setting ${name} already: change it by PUT`)
  }
}

function describeChanges(changes: Readonly<Record<string, string | undefined>>): string {
  return Object.entries(changes)
    .map(([name, value]) => (value === undefined ? `${name} removed` : `${name}=${value}`))
    .join(', ')
}

/** Which projects (`p`) are shown. */
export function visibleTo(visibility: ProjectVisibility): Expression<SqlBool> {
  switch (visibility.kind) {
    case 'all':
      return sql<SqlBool>`true`
    case 'public':
      return sql<SqlBool>`p.public`
    case 'member':
      return sql<SqlBool>`(p.public OR EXISTS (
        SELECT 1 FROM members v WHERE v.project_id = p.id AND v.user_id = ${visibility.userId}))`
    case 'only':
      return sql<SqlBool>`(p.public OR p.id = ANY(${[...visibility.ids]}::integer[]))`
    case 'all but':
      return sql<SqlBool>`(p.public OR p.id <> ALL(${[...visibility.ids]}::integer[]))`
  }
}

async function insertProject(
  trx: Transaction<Schema>,
  project: NewProject,
  now: Date,
): Promise<number | undefined> {
  const inserted = await trx
    .insertInto('projects')
    .values({
      name: project.name,
      owner_id: project.ownerId,
      public: project.public,
      metadata: JSON.stringify({ ...project.metadata, public: String(project.public) }),
      created_at: now,
      updated_at: now,
    })
    .onConflict((conflict) => conflict.doNothing())
    .returning('id')
    .executeTakeFirst()
  return inserted?.id
}

async function recordCreation(
  trx: Transaction<Schema>,
  creation: {
    readonly id: number
    readonly project: NewProject
    readonly actor: AuditActor
    readonly now: Date
  },
): Promise<void> {
  const { id, project, actor, now } = creation
  const { name, ownerId } = project
  await trx
    .insertInto('members')
    .values({ project_id: id, user_id: ownerId, role_id: roles.projectAdmin, created_at: now })
    .execute()
  const description = project.public ? 'public' : 'private'
  await appendAudit(
    trx,
    projectAudit({ actor, operation: 'create', project: { id, name }, description }),
    now,
  )
  await appendEvents(
    trx,
    [
      { type: 'project', projectId: id, name, public: project.public },
      { type: 'member', projectId: id, userId: ownerId, roleId: roles.projectAdmin },
    ],
    now,
  )
}

async function hasRepositories(trx: Transaction<Schema>, projectId: number): Promise<boolean> {
  const row = await trx
    .selectFrom('repositories as r')
    .innerJoin('manifests as x', 'x.repository_id', 'r.id')
    .select('r.id')
    .where('r.project_id', '=', projectId)
    .where('r.deleted_at', 'is', null)
    .where('x.deleted_at', 'is', null)
    .limit(1)
    .executeTakeFirst()
  return row !== undefined
}

/**
 * The project must live on until what is made for it is there, or its deletion must be seen.
 * @throws ApiError NOT_FOUND when it is gone
 */
export async function holdProject(trx: Transaction<Schema>, projectId: number): Promise<void> {
  const row = await trx
    .selectFrom('projects')
    .select('id')
    .where('id', '=', projectId)
    .where('deleted_at', 'is', null)
    .forShare()
    .executeTakeFirst()
  if (row === undefined) throw new ApiError('NOT_FOUND', 'the project was deleted meanwhile')
}

/** Marks the project, its empty repositories, its robots and its labels deleted, under one deletion. */
async function removeContents(
  trx: Transaction<Schema>,
  removal: {
    readonly project: { readonly id: number; readonly name: string }
    readonly actor: AuditActor
    readonly now: Date
  },
): Promise<readonly EventFact[]> {
  const { project, actor, now } = removal
  const projectId = project.id
  const deletion = { deleted_at: now, deletion_id: randomUUID() }
  const repositories = await trx
    .updateTable('repositories')
    .set(deletion)
    .where('project_id', '=', projectId)
    .where('deleted_at', 'is', null)
    .returning(['id', 'name'])
    .execute()
  const robots = await trx
    .updateTable('robots')
    .set(deletion)
    .where('project_id', '=', projectId)
    .where('deleted_at', 'is', null)
    .returning(['id', 'name'])
    .execute()
  const labels = await trx
    .updateTable('labels')
    .set(deletion)
    .where('project_id', '=', projectId)
    .where('deleted_at', 'is', null)
    .returning(['id', 'name'])
    .execute()
  const description = `with the project ${project.name}`
  const deed = { actor, operation: 'delete', projectId, description } as const
  for (const { name } of repositories) {
    await appendAudit(trx, { ...deed, resourceType: 'repository', resource: name }, now)
  }
  for (const { name } of robots) {
    await appendAudit(trx, { ...deed, resourceType: 'robot', resource: name }, now)
  }
  for (const { name } of labels) {
    await appendAudit(trx, { ...deed, resourceType: 'label', resource: name }, now)
  }
  await trx.updateTable('projects').set(deletion).where('id', '=', projectId).execute()
  return [
    ...repositories.map(({ id, name }): EventFact => ({
      type: 'repository-deleted',
      projectId,
      repositoryId: id,
      name,
    })),
    ...robots.map(({ id }): EventFact => ({ type: 'robot-deleted', robotId: id, projectId })),
    ...labels.map(({ id }): EventFact => ({ type: 'label-deleted', labelId: id, projectId })),
    { type: 'project-deleted', projectId, name: project.name },
  ]
}

function projectAudit(deed: {
  readonly actor: AuditActor
  readonly operation: AuditOperation<'project'>
  readonly project: { readonly id: number; readonly name: string }
  readonly description: string
}): AuditEntry {
  const { actor, operation, project, description } = deed
  return {
    actor,
    operation,
    resourceType: 'project',
    resource: project.name,
    projectId: project.id,
    description,
  }
}

function notEmpty(): ApiError {
  return new ApiError(
    'PRECONDITION',
    'the project contains repositories, can not be deleted: delete them first',
  )
}

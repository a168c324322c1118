import { listQuery, text, timestamp } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import { Type } from '../../shared/schema/type.ts'
import type { AdminApi } from '../accounts/admin-api.ts'
import { requireProject, type Admitted } from '../accounts/guard.ts'
import { repositoryFields, type Catalog, type CatalogRepository } from '../store/catalog.ts'
import { createFindRepository } from './find-repository.ts'
import { visibilityOf } from './projects.ts'

export interface RepositoryRouteDeps {
  readonly catalog: Catalog
  /** Epoch ms. */
  readonly now: () => number
}

const tag = 'repository'
const byProject = Type.Object({ project_name: Type.String() })
const byName = Type.Object({ project_name: Type.String(), repository_name: Type.String() })

const repositoryModel = Type.Object({
  id: Type.Integer(),
  project_id: Type.Integer(),
  name: Type.String(),
  description: Type.String(),
  artifact_count: Type.Integer(),
  pull_count: Type.Integer(),
  creation_time: timestamp,
  update_time: timestamp,
})

/** Repositories, as soon as something was pushed. [harbor api/v2.0/swagger.yaml, repository] */
export function repositoryRoutes(api: AdminApi, { catalog, now }: RepositoryRouteDeps): void {
  const find = createFindRepository(catalog)
  const deedOf = ({ actor }: Admitted) => ({ actor, now: new Date(now()) })

  api.route({
    method: 'GET',
    path: '/repositories',
    tag,
    summary: 'List the repositories of all projects that the caller may see',
    permission: { of: 'anybody' },
    query: listQuery,
    responses: { 200: Type.Array(repositoryModel) },
    handle: async ({ query, url, admitted }) => {
      const listing = parseListing(query, repositoryFields)
      const projects = visibilityOf(admitted, 'repository:list')
      const { rows, total } = await catalog.list({ ...listing, projects })
      return listAnswer(rows.map(showRepository), { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'GET',
    path: '/projects/:project_name/repositories',
    tag,
    summary: "List a project's repositories",
    permission: { of: 'project', permission: 'repository:list' },
    params: byProject,
    query: listQuery,
    responses: { 200: Type.Array(repositoryModel) },
    handle: async ({ query, url, admitted }) => {
      const listing = parseListing(query, repositoryFields)
      const projects = { projectId: requireProject(admitted).id }
      const { rows, total } = await catalog.list({ ...listing, projects })
      return listAnswer(rows.map(showRepository), { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'GET',
    path: '/projects/:project_name/repositories/:repository_name',
    tag,
    summary: 'Get a repository; a slash in its name is encoded twice (%252F)',
    permission: { of: 'project', permission: 'repository:read' },
    params: byName,
    responses: { 200: repositoryModel },
    handle: async ({ params, admitted }) => ({
      status: 200,
      body: showRepository(await find(params, admitted)),
    }),
  })

  api.route({
    method: 'PUT',
    path: '/projects/:project_name/repositories/:repository_name',
    tag,
    summary: "Change a repository's description",
    permission: { of: 'project', permission: 'repository:update' },
    params: byName,
    body: Type.Object({ description: Type.Optional(text(8192)) }),
    responses: { 200: undefined },
    handle: async ({ params, body, admitted }) => {
      const repository = await find(params, admitted)
      await catalog.setDescription(repository, body.description ?? '', deedOf(admitted))
      return { status: 200 }
    },
  })

  api.route({
    method: 'DELETE',
    path: '/projects/:project_name/repositories/:repository_name',
    tag,
    summary: 'Delete a repository with its tags and manifests',
    permission: { of: 'project', permission: 'repository:delete' },
    params: byName,
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      await catalog.remove(await find(params, admitted), deedOf(admitted))
      return { status: 200 }
    },
  })
}

function showRepository(repository: CatalogRepository) {
  return {
    id: repository.id,
    project_id: repository.projectId,
    name: repository.name,
    description: repository.description,
    artifact_count: repository.artifactCount,
    pull_count: repository.pullCount,
    creation_time: repository.createdAt.toISOString(),
    update_time: repository.updatedAt.toISOString(),
  }
}

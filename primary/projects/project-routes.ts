import type { Static } from 'typebox'
import { ApiError } from '../../shared/api/errors.ts'
import { listParameters, text, timestamp } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import type { Filter } from '../../shared/api/query.ts'
import { Type } from '../../shared/schema/type.ts'
import { apiPrefix, type AdminApi } from '../accounts/admin-api.ts'
import { projectNamed, requireProject, type Admitted, type Guard } from '../accounts/guard.ts'
import { isAllowedInProject, roles, type Permission } from '../accounts/permissions.ts'
import { projectFields, type Project, type Projects } from '../store/projects.ts'
import { metadataNames } from './metadata.ts'
import { visibilityOf, type ProjectRequest, type ProjectService } from './projects.ts'

export interface ProjectRouteDeps {
  readonly projects: Projects
  readonly service: ProjectService
  readonly guard: Pick<Guard, 'requireOwner'>
}

const tag = 'project'
const byNameOrId = Type.Object({ project_name_or_id: Type.String() })

const nullable = <Schema extends Parameters<typeof Type.Optional>[0]>(schema: Schema) =>
  Type.Optional(Type.Union([schema, Type.Null()]))

const requestModel = Type.Object({
  project_name: nullable(text(512)),
  public: nullable(Type.Boolean()),
  metadata: nullable(
    Type.Object(Object.fromEntries(metadataNames.map((name) => [name, nullable(text(64))]))),
  ),
  cve_allowlist: nullable(Type.Object({ items: nullable(Type.Array(Type.Unknown())) })),
  storage_limit: nullable(Type.Integer()),
  registry_id: nullable(Type.Integer()),
})

const projectModel = Type.Object({
  project_id: Type.Integer(),
  owner_id: Type.Integer(),
  name: Type.String(),
  registry_id: Type.Integer(),
  creation_time: timestamp,
  update_time: timestamp,
  deleted: Type.Boolean(),
  owner_name: Type.String(),
  togglable: Type.Boolean(),
  current_user_role_id: Type.Integer(),
  current_user_role_ids: Type.Array(Type.Integer()),
  repo_count: Type.Integer(),
  metadata: Type.Record(Type.String(), Type.String()),
  cve_allowlist: Type.Object({
    id: Type.Integer(),
    project_id: Type.Integer(),
    items: Type.Array(Type.Object({ cve_id: Type.String() })),
  }),
})

const summaryModel = Type.Object({
  repo_count: Type.Integer(),
  project_admin_count: Type.Optional(Type.Integer()),
  maintainer_count: Type.Optional(Type.Integer()),
  developer_count: Type.Optional(Type.Integer()),
  guest_count: Type.Optional(Type.Integer()),
  limited_guest_count: Type.Optional(Type.Integer()),
  quota: Type.Optional(
    Type.Object({
      hard: Type.Object({ storage: Type.Integer() }),
      used: Type.Object({ storage: Type.Integer() }),
    }),
  ),
})

/** Projects: `/projects`. [harbor api/v2.0/swagger.yaml, project] */
export function projectRoutes(api: AdminApi, { projects, service, guard }: ProjectRouteDeps): void {
  api.route({
    method: 'GET',
    path: '/projects',
    tag,
    summary: 'List the projects that the caller may see',
    permission: { of: 'anybody' },
    query: Type.Object({
      ...listParameters,
      name: Type.Optional(text(255)),
      owner: Type.Optional(text(255)),
      public: Type.Optional(Type.Boolean()),
      with_detail: Type.Optional(Type.Boolean()),
    }),
    responses: { 200: Type.Array(projectModel) },
    handle: async ({ query, url, admitted }) => {
      const listing = parseListing(query, projectFields)
      const { rows, total } = await projects.list({
        ...listing,
        filters: [...listing.filters, ...ownFilters(query)],
        visibility: visibilityOf(admitted, 'project:read'),
        userId: userIdOf(admitted),
      })
      return listAnswer(rows.map(showProject), { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'HEAD',
    path: '/projects',
    tag,
    summary: 'Ask whether a project of that name exists',
    permission: { of: 'named', permission: 'project:read' },
    query: Type.Object({ project_name: text(512) }),
    responses: { 200: undefined },
    handle: async ({ query, admitted }) => {
      // No project has a name that is none; the guard answers as for any that is not there.
      const key = projectNamed(query.project_name) ?? { name: '' }
      const { facts } = admitted
      // Scripts ask before they create, and whoever can create a project learns as much by trying.
      if (facts.kind === 'user' && (await projects.find(key, facts.id)) === undefined) {
        throw new ApiError('NOT_FOUND', 'there is no such project')
      }
      await guard.requireOwner(admitted, 'project:read', key)
      return { status: 200 }
    },
  })

  api.route({
    method: 'POST',
    path: '/projects',
    tag,
    summary: 'Create a project',
    permission: { of: 'account' },
    body: requestModel,
    responses: { 201: undefined },
    handle: async ({ body, headers, admitted }) => {
      const { id, name } = await service.create(readRequest(body), admitted)
      const byName = /^(?:true|1)$/i.test(String(headers['x-resource-name-in-location'] ?? ''))
      return { status: 201, headers: { Location: `${apiPrefix}/projects/${byName ? name : id}` } }
    },
  })

  api.route({
    method: 'GET',
    path: '/projects/:project_name_or_id',
    tag,
    summary: 'Get a project',
    permission: { of: 'project', permission: 'project:read' },
    params: byNameOrId,
    responses: { 200: projectModel },
    handle: ({ admitted }) => ({ status: 200, body: showProject(requireProject(admitted)) }),
  })

  api.route({
    method: 'PUT',
    path: '/projects/:project_name_or_id',
    tag,
    summary: "Change a project's settings",
    permission: { of: 'project', permission: 'project:update' },
    params: byNameOrId,
    body: requestModel,
    responses: { 200: undefined },
    handle: async ({ body, admitted }) => {
      await service.update(readRequest(body), admitted)
      return { status: 200 }
    },
  })

  api.route({
    method: 'DELETE',
    path: '/projects/:project_name_or_id',
    tag,
    summary: 'Delete an empty project',
    permission: { of: 'project', permission: 'project:delete' },
    params: byNameOrId,
    responses: { 200: undefined },
    handle: async ({ admitted }) => {
      await service.remove(admitted)
      return { status: 200 }
    },
  })

  api.route({
    method: 'GET',
    path: '/projects/:project_name_or_id/_deletable',
    tag,
    summary: 'Ask whether a project can be deleted, and why not',
    permission: { of: 'project', permission: 'project:delete' },
    params: byNameOrId,
    responses: { 200: Type.Object({ deletable: Type.Boolean(), message: Type.String() }) },
    handle: ({ admitted }) => {
      const deletable = requireProject(admitted).repositoryCount === 0
      const message = deletable ? '' : 'the project contains repositories, can not be deleted'
      return { status: 200, body: { deletable, message } }
    },
  })

  api.route({
    method: 'GET',
    path: '/projects/:project_name_or_id/summary',
    tag,
    summary: 'Count what a project has',
    permission: { of: 'project', permission: 'project:read' },
    params: byNameOrId,
    responses: { 200: summaryModel },
    handle: async ({ admitted }) => ({ status: 200, body: await summarise(admitted, projects) }),
  })
}

function readRequest(body: Static<typeof requestModel>): ProjectRequest {
  const metadata = Object.entries(body.metadata ?? {}).map(([name, value]) => [
    name,
    value ?? undefined,
  ])
  return {
    name: body.project_name ?? undefined,
    public: body.public ?? undefined,
    metadata: Object.fromEntries(metadata) as Record<string, string | undefined>,
    storageLimit: body.storage_limit ?? undefined,
    registryId: body.registry_id ?? undefined,
    allowlisted: body.cve_allowlist?.items?.length ?? 0,
  }
}

function ownFilters(query: {
  readonly name?: string
  readonly owner?: string
  readonly public?: boolean
}): readonly Filter[] {
  const { name, owner, public: isPublic } = query
  const filters: Filter[] = []
  if (name) filters.push({ kind: 'fuzzy', column: 'p.name', value: name })
  if (owner) filters.push({ kind: 'exact', column: 'u.username', value: owner })
  if (isPublic !== undefined) filters.push({ kind: 'exact', column: 'p.public', value: isPublic })
  return filters
}

function userIdOf({ facts }: Admitted): number | undefined {
  return facts.kind === 'user' ? facts.id : undefined
}

function showProject(project: Project) {
  const { id, roleId } = project
  return {
    project_id: id,
    owner_id: project.ownerId,
    name: project.name,
    registry_id: 0,
    creation_time: project.createdAt.toISOString(),
    update_time: project.updatedAt.toISOString(),
    deleted: false,
    owner_name: project.ownerName,
    togglable: true,
    current_user_role_id: roleId ?? 0,
    current_user_role_ids: roleId === undefined ? [] : [roleId],
    repo_count: project.repositoryCount,
    metadata: project.metadata,
    cve_allowlist: { id, project_id: id, items: [] },
  }
}

/** Who may not see members or quotas gets the rest. [harbor src/server/v2.0/handler/project.go GetProjectSummary] */
async function summarise(admitted: Admitted, projects: Projects) {
  const project = requireProject(admitted)
  const { roleId } = project
  const may = (permission: Permission) =>
    isAllowedInProject(admitted.facts, project, { roleId, permission })
  const members = may('member:list') ? await projects.countMembers(project.id) : undefined
  return {
    repo_count: project.repositoryCount,
    ...(members === undefined
      ? {}
      : {
          project_admin_count: members[roles.projectAdmin] ?? 0,
          maintainer_count: members[roles.maintainer] ?? 0,
          developer_count: members[roles.developer] ?? 0,
          guest_count: members[roles.guest] ?? 0,
          limited_guest_count: members[roles.limitedGuest] ?? 0,
        }),
    ...(may('quota:read')
      ? {
          quota: {
            hard: { storage: -1 },
            used: { storage: await projects.usedBytes(project.id) },
          },
        }
      : {}),
  }
}

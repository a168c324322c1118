import type { FastifyInstance } from 'fastify'
import { ApiError } from '../../shared/api/errors.ts'
import { text, timestamp } from '../../shared/api/fields.ts'
import { Type } from '../../shared/schema/type.ts'
import type { AdminApi } from '../accounts/admin-api.ts'
import type { Admitted } from '../accounts/guard.ts'
import {
  projectRobotPermissions,
  systemRobotPermissions,
  type Permission,
} from '../accounts/permissions.ts'
import type { Catalog } from '../store/catalog.ts'
import type { Projects, ProjectVisibility } from '../store/projects.ts'

/** A part of the primary and whether it works. */
export interface HealthComponent {
  readonly name: string
  /** What is wrong, for people; undefined: healthy. */
  readonly error?: string | undefined
}

export interface SystemRouteDeps {
  /** Where clients reach this registry. */
  readonly externalUrl: string
  /** Outport's own version. */
  readonly version: string
  readonly storageProvider: 'filesystem' | 's3'
  readonly health: () => Promise<readonly HealthComponent[]>
  /** Bytes of the volumes that hold blobs. */
  readonly volumes: () => Promise<readonly { readonly total: number; readonly free: number }[]>
  /** The PEM of the CA that clients must trust; undefined: they need none of ours. */
  readonly caCertificate: () => Promise<Buffer | undefined>
  readonly projects: Projects
  readonly catalog: Catalog
  /** In whose projects a caller finds names. */
  readonly visibilityOf: (
    admitted: Admitted,
    listed: 'project:read' | 'repository:list',
  ) => ProjectVisibility
  /** Epoch ms. */
  readonly now: () => number
}

/** The Harbor whose API this is: what clients compare versions with. */
const harborVersion = 'v2.15.0'

/** How the installation is: health, versions, what clients need to know. [harbor api/v2.0/swagger.yaml] */
export function systemRoutes(api: AdminApi, deps: SystemRouteDeps): void {
  probeRoutes(api, deps)
  infoRoutes(api, deps)
  searchRoutes(api, deps)
  permissionRoutes(api)
}

/** `/api/version`, which stands outside the API's own prefix. */
export function versionRoutes(app: FastifyInstance): void {
  app.get('/api/version', { config: { permission: { of: 'nobody' } } }, () => ({
    version: 'v2.0',
  }))
}

function probeRoutes(api: AdminApi, { health }: SystemRouteDeps): void {
  api.route({
    method: 'GET',
    path: '/ping',
    tag: 'ping',
    summary: 'Ask whether the API answers',
    permission: { of: 'nobody' },
    responses: { 200: Type.String() },
    handle: () => ({
      status: 200,
      headers: { 'Content-Type': 'text/plain; charset=utf-8' },
      body: 'Pong',
    }),
  })

  const status = Type.Union([Type.Literal('healthy'), Type.Literal('unhealthy')])
  api.route({
    method: 'GET',
    path: '/health',
    tag: 'health',
    summary: 'Ask which parts work; 200 either way',
    permission: { of: 'nobody' },
    responses: {
      200: Type.Object({
        status,
        components: Type.Array(
          Type.Object({ name: Type.String(), status, error: Type.Optional(Type.String()) }),
        ),
      }),
    },
    handle: async () => {
      const components = (await health()).map(({ name, error }) =>
        error === undefined ? { name, status: 'healthy' } : { name, status: 'unhealthy', error },
      )
      const isHealthy = components.every((component) => component.status === 'healthy')
      return { status: 200, body: { status: isHealthy ? 'healthy' : 'unhealthy', components } }
    },
  })

  api.route({
    method: 'GET',
    path: '/openapi.json',
    tag: 'openapi',
    summary: 'Get this document',
    permission: { of: 'nobody' },
    responses: { 200: Type.String() },
    handle: () => ({
      status: 200,
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify(api.describe()),
    }),
  })
}

const generalInfo = Type.Object({
  auth_mode: Type.String(),
  primary_auth_mode: Type.Boolean(),
  self_registration: Type.Boolean(),
  banner_message: Type.String(),
  oidc_provider_name: Type.String(),
  harbor_version: Type.Optional(Type.String()),
  outport_version: Type.Optional(Type.String()),
  external_url: Type.Optional(Type.String()),
  registry_url: Type.Optional(Type.String()),
  project_creation_restriction: Type.Optional(Type.String()),
  has_ca_root: Type.Optional(Type.Boolean()),
  read_only: Type.Optional(Type.Boolean()),
  notification_enable: Type.Optional(Type.Boolean()),
  registry_storage_provider_name: Type.Optional(Type.String()),
  current_time: Type.Optional(timestamp),
})

function infoRoutes(api: AdminApi, deps: SystemRouteDeps): void {
  const tag = 'systeminfo'
  api.route({
    method: 'GET',
    path: '/systeminfo',
    tag,
    summary: 'Get what clients need to know; more of it after a log-in',
    permission: { of: 'anybody' },
    responses: { 200: generalInfo },
    handle: async ({ admitted }) => {
      const open = {
        auth_mode: 'db_auth',
        primary_auth_mode: false,
        self_registration: false,
        banner_message: '',
        oidc_provider_name: '',
      }
      const body = admitted.account === undefined ? open : { ...open, ...(await describe(deps)) }
      return { status: 200, body }
    },
  })

  api.route({
    method: 'GET',
    path: '/systeminfo/volumes',
    tag,
    summary: 'Get the sizes of the volumes that hold blobs',
    permission: { of: 'system', permission: 'system-volumes:read' },
    responses: {
      200: Type.Object({
        storage: Type.Array(Type.Object({ total: Type.Integer(), free: Type.Integer() })),
      }),
    },
    handle: async () => ({ status: 200, body: { storage: await deps.volumes() } }),
  })

  api.route({
    method: 'GET',
    path: '/systeminfo/getcert',
    tag,
    summary: 'Get the CA certificate that clients must trust',
    permission: { of: 'nobody' },
    responses: { 200: Type.String({ description: 'PEM' }) },
    handle: async () => {
      const certificate = await deps.caCertificate()
      if (certificate === undefined) {
        throw new ApiError('NOT_FOUND', 'this registry has no CA certificate of its own to give')
      }
      return {
        status: 200,
        headers: {
          'Content-Type': 'application/x-x509-ca-cert',
          'Content-Disposition': 'attachment; filename=ca.crt',
          'X-Content-Type-Options': 'nosniff',
        },
        body: certificate.toString('utf8'),
      }
    },
  })

  const setting = <Value>(value: Value) => ({ value, editable: false })
  api.route({
    method: 'GET',
    path: '/configurations',
    tag: 'configure',
    summary: 'Get the settings of the installation, which are made in its configuration file',
    permission: { of: 'system', permission: 'configuration:read' },
    responses: { 200: Type.Record(Type.String(), Type.Unknown()) },
    handle: () => ({
      status: 200,
      body: {
        auth_mode: setting('db_auth'),
        self_registration: setting(false),
        project_creation_restriction: setting('everyone'),
        read_only: setting(false),
        robot_name_prefix: setting('robot$'),
        robot_token_duration: setting(30),
        storage_per_project: setting(-1),
        quota_per_project_enable: setting(false),
        notification_enable: setting(false),
      },
    }),
  })
}

async function describe({
  externalUrl,
  version,
  storageProvider,
  caCertificate,
  now,
}: SystemRouteDeps) {
  return {
    harbor_version: `${harborVersion}-outport-${version}`,
    outport_version: version,
    external_url: externalUrl,
    registry_url: new URL(externalUrl).host,
    project_creation_restriction: 'everyone',
    has_ca_root: (await caCertificate()) !== undefined,
    read_only: false,
    notification_enable: false,
    registry_storage_provider_name: storageProvider,
    current_time: new Date(now()).toISOString(),
  }
}

const maxFound = 100

function searchRoutes(api: AdminApi, { projects, catalog, visibilityOf }: SystemRouteDeps): void {
  api.route({
    method: 'GET',
    path: '/search',
    tag: 'search',
    summary: 'Find projects and repositories by a part of the name',
    permission: { of: 'anybody' },
    query: Type.Object({ q: text(255) }),
    responses: {
      200: Type.Object({
        project: Type.Array(
          Type.Object({
            project_id: Type.Integer(),
            name: Type.String(),
            owner_name: Type.String(),
            repo_count: Type.Integer(),
            metadata: Type.Record(Type.String(), Type.String()),
            creation_time: timestamp,
            update_time: timestamp,
          }),
        ),
        repository: Type.Array(
          Type.Object({
            project_id: Type.Integer(),
            project_name: Type.String(),
            project_public: Type.Boolean(),
            repository_name: Type.String(),
            pull_count: Type.Integer(),
            artifact_count: Type.Integer(),
          }),
        ),
      }),
    },
    handle: async ({ query, admitted }) => {
      const page = { number: 1, size: maxFound, offset: 0 }
      const named = (column: string) =>
        query.q === '' ? [] : [{ kind: 'fuzzy' as const, column, value: query.q }]
      const found = await projects.list({
        visibility: visibilityOf(admitted, 'project:read'),
        userId: undefined,
        filters: named('p.name'),
        sorts: [],
        page,
      })
      const repositories = await catalog.list({
        projects: visibilityOf(admitted, 'repository:list'),
        filters: named('r.name'),
        sorts: [],
        page,
      })
      return {
        status: 200,
        body: {
          project: found.rows.map((project) => ({
            project_id: project.id,
            name: project.name,
            owner_name: project.ownerName,
            repo_count: project.repositoryCount,
            metadata: project.metadata,
            creation_time: project.createdAt.toISOString(),
            update_time: project.updatedAt.toISOString(),
          })),
          repository: repositories.rows.map((repository) => ({
            project_id: repository.projectId,
            project_name: repository.projectName,
            project_public: repository.projectPublic,
            repository_name: repository.name,
            pull_count: repository.pullCount,
            artifact_count: repository.artifactCount,
          })),
        },
      }
    },
  })

  api.route({
    method: 'GET',
    path: '/statistics',
    tag: 'statistic',
    summary: 'Count projects and repositories; all of them and their bytes for administrators',
    permission: { of: 'account' },
    responses: {
      200: Type.Object({
        private_project_count: Type.Integer(),
        private_repo_count: Type.Integer(),
        public_project_count: Type.Integer(),
        public_repo_count: Type.Integer(),
        total_project_count: Type.Optional(Type.Integer()),
        total_repo_count: Type.Optional(Type.Integer()),
        total_storage_consumption: Type.Optional(Type.Integer()),
      }),
    },
    handle: async ({ admitted }) => {
      const counted = await projects.statistics({
        projects: visibilityOf(admitted, 'project:read'),
        repositories: visibilityOf(admitted, 'repository:list'),
      })
      const isAdmin = admitted.facts.kind === 'user' && admitted.facts.admin
      return {
        status: 200,
        body: {
          private_project_count: counted.private.projects,
          private_repo_count: counted.private.repositories,
          public_project_count: counted.public.projects,
          public_repo_count: counted.public.repositories,
          ...(isAdmin
            ? {
                total_project_count: counted.private.projects + counted.public.projects,
                total_repo_count: counted.private.repositories + counted.public.repositories,
                total_storage_consumption: await projects.storedBytes(),
              }
            : {}),
        },
      }
    },
  })
}

function permissionRoutes(api: AdminApi): void {
  const list = Type.Array(Type.Object({ resource: Type.String(), action: Type.String() }))
  const show = (permissions: ReadonlySet<Permission>) =>
    [...permissions].map((permission) => {
      const [resource = '', action = ''] = permission.split(':')
      return { resource, action }
    })
  api.route({
    method: 'GET',
    path: '/permissions',
    tag: 'permissions',
    summary: 'List the rights that robots can be given',
    permission: { of: 'account' },
    responses: { 200: Type.Object({ system: list, project: list }) },
    handle: () => ({
      status: 200,
      body: { system: show(systemRobotPermissions), project: show(projectRobotPermissions) },
    }),
  })
}

import type { FastifyInstance } from 'fastify'
import type { ListenerOptions } from '../shared/config/server-options.ts'
import { requirePermissions } from '../shared/http/permissions.ts'
import { createHttpServer, type HttpServer, type HttpServerOptions } from '../shared/http/server.ts'
import { OciError } from '../shared/oci/errors.ts'
import { joinPath, renewPath } from '../shared/replication/enrolment.ts'
import { createAdminApi, apiPrefix } from './accounts/admin-api.ts'
import type { Guard } from './accounts/guard.ts'
import type { RobotRouteDeps } from './accounts/robot-routes.ts'
import { accountRoutes } from './accounts/routes.ts'
import type { UserRouteDeps } from './accounts/user-routes.ts'
import { auditRoutes, type AuditRouteDeps } from './audit/routes.ts'
import type { ArtifactRouteDeps } from './catalog/artifact-routes.ts'
import type { LabelRouteDeps } from './catalog/label-routes.ts'
import { catalogRoutes } from './catalog/routes.ts'
import type { ClientEdges } from './edges/client-edges.ts'
import { clientEdgeRoutes } from './edges/client-routes.ts'
import { edgeRoutes, type EdgeRouteDeps } from './edges/routes.ts'
import { keyRoutes, type KeyRouteDeps } from './keys/routes.ts'
import { projectRoomRoutes } from './projects/routes.ts'
import type { MemberRouteDeps } from './projects/member-routes.ts'
import type { ProjectRouteDeps } from './projects/project-routes.ts'
import type { RepositoryRouteDeps } from './projects/repository-routes.ts'
import { registryRoutes, type RegistryRouteDeps } from './registry/routes.ts'
import type { ExecutionRouteDeps } from './replication/execution-routes.ts'
import type { PolicyRouteDeps } from './replication/policy-routes.ts'
import type { PreheatRouteDeps } from './replication/preheat-routes.ts'
import type { RegistryRouteDeps as DestinationRouteDeps } from './replication/registry-routes.ts'
import { replicationRoutes } from './replication/routes.ts'
import { systemRoutes, versionRoutes, type SystemRouteDeps } from './system/routes.ts'
import { tokenRoutes, type TokenRouteDeps } from './tokens/routes.ts'

/** What the rooms' routes are given. */
export interface Rooms {
  readonly registry: RegistryRouteDeps
  readonly tokens: TokenRouteDeps
  readonly guard: Guard
  readonly accounts: UserRouteDeps & RobotRouteDeps
  readonly projects: ProjectRouteDeps & MemberRouteDeps & RepositoryRouteDeps
  readonly catalog: ArtifactRouteDeps & LabelRouteDeps
  readonly audit: AuditRouteDeps
  readonly edges: EdgeRouteDeps
  readonly keys: KeyRouteDeps
  readonly replication: DestinationRouteDeps &
    PolicyRouteDeps &
    ExecutionRouteDeps &
    PreheatRouteDeps
  readonly clientEdges: ClientEdges
  readonly system: SystemRouteDeps
}

export interface PrimaryServerOptions extends Omit<HttpServerOptions, 'name' | 'listener'> {
  readonly rooms: Rooms
  readonly version: string
  readonly maxBodyBytes: number
  /** Called when a request of the admin API may have changed something: events need not wait for the next poll. */
  readonly onChange: () => void
}

/** Makes the server of one listener, with every room's routes. */
export async function createPrimaryServer(
  name: string,
  listener: ListenerOptions,
  options: PrimaryServerOptions,
): Promise<HttpServer> {
  const server = await createHttpServer({ ...options, name, listener })
  const { app } = server
  if (listener.insecure_http === 'anonymous') refuseLogIns(app)
  addHooks(app, options)
  addRooms(app, options)
  return server
}

/**
 * The map of the API.
 * @throws Error for a route that does not declare who may call it
 */
export function addRooms(
  app: FastifyInstance,
  {
    rooms,
    version,
    maxBodyBytes,
  }: Pick<PrimaryServerOptions, 'rooms' | 'version' | 'maxBodyBytes'>,
): void {
  const { guard } = rooms
  requirePermissions(app)
  registryRoutes(app, rooms.registry)
  tokenRoutes(app, rooms.tokens)
  clientEdgeRoutes(app, rooms)
  versionRoutes(app)
  const api = createAdminApi(app, { guard, version, maxBodyBytes })
  accountRoutes(api, rooms.accounts)
  projectRoomRoutes(api, rooms.projects)
  catalogRoutes(api, rooms.catalog)
  auditRoutes(api, rooms.audit)
  edgeRoutes(api, rooms.edges)
  keyRoutes(api, rooms.keys)
  replicationRoutes(api, rooms.replication)
  systemRoutes(api, rooms.system)
}

function addHooks(app: FastifyInstance, { onChange }: PrimaryServerOptions): void {
  app.addHook('onSend', (request, reply, payload, done) => {
    void reply.header('X-Content-Type-Options', 'nosniff')
    const { method = '', url = '' } = request.raw
    if (method !== 'GET' && method !== 'HEAD' && url.startsWith(apiPrefix)) onChange()
    done(null, payload)
  })
}

const credentialHeaders = ['authorization', 'outport-edge-authorization']

/**
 * Plain http on a network shows whatever crosses it: a listener for public content takes no log-ins, and what
 * a client sends all the same goes no further than here.
 */
function refuseLogIns(app: FastifyInstance): void {
  app.addHook('onRequest', (request, _reply, done) => {
    const { headers, method, url = '' } = request.raw
    for (const name of credentialHeaders) delete headers[name]
    const isLogIn =
      method === 'POST' &&
      ['/service/token', joinPath, renewPath].some((path) => url.startsWith(path))
    done(
      isLogIn
        ? new OciError('DENIED', 'this listener serves public content only: log in over HTTPS')
        : undefined,
    )
  })
}

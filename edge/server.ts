import { atPortOf } from '../shared/config/origins.ts'
import { requirePermissions } from '../shared/http/permissions.ts'
import type { UpstreamClient } from '../shared/upstream/fetch.ts'
import { createHttpServer, type HttpServer, type HttpServerOptions } from '../shared/http/server.ts'
import {
  createChallengingAccess,
  createOpenAccess,
  type AuthoriseDeps,
} from './access/authorise.ts'
import type { Realm } from './access/challenge.ts'
import { createPassthroughAccess } from './access/passthrough.ts'
import { tokenRoutes, type TokenRoutesDeps } from './access/routes.ts'
import type { EdgeListenerOptions } from './config.ts'
import { createMirror, type MirrorDeps } from './mirror/routes.ts'

export interface EdgeServerDeps {
  readonly listener: EdgeListenerOptions
  readonly http: Omit<HttpServerOptions, 'name' | 'listener'>
  readonly mirror: Omit<MirrorDeps, 'listener'>
  readonly tokens: Omit<TokenRoutesDeps, 'takesLogins'>
  readonly access: AuthoriseDeps
  readonly client: (upstream: string) => UpstreamClient
  /** What tokens of this edge are for. */
  readonly service: string
  /** What clients type; undefined: the address that is listened on. */
  readonly externalUrl: string | undefined
  readonly pushUrl: string | undefined
}

/** One listener with its manners: open, challenging with a token service of its own, or one upstream's. */
export async function createEdgeServer(deps: EdgeServerDeps): Promise<{
  readonly server: HttpServer
  listen(): Promise<URL>
}> {
  const { listener, registries } = { listener: deps.listener, registries: deps.mirror.registries }
  const fallback = registries.resolve(listener.default)
  if (fallback === undefined)
    throw new Error(`listener ${listener.name}: no upstream ${listener.default}`)
  const server = await createHttpServer({ ...deps.http, name: listener.name, listener })
  // Known once the port is: until then nobody can ask.
  const realm: { url: string; service: string } = { url: '', service: deps.service }
  const takesLogins = listener.insecure_http !== 'anonymous' || listener.tls !== undefined
  const isPassthrough = listener.passthrough !== undefined
  const isOpenListener = listener.ping === 'open'
  const authorise = isPassthrough
    ? createPassthroughAccess({ client: deps.client(fallback.id), ...deps.access })
    : isOpenListener
      ? createOpenAccess(deps.access)
      : createChallengingAccess(deps.access, { realm, takesLogins })
  // Access is decided by upstream and repository, before any look-up.
  server.serveRegistry(
    createMirror({ ...deps.mirror, listener: { fallback, authorise, pushUrl: deps.pushUrl } }),
  )
  requirePermissions(server.app)
  if (!isOpenListener && !isPassthrough) tokenRoutes(server.app, { ...deps.tokens, takesLogins })
  return {
    server,
    async listen() {
      const url = await server.listen()
      realm.url = realmUrl(
        deps.externalUrl === undefined ? url.origin : atPortOf(deps.externalUrl, url),
      )
      return url
    },
  }
}

function realmUrl(origin: string): Realm['url'] {
  return `${origin.replace(/\/$/, '')}/service/token`
}

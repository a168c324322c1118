import { atPortOf } from '../../shared/config/origins.ts'
import {
  createHttpServer,
  type HttpServer,
  type HttpServerOptions,
} from '../../shared/http/server.ts'
import type { Authorise } from '../access/authorise.ts'
import type { EdgeOptions } from '../config.ts'
import { createMirror, type MirrorDeps } from '../mirror/routes.ts'
import { createUploadRate } from './upload-rate.ts'
import { createUploads } from './uploads.ts'

export interface PeerServerDeps {
  readonly http: Omit<HttpServerOptions, 'name' | 'listener'>
  readonly mirror: Omit<MirrorDeps, 'listener'>
  readonly access: Authorise
  /** The primary's id in the table of upstreams. */
  readonly upstream: string
}

export interface PeerServer {
  readonly server: HttpServer
  readonly listening: URL
  /** How other edges reach it. */
  readonly url: string
}

/** The listener that other edges of the site get blobs at; nobody gets in before this edge has a certificate. */
export async function createPeerServer(
  { address, port, external_url, uploads, upload_rate }: NonNullable<EdgeOptions['peers']>,
  { http, mirror, access, upstream }: PeerServerDeps,
): Promise<PeerServer> {
  const fallback = mirror.registries.resolve(upstream)
  if (fallback === undefined) throw new Error(`there is no upstream ${upstream}`)
  const server = await createHttpServer({
    ...http,
    name: 'peers',
    listener: { address, port },
    mutual: true,
  })
  const rate = upload_rate === undefined ? undefined : createUploadRate(upload_rate)
  const blobs = createUploads(mirror.blobs, { limit: uploads, rate })
  server.serveRegistry(
    createMirror({
      ...mirror,
      blobs,
      listener: { fallback, authorise: access, pushUrl: undefined },
    }),
  )
  const listening = await server.listen()
  const url = external_url === undefined ? listening.origin : atPortOf(external_url, listening)
  return { server, listening, url }
}

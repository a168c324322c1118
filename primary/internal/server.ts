import { isIP } from 'node:net'
import { isLoopback } from '../../shared/config/origins.ts'
import type { ServerLimits, ServerTimeouts } from '../../shared/config/server-options.ts'
import { createHttpServer, type HttpServer } from '../../shared/http/server.ts'
import type { Logger } from '../../shared/observability/log.ts'
import type { HttpMetrics } from '../../shared/observability/metrics.ts'
import type { CertificateNames } from '../../shared/trust/names.ts'
import type { PrimaryOptions } from '../config.ts'
import type { CurrentKeys } from '../events/current-keys.ts'
import type { CaRing } from '../store/keys.ts'
import { keptCertificate } from './certificate.ts'
import { internalRoutes, type InternalRouteDeps } from './routes.ts'

export interface InternalServerOptions {
  readonly options: PrimaryOptions
  /** For its certificate. */
  readonly folder: string
  readonly routes: Omit<InternalRouteDeps, 'log'>
  readonly keys: Pick<CurrentKeys, 'knownCa' | 'onRead'>
  readonly log: Logger
  readonly httpMetrics: HttpMetrics
  readonly timeouts: ServerTimeouts
  readonly limits: Partial<ServerLimits>
}

export interface InternalServer {
  readonly server: HttpServer
  /** Starts to listen. @returns how edges reach it */
  listen(): Promise<URL>
}

/** Long before the certificate ends. */
const renewMs = 24 * 3_600_000

/** The listener that edges alone get in at: both sides show a certificate of the edges' own CA. */
export async function createInternalServer({
  options,
  folder,
  routes,
  keys,
  log,
  httpMetrics,
  timeouts,
  limits,
}: InternalServerOptions): Promise<InternalServer> {
  const { internal } = options
  const names = namesOf(options)
  const server = await createHttpServer({
    name: 'internal',
    listener: { address: internal.address, port: internal.port },
    mutual: true,
    upgrades: true,
    log,
    httpMetrics,
    timeouts,
    limits,
  })
  let known: CaRing | undefined
  /** No edge has a certificate before there is a CA: nobody is refused who could be let in. */
  const certify = async (): Promise<void> => {
    known = keys.knownCa()
    if (known === undefined) return
    const { issuing, trusted } = known
    const { cert, key } = await keptCertificate(issuing, { folder, names, now: () => new Date() })
    server.setMutual({ cert, key, ca: trusted })
  }
  const certifyAgain = (): Promise<void> =>
    certify().catch((err: unknown) =>
      log.error({ err }, 'the internal listener could not be given a certificate'),
    )
  void certifyAgain()
  keys.onRead(async () => {
    if (keys.knownCa()?.trusted.join('') !== known?.trusted.join('')) await certifyAgain()
  })
  internalRoutes(server.app, { ...routes, log })
  const renewal = setInterval(() => void certifyAgain(), renewMs).unref()
  return {
    server: {
      ...server,
      async drain(deadlineMs) {
        clearInterval(renewal)
        routes.feeds.close()
        await server.drain(deadlineMs)
      },
    },
    async listen() {
      const url = await server.listen()
      return reachedBy(options, url)
    },
  }
}

function namesOf(options: PrimaryOptions): CertificateNames {
  const { internal, external_url } = options
  const hosts = [internal.external_url, external_url]
    .filter((url) => url !== undefined)
    .map((url) => new URL(url).hostname.replaceAll(/[[\]]/g, ''))
  const all = [...new Set([...hosts, internal.address, '127.0.0.1', 'localhost'])]
  return {
    dnsNames: all.filter((name) => isIP(name) === 0),
    ipAddresses: all.filter((name) => isIP(name) !== 0),
  }
}

function reachedBy({ internal, external_url }: PrimaryOptions, listening: URL): URL {
  if (internal.external_url !== undefined) return new URL(internal.external_url)
  if (external_url === undefined || isLoopback(internal.address)) return listening
  const url = new URL(listening)
  url.hostname = new URL(external_url).hostname
  return url
}

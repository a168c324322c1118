import { readSecretFile, readTextFile } from '../../shared/files/text-file.ts'
import { createHttpClient, type HttpRequest } from '../../shared/http/client.ts'
import { createGuard } from '../../shared/http/guard.ts'
import { readClientCertificate } from '../../shared/http/tls-files.ts'
import { createUpstreamClient } from '../../shared/upstream/client.ts'
import type { UpstreamClient } from '../../shared/upstream/fetch.ts'
import type { Registries } from '../../shared/upstream/registries.ts'
import type { AskPrimary, PrimaryAnswer } from '../access/token-relay.ts'
import type { EdgeOptions, UpstreamOptions } from '../config.ts'
import type { EdgeMetrics } from '../metrics.ts'
import { proxyChoiceOf } from './outbound.ts'
import type { UpstreamFiles } from './table.ts'

/**
 * Reads the files that the upstreams' configuration names, by upstream id.
 * @throws Error with a one-line message that names the file
 */
export async function readUpstreamFiles(
  upstreams: readonly UpstreamOptions[],
): Promise<ReadonlyMap<string, UpstreamFiles>> {
  const files = new Map<string, UpstreamFiles>()
  for (const { id, ca, client_cert, credentials } of upstreams) {
    const { password, password_file } = credentials ?? {}
    files.set(id, {
      ca: ca === undefined ? undefined : await readTextFile(ca),
      password:
        password ?? (password_file === undefined ? undefined : await readSecretFile(password_file)),
      clientCertificate:
        client_cert === undefined ? undefined : await readClientCertificate(client_cert),
    })
  }
  return files
}

/** One client for each upstream; whoever made them closes them. */
export interface Clients {
  readonly of: (this: void, upstream: string) => UpstreamClient
  readonly all: readonly UpstreamClient[]
  close(): Promise<void>
}

export interface ClientsDeps {
  readonly edge: EdgeOptions
  /** Ports where this process listens: nobody may make it call itself. */
  readonly ownPorts: () => readonly number[]
  readonly metrics: EdgeMetrics
  /** What the primary is told with each manifest that is fetched from it. */
  readonly primaryHeaders: () => Readonly<Record<string, string>>
}

export function createClients(
  registries: Registries,
  { edge, ownPorts, metrics, primaryHeaders }: ClientsDeps,
): Clients {
  const timeouts = {
    connectTimeoutMs: edge.fill.connect,
    headersTimeoutMs: edge.fill.no_progress,
    stallMs: edge.fill.no_progress,
  }
  const chooseProxy = proxyChoiceOf(edge.outbound)
  const clients = new Map(
    registries.entries.map((entry) => [
      entry.id,
      createUpstreamClient({
        entry,
        allow: edge.outbound.allow,
        chooseProxy,
        ownPorts,
        timeouts,
        ...(entry.kind === 'primary' && { ownHeaders: primaryHeaders }),
        observer: {
          onBytes: (count) => metrics.received(entry.id, count),
          onError: (code) => metrics.upstreamError(entry.id, code),
        },
      }),
    ]),
  )
  return {
    all: [...clients.values()],
    of(upstream) {
      const client = clients.get(upstream)
      if (client === undefined) throw new Error(`there is no upstream ${upstream}`)
      return client
    },
    async close() {
      await Promise.all([...clients.values()].map((client) => client.close()))
    },
  }
}

/** The table always has the primary. */
export function primaryOf(edge: EdgeOptions): UpstreamOptions {
  const primary = edge.upstreams.find(({ kind }) => kind === 'outport')
  if (primary === undefined) throw new Error('the table of upstreams has no primary')
  return primary
}

/** Questions to the primary that belong to no repository: log-ins and keys. */
export function createAsk(
  edge: EdgeOptions,
  { ca, clientCertificate }: UpstreamFiles,
): {
  ask: AskPrimary
  /** Sends JSON. */
  post: (path: string, body: object) => Promise<PrimaryAnswer>
  close: () => void
} {
  const base = new URL(primaryOf(edge).url)
  const http = createHttpClient({
    guard: createGuard({ configured: [base] }),
    ca,
    clientCertificate,
    ownOrigin: base,
    chooseProxy: proxyChoiceOf(edge.outbound),
    connectTimeoutMs: edge.fill.connect,
    headersTimeoutMs: edge.fill.no_progress,
    stallMs: edge.fill.no_progress,
  })
  const send = async (path: string, request: HttpRequest): Promise<PrimaryAnswer> => {
    const { status, headers, body } = await http.request(new URL(path, base), request)
    return { status, headers, body: body.toString('utf8') }
  }
  return {
    ask: (path, headers) => send(path, { headers }),
    post: (path, body) =>
      send(path, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      }),
    close: () => http.close(),
  }
}

import { EventEmitter } from 'node:events'
import { isRecord } from '../config/record.ts'
import { readSecretFile, readTextFile } from '../files/text-file.ts'
import { createAgents, createHttpClient, HttpError, type HttpClient } from '../http/client.ts'
import type { ClientCertificate } from '../http/door.ts'
import { createGuard } from '../http/guard.ts'
import { readClientCertificate } from '../http/tls-files.ts'
import type { Coordinate } from '../site/nearness.ts'
import { parseCoordinates } from './coordinates.ts'
import type { ConsulOptions } from './options.ts'

/** Which agent is asked, as whom, and what it is asked about. */
export interface ConsulSettings {
  /** An origin: `http://127.0.0.1:8500`. It is dialled at whatever address it has. */
  readonly url: URL
  /** PEM of the CAs to trust there instead of the system's. */
  readonly ca?: string | undefined
  readonly clientCertificate?: ClientCertificate | undefined
  /** Asked for every request, so that a token that was replaced counts at once. */
  readonly token?: (() => Promise<string>) | undefined
  /** Of look-ups; what is registered is in the agent's own. */
  readonly datacenter?: string | undefined
  readonly namespace?: string | undefined
  readonly partition?: string | undefined
}

/** The calls of a Consul agent that are needed here. All of them throw ConsulError. */
export interface ConsulClient {
  /** The datacenter that look-ups are about; absent: the agent's own. */
  readonly datacenter: string | undefined
  /** The agent that is asked. */
  self(signal?: AbortSignal): Promise<ConsulAgent>
  /** A GET of any path below `/v1/`, which may block. */
  read(path: string, options?: ConsulRead): Promise<ConsulAnswer>
  /** Where the nodes of a datacenter are, by their names, as the servers had it some seconds ago. */
  coordinates(signal?: AbortSignal): Promise<ReadonlyMap<string, Coordinate>>
  /** Registers a service with its check, or replaces it. */
  register(service: ServiceRegistration, signal?: AbortSignal): Promise<void>
  /** Says that the check is passing, and begins its time anew. Nothing else is said, so that nothing changes. */
  pass(checkId: string, signal?: AbortSignal): Promise<void>
  fail(checkId: string, note: string, signal?: AbortSignal): Promise<void>
  /** Nothing happens when the agent does not have it. */
  deregister(serviceId: string, signal?: AbortSignal): Promise<void>
  close(): void
}

export interface ConsulAgent {
  readonly node: string
  readonly datacenter: string
}

export interface ConsulRead {
  readonly query?: Readonly<Record<string, string>>
  /** Of what: services, which are in a namespace, if not said; nodes, which are not; or the agent itself. */
  readonly of?: 'services' | 'nodes' | 'agent'
  /** 10 s without. */
  readonly timeoutMs?: number
  /** The longest answer that is read; 1 MiB without. */
  readonly maxBytes?: number
  readonly signal?: AbortSignal | undefined
}

/** What is read, and how far it is to be believed. [Consul, HTTP API, Blocking queries; Consistency modes] */
export interface ConsulAnswer {
  /** Parsed JSON. */
  readonly body: unknown
  /** Absent where the endpoint has none, or none that is a number. */
  readonly index: number | undefined
  /** Milliseconds since the server that answered heard of its leader. */
  readonly lastContactMs: number
  readonly hasLeader: boolean
}

/** A service and its one check, which is passed by us. */
export interface ServiceRegistration {
  readonly id: string
  readonly name: string
  readonly address: string
  readonly port: number
  readonly tags: readonly string[]
  readonly meta: Readonly<Record<string, string>>
  readonly check: {
    readonly id: string
    readonly name: string
    /** A text for people; it never changes. */
    readonly notes: string
    readonly ttlMs: number
    readonly status: 'passing' | 'critical'
    /** Consul forgets a service that was critical for so long: a minute at least. */
    readonly deregisterAfterMs: number
  }
}

/**
 * `unavailable` no answer, or one of 429 or 5xx · `forbidden` the token may not · `refused` any other 4xx ·
 * `broken` what was answered cannot be understood.
 */
export type ConsulErrorCode = 'unavailable' | 'forbidden' | 'refused' | 'broken'

/** Consul did not do what it was asked. The message names the call, never a token. */
export class ConsulError extends Error {
  override readonly name = 'ConsulError'
  readonly code: ConsulErrorCode
  /** Of the answer, if there was one. */
  readonly status: number | undefined

  constructor(
    code: ConsulErrorCode,
    message: string,
    { status, cause }: { readonly status?: number | undefined; readonly cause?: unknown } = {},
  ) {
    super(message, { cause })
    this.code = code
    this.status = status
  }
}

const callTimeoutMs = 10_000
const largestAnswer = 1024 * 1024
/** Of ten thousand nodes. */
export const largestList = 16 * 1024 * 1024
/** Above what Consul lets a query block: 10 minutes and a sixteenth. Each read has a deadline of its own. */
const longestReadMs = 660_000
/** A watch or two, and what is asked beside them. */
const maxSockets = 8

/**
 * Reads the files that the configuration names, and makes a client; the caller closes it. Nobody is dialled.
 * @throws Error with a one-line message that names the file
 */
export async function openConsul(options: ConsulOptions): Promise<ConsulClient> {
  const { token_file } = options
  return createConsulClient({
    url: new URL(options.address),
    ca: options.ca === undefined ? undefined : await readTextFile(options.ca),
    clientCertificate:
      options.client_cert === undefined
        ? undefined
        : await readClientCertificate(options.client_cert),
    token: token_file === undefined ? undefined : () => readSecretFile(token_file),
    datacenter: options.datacenter,
    namespace: options.namespace,
    partition: options.partition,
  })
}

/**
 * Makes a client. What changes something at the agent goes through the package `consul`, over connections that pass
 * our guard; what is read goes through our own client, which bounds the answer and can be called off.
 */
export async function createConsulClient(settings: ConsulSettings): Promise<ConsulClient> {
  const { url, ca, clientCertificate, datacenter } = settings
  const outbound = {
    guard: createGuard({ configured: [url] }),
    ca,
    clientCertificate,
    ownOrigin: url,
    maxSockets,
    connectTimeoutMs: 5000,
  }
  const http = createHttpClient({
    ...outbound,
    headersTimeoutMs: longestReadMs,
    stallMs: callTimeoutMs,
  })
  const agent = await createAgentCalls(settings, outbound)
  const read = createRead(settings, http)
  return {
    datacenter,
    read,
    async self(signal) {
      const answer = await read('/v1/agent/self', { of: 'agent', signal })
      return parseSelf(answer.body)
    },
    async coordinates(signal) {
      const { body } = await read('/v1/coordinate/nodes', {
        of: 'nodes',
        query: { stale: '' },
        maxBytes: largestList,
        signal,
      })
      return parseCoordinates(body)
    },
    ...agent,
    close() {
      agent.close()
      http.close()
    },
  }
}

/** Who is asked: as Consul's own headers say it, which every endpoint reads. */
function headersOf(
  { namespace, partition }: ConsulSettings,
  of: ConsulRead['of'] = 'services',
): Record<string, string> {
  if (of === 'agent') return {}
  return {
    ...(of === 'services' && namespace !== undefined && { 'x-consul-namespace': namespace }),
    ...(partition !== undefined && { 'x-consul-partition': partition }),
  }
}

function createRead(settings: ConsulSettings, http: HttpClient): ConsulClient['read'] {
  const { url: base, datacenter } = settings
  return async (path, options = {}) => {
    const { query = {}, of, timeoutMs = callTimeoutMs, signal } = options
    const call = `GET ${path}`
    const url = new URL(path, base)
    const inDatacenter = of !== 'agent' && datacenter !== undefined ? { dc: datacenter } : {}
    url.search = new URLSearchParams({ ...query, ...inDatacenter }).toString()
    const token = await tokenOf(settings, call)
    const deadline = AbortSignal.timeout(Math.ceil(timeoutMs))
    const answer = await http
      .request(url, {
        headers: {
          ...headersOf(settings, of),
          ...(token !== undefined && { 'x-consul-token': token }),
        },
        maxBytes: options.maxBytes ?? largestAnswer,
        signal: signal === undefined ? deadline : AbortSignal.any([signal, deadline]),
      })
      .catch((cause: unknown) => {
        signal?.throwIfAborted()
        const isTooLarge = cause instanceof HttpError && cause.code === 'too-large'
        throw failed(call, { code: isTooLarge ? 'broken' : 'unavailable', cause })
      })
    if (answer.status !== 200) throw failed(call, { status: answer.status })
    return {
      body: parseJson(answer.body, call),
      index: parseWhole(answer.headers['x-consul-index']),
      lastContactMs: parseWhole(answer.headers['x-consul-lastcontact']) ?? 0,
      hasLeader: answer.headers['x-consul-knownleader'] !== 'false',
    }
  }
}

/** What the package's calls take, as its source reads it; its types lack some and demand others. */
interface AgentPackage {
  readonly service: {
    register(options: object): Promise<unknown>
    deregister(options: object): Promise<unknown>
  }
  readonly check: {
    pass(options: object): Promise<unknown>
    fail(options: object): Promise<unknown>
  }
}

async function createAgentCalls(
  settings: ConsulSettings,
  outbound: Parameters<typeof createAgents>[0],
): Promise<Pick<ConsulClient, 'register' | 'pass' | 'fail' | 'deregister' | 'close'>> {
  const { url } = settings
  const agents = createAgents(outbound)
  // It costs 1 MiB and 30 ms, and most programs have no Consul.
  const { default: Consul } = await import('consul')
  const isSecure = url.protocol === 'https:'
  const options = {
    // With the brackets of IPv6: the package makes a URL of it.
    host: url.hostname,
    port: Number(url.port) || (isSecure ? 443 : 80),
    secure: isSecure,
    agent: isSecure ? agents.https : agents.http,
    // These two are passed on to what sends; the types do not know them.
    headers: { ...headersOf(settings), 'user-agent': 'outport' },
    // What these calls are answered is of no use, and one that is not JSON would hide the status.
    decoders: { 'application/json': (body: Buffer) => body },
  }
  const { service, check } = new Consul(options).agent as unknown as AgentPackage

  /** A call that can be called off: the package knows an emitter of `cancel` for that. */
  async function call(
    name: string,
    {
      send,
      signal,
    }: { send: (common: object) => Promise<unknown>; signal: AbortSignal | undefined },
  ): Promise<void> {
    const token = await tokenOf(settings, name)
    signal?.throwIfAborted()
    const ctx = new EventEmitter()
    const cancel = () => void ctx.emit('cancel')
    signal?.addEventListener('abort', cancel, { once: true })
    try {
      await send({ timeout: callTimeoutMs, ctx, ...(token !== undefined && { token }) })
    } catch (cause) {
      signal?.throwIfAborted()
      throw failed(name, { status: statusOf(cause), cause })
    } finally {
      signal?.removeEventListener('abort', cancel)
    }
  }

  return {
    register: (registration, signal) =>
      call('register', {
        send: (common) => service.register({ ...serviceOf(registration), ...common }),
        signal,
      }),
    pass: (id, signal) =>
      call('check/pass', { send: (common) => check.pass({ id, ...common }), signal }),
    fail: (id, note, signal) =>
      call('check/fail', { send: (common) => check.fail({ id, note, ...common }), signal }),
    deregister: (id, signal) =>
      call('deregister', { send: (common) => service.deregister({ id, ...common }), signal }),
    close() {
      agents.http.destroy()
      agents.https.destroy()
    },
  }
}

async function tokenOf({ token }: ConsulSettings, call: string): Promise<string | undefined> {
  try {
    return await token?.()
  } catch (cause) {
    throw failed(call, { cause })
  }
}

function serviceOf({ id, name, address, port, tags, meta, check }: ServiceRegistration): object {
  return {
    id,
    name,
    address,
    port,
    tags,
    meta,
    check: {
      checkid: check.id,
      name: check.name,
      notes: check.notes,
      ttl: formatMs(check.ttlMs),
      status: check.status,
      deregistercriticalserviceafter: formatMs(check.deregisterAfterMs),
    },
  }
}

/** As Go writes a duration. */
export function formatMs(ms: number): string {
  return `${Math.round(ms)}ms`
}

function failed(
  call: string,
  {
    code,
    status,
    cause,
  }: {
    readonly code?: ConsulErrorCode
    readonly status?: number | undefined
    readonly cause?: unknown
  },
): ConsulError {
  const what = status === undefined ? reasonOf(cause) : `it answered ${status}`
  return new ConsulError(code ?? codeOf(status), `Consul did not do ${call}: ${what}`, {
    status,
    cause,
  })
}

function codeOf(status: number | undefined): ConsulErrorCode {
  if (status === undefined || status === 429 || status >= 500) return 'unavailable'
  if (status === 401 || status === 403) return 'forbidden'
  return status >= 400 ? 'refused' : 'broken'
}

/** Of the package's errors, which are of no class that it exports. */
function statusOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !('statusCode' in error)) return undefined
  return typeof error.statusCode === 'number' ? error.statusCode : undefined
}

function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}

function parseJson(body: Buffer, call: string): unknown {
  try {
    return JSON.parse(body.toString('utf8')) as unknown
  } catch (cause) {
    throw new ConsulError('broken', `Consul answered ${call} with what is not JSON`, { cause })
  }
}

function parseWhole(text: string | undefined): number | undefined {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : undefined
}

function parseSelf(body: unknown): ConsulAgent {
  const config = isRecord(body) ? body['Config'] : undefined
  const [node, datacenter] = isRecord(config) ? [config['NodeName'], config['Datacenter']] : []
  if (typeof node !== 'string' || typeof datacenter !== 'string')
    throw new ConsulError('broken', 'Consul does not say which node its agent is on')
  return { node, datacenter }
}

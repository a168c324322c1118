import { Agent as HttpAgent, type ClientRequestArgs } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import { isIP, type LookupFunction } from 'node:net'
import type { Duplex } from 'node:stream'
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls'
import got, { RequestError } from 'got'
import { LRUCache } from 'lru-cache'
import { Agent as BulkAgent, buildConnector, type Dispatcher } from 'undici'
import { ForbiddenAddressError, hostOf, portOf, type Guard, type GuardTarget } from './guard.ts'

export interface HttpClientOptions {
  /** Asked for every connection. */
  readonly guard: Guard
  /** PEM of the CAs to trust instead of the system's. */
  readonly ca?: string | undefined
  /** With it, `ca` stands for this origin only: whatever else is dialled may also be known to the system's. */
  readonly caOrigin?: URL
  /** Connections to one origin; requests beyond them wait as long as for headers. */
  readonly maxSockets?: number
  readonly connectTimeoutMs?: number
  readonly headersTimeoutMs?: number
  /** Milliseconds without a byte of the body. */
  readonly stallMs?: number
}

/** Small requests to APIs: tokens, manifests, webhooks. Never follows a redirect, never decompresses. */
export interface HttpClient {
  /** @throws HttpError when there is no complete response; every status is a response */
  request(url: URL, options?: HttpRequest): Promise<HttpResponse>
  close(): void
}

export interface HttpRequest {
  /** A HEAD or GET is sent once more when a kept connection turns out to be closed. */
  readonly method?: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'DELETE'
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly body?: string | Buffer
  /** The longest body that is read; 1 MiB without. */
  readonly maxBytes?: number
  readonly signal?: AbortSignal | undefined
}

export interface HttpResponse {
  readonly status: number
  /** Names in lower case; several values of one name joined by a comma. */
  readonly headers: Readonly<Record<string, string>>
  readonly body: Buffer
}

/**
 * `forbidden` the guard refused the address · `tls` the certificate is not trusted · `timeout` · `too-large` the
 * body · `network` anything else between here and there.
 */
export type HttpErrorCode = 'forbidden' | 'tls' | 'timeout' | 'too-large' | 'network'

/** There was no complete response. The message names host and cause, never a query or credential. */
export class HttpError extends Error {
  readonly code: HttpErrorCode

  constructor(code: HttpErrorCode, message: string, cause?: unknown) {
    super(message, { cause })
    this.name = 'HttpError'
    this.code = code
  }
}

const defaults = {
  maxSockets: 32,
  connectTimeoutMs: 5000,
  headersTimeoutMs: 10_000,
  stallMs: 10_000,
}
/** Shorter than any server's usual: a connection that the far side closes just now costs a retry. */
const keepAliveMs = 4000

/** One per set of CAs; the caller closes it. */
export function createHttpClient(options: HttpClientOptions): HttpClient {
  const { maxSockets, connectTimeoutMs, headersTimeoutMs, stallMs } = { ...defaults, ...options }
  const agentOptions = {
    keepAlive: true,
    maxSockets,
    timeout: keepAliveMs,
    scheduling: 'lifo',
  } as const
  const door = createDoor(options)
  const agents = {
    http: guarded(new HttpAgent(agentOptions), door),
    https: guarded(new HttpsAgent(agentOptions), door),
  }
  const instance = got.extend({
    agent: agents,
    followRedirect: false,
    throwHttpErrors: false,
    decompress: false,
    retry: { limit: 0 },
    timeout: {
      lookup: connectTimeoutMs,
      connect: connectTimeoutMs,
      secureConnect: connectTimeoutMs,
      response: headersTimeoutMs,
      // It also runs while headers are awaited.
      socket: Math.max(stallMs, headersTimeoutMs),
    },
  })

  async function send(url: URL, request: HttpRequest): Promise<HttpResponse> {
    const { method = 'GET', maxBytes = 1024 * 1024, body, signal } = request
    const controller = new AbortController()
    const sending = instance(url, {
      method,
      headers: { 'accept-encoding': 'identity', 'user-agent': 'outport', ...request.headers },
      ...(body === undefined ? {} : { body }),
      signal:
        signal === undefined ? controller.signal : AbortSignal.any([controller.signal, signal]),
      responseType: 'buffer',
    })
    const fail = (code: HttpErrorCode, message: string) =>
      controller.abort(new HttpError(code, `${url.host} ${message}`))
    // Waiting for a connection is not what the timeouts above count.
    const queued = setTimeout(
      () => fail('timeout', 'has too many requests already'),
      headersTimeoutMs,
    )
    void sending.on('request', (asked) => asked.once('socket', () => clearTimeout(queued)))
    void sending.on('downloadProgress', ({ transferred, total = 0 }) => {
      const isTooLarge = transferred > maxBytes || (method !== 'HEAD' && total > maxBytes)
      if (isTooLarge) fail('too-large', `answers with more than ${maxBytes} bytes`)
    })
    try {
      const { statusCode: status, headers, rawBody } = await sending
      // The last chunk may have been the one too many.
      controller.signal.throwIfAborted()
      return { status, headers: joinHeaders(headers), body: Buffer.from(rawBody) }
    } catch (error) {
      throw controller.signal.aborted ? controller.signal.reason : error
    } finally {
      clearTimeout(queued)
    }
  }

  return {
    async request(url, request = {}) {
      const idempotent =
        request.method === undefined || request.method === 'GET' || request.method === 'HEAD'
      try {
        return await send(url, request).catch((error: unknown) => {
          // The far side closed the kept connection while our request was on its way: nothing was done.
          if (idempotent && wasReused(error)) return send(url, request)
          throw error
        })
      } catch (error) {
        request.signal?.throwIfAborted()
        throw asHttpError(url, error)
      }
    },
    close() {
      agents.http.destroy()
      agents.https.destroy()
    },
  }
}

/** A guarded undici agent for bulk bytes, HTTP/1.1 with several connections. The caller closes it. */
export function createBulkAgent(options: HttpClientOptions): Dispatcher {
  const { maxSockets, connectTimeoutMs, headersTimeoutMs, stallMs } = { ...defaults, ...options }
  const door = createDoor(options)
  /** By host and port: a look-up is not told the port, which the guard wants. They remember TLS sessions. */
  const connectors = new LRUCache<string, buildConnector.connector>({ max: 64 })
  const connectorOf = (target: GuardTarget) => {
    const key = JSON.stringify([target.host, target.port])
    const known = connectors.get(key)
    if (known !== undefined) return known
    const connector = buildConnector({
      allowH2: false,
      timeout: connectTimeoutMs,
      ...door.optionsFor(target),
    })
    connectors.set(key, connector)
    return connector
  }
  return new BulkAgent({
    allowH2: false,
    connections: maxSockets,
    pipelining: 1,
    keepAliveTimeout: keepAliveMs,
    keepAliveMaxTimeout: 60_000,
    headersTimeout: headersTimeoutMs,
    // Runs only while the socket is read: not while our own disk or reader takes its time.
    bodyTimeout: stallMs,
    connect(options, answer) {
      const plainPort = options.protocol === 'https:' ? 443 : 80
      const target = { host: options.hostname, port: Number(options.port || plainPort) }
      try {
        door.check(target)
      } catch (error) {
        answer(error as Error, null)
        return
      }
      connectorOf(target)(options, answer)
    },
  })
}

/** What every new connection passes, got's and undici's. */
interface Door {
  /** No look-up happens for what is an address already. @throws ForbiddenAddressError */
  check(target: GuardTarget): void
  optionsFor(target: GuardTarget): {
    readonly lookup: LookupFunction
    readonly rejectUnauthorized: true
    readonly secureContext?: SecureContext
  }
}

function createDoor({ guard, ca, caOrigin }: HttpClientOptions): Door {
  const own = caOrigin && { host: hostOf(caOrigin), port: portOf(caOrigin) }
  let only: SecureContext | undefined
  let besides: SecureContext | undefined
  function contextFor({ host, port }: GuardTarget): SecureContext | undefined {
    if (ca === undefined) return undefined
    if (own === undefined || (own.host === host.toLowerCase() && own.port === port))
      return (only ??= createSecureContext({ ca }))
    return (besides ??= createSecureContext({ ca: [...getCACertificates('default'), ca] }))
  }
  return {
    check(target) {
      if (isIP(target.host) !== 0) guard.check(target, target.host)
    },
    optionsFor(target) {
      const secureContext = contextFor(target)
      return {
        lookup: guard.lookupFor(target.port),
        rejectUnauthorized: true,
        ...(secureContext && { secureContext }),
      }
    },
  }
}

/** Tells what went wrong below HTTP, from got's, undici's and Node's errors. */
export function asHttpError(url: URL, error: unknown): HttpError {
  if (error instanceof HttpError) return error
  const chain = causesOf(error)
  const at = (test: (cause: Error & { code?: unknown }) => boolean) => chain.some(test)
  const last = chain.at(-1)
  const why = last === undefined ? String(error) : `${codeOf(last) ?? last.name}: ${last.message}`
  const message = `${url.host}: ${why}`
  if (at((cause) => cause instanceof ForbiddenAddressError))
    return new HttpError('forbidden', message, error)
  if (at((cause) => timeoutCodes.has(codeOf(cause) ?? '')))
    return new HttpError('timeout', message, error)
  if (
    at((cause) =>
      /^(CERT_|ERR_TLS_|ERR_SSL_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_)/.test(codeOf(cause) ?? ''),
    )
  )
    return new HttpError('tls', message, error)
  return new HttpError('network', message, error)
}

const timeoutCodes: ReadonlySet<string> = new Set([
  'ETIMEDOUT',
  'UND_ERR_CONNECT_TIMEOUT',
  'UND_ERR_HEADERS_TIMEOUT',
  'UND_ERR_BODY_TIMEOUT',
])

function codeOf(error: Error & { code?: unknown }): string | undefined {
  return typeof error.code === 'string' ? error.code : undefined
}

function causesOf(error: unknown): Error[] {
  const chain: Error[] = []
  for (let at = error; at instanceof Error && chain.length < 8; at = at.cause) chain.push(at)
  return chain
}

type ConnectOptions = ClientRequestArgs & { host?: string | null; port?: number | string | null }

/** Makes an agent's connections pass the door. */
function guarded<Agent extends HttpAgent | HttpsAgent>(agent: Agent, door: Door): Agent {
  const connect = agent.createConnection.bind(agent)
  agent.createConnection = (
    options: ConnectOptions,
    answer?: (error: Error | null, stream: Duplex) => void,
  ) => {
    const target = { host: options.host ?? 'localhost', port: Number(options.port ?? 80) }
    try {
      door.check(target)
    } catch (error) {
      // The types want a stream beside the error; Node looks at the error first.
      answer?.(error as Error, undefined as unknown as Duplex)
      return undefined
    }
    return connect({ ...options, ...door.optionsFor(target) }, answer)
  }
  return agent
}

/** Header values as one string each: names in lower case, several values of one name joined by a comma. */
export function joinHeaders(
  headers: Readonly<Record<string, string | string[] | undefined>>,
): Record<string, string> {
  const joined: Record<string, string> = {}
  for (const [name, value] of Object.entries(headers))
    if (value !== undefined) joined[name] = Array.isArray(value) ? value.join(', ') : value
  return joined
}

/** Whether a kept connection was closed before a byte of the answer came. */
function wasReused(error: unknown): boolean {
  if (!(error instanceof RequestError) || error.response !== undefined) return false
  const code = codeOf(error)
  return (code === 'ECONNRESET' || code === 'EPIPE') && error.request?.reusedSocket === true
}

import { Agent as HttpAgent, type ClientRequestArgs } from 'node:http'
import { Agent as HttpsAgent } from 'node:https'
import type { Duplex } from 'node:stream'
import got, { RequestError } from 'got'
import { createDoor, targetOf, type Door, type DoorOptions } from './door.ts'
import { ForbiddenAddressError } from './guard.ts'
import { ProxyError } from './proxy.ts'
import { createTurns } from './turns.ts'
import { BulkAgent, type BulkDispatcher } from './undici.ts'

export interface HttpClientOptions extends DoorOptions {
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
  readonly method?: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
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

/**
 * Node's agents, whose connections pass the guard: for a library that speaks HTTP by itself. The caller destroys them.
 */
export function createAgents(options: HttpClientOptions): GuardedAgents {
  const { maxSockets, connectTimeoutMs } = { ...defaults, ...options }
  const agentOptions = {
    keepAlive: true,
    maxSockets,
    timeout: keepAliveMs,
    scheduling: 'lifo',
  } as const
  const door = createDoor({ ...options, connectTimeoutMs })
  return {
    http: guarded(new HttpAgent(agentOptions), 'http:', door),
    https: guarded(new HttpsAgent(agentOptions), 'https:', door),
  }
}

export interface GuardedAgents {
  readonly http: HttpAgent
  readonly https: HttpsAgent
}

/** One per set of CAs; the caller closes it. */
export function createHttpClient(options: HttpClientOptions): HttpClient {
  const { maxSockets, connectTimeoutMs, headersTimeoutMs, stallMs } = { ...defaults, ...options }
  const agents = createAgents(options)
  // The agents do not count connections through a proxy before they stand.
  const turns = createTurns(maxSockets)
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
    const stopped =
      signal === undefined ? controller.signal : AbortSignal.any([controller.signal, signal])
    const fail = (code: HttpErrorCode, message: string) =>
      controller.abort(new HttpError(code, `${url.host} ${message}`))
    // Waiting for a connection is not what the timeouts above count.
    const queued = setTimeout(
      () => fail('timeout', 'has too many requests already'),
      headersTimeoutMs,
    )
    let endTurn: (() => void) | undefined
    try {
      endTurn = await turns.take(url.origin, stopped)
      clearTimeout(queued)
      const sending = instance(url, {
        method,
        headers: { 'accept-encoding': 'identity', 'user-agent': 'outport', ...request.headers },
        ...(body === undefined ? {} : { body }),
        signal: stopped,
        responseType: 'buffer',
      })
      void sending.on('downloadProgress', ({ transferred, total = 0 }) => {
        const isTooLarge = transferred > maxBytes || (method !== 'HEAD' && total > maxBytes)
        if (isTooLarge) fail('too-large', `answers with more than ${maxBytes} bytes`)
      })
      const { statusCode: status, headers, rawBody } = await sending
      // The last chunk may have been the one too many.
      controller.signal.throwIfAborted()
      return { status, headers: joinHeaders(headers), body: Buffer.from(rawBody) }
    } catch (error) {
      throw controller.signal.aborted ? controller.signal.reason : error
    } finally {
      clearTimeout(queued)
      endTurn?.()
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
export function createBulkAgent(options: HttpClientOptions): BulkDispatcher {
  const { maxSockets, connectTimeoutMs, headersTimeoutMs, stallMs } = { ...defaults, ...options }
  const door = createDoor({ ...options, connectTimeoutMs })
  return new BulkAgent({
    allowH2: false,
    connections: maxSockets,
    pipelining: 1,
    keepAliveTimeout: keepAliveMs,
    keepAliveMaxTimeout: 60_000,
    headersTimeout: headersTimeoutMs,
    // Runs only while the socket is read: not while our own disk or reader takes its time.
    bodyTimeout: stallMs,
    connect(dial, answer) {
      const target = targetOf(dial)
      try {
        door.check(target)
      } catch (error) {
        answer(error as Error, null)
        return
      }
      if (!door.connectByProxy(dial, answer)) door.connectorFor(target)(dial, answer)
    },
  })
}

/** Tells what went wrong below HTTP, from got's, undici's and Node's errors. */
export function asHttpError(url: URL, error: unknown): HttpError {
  if (error instanceof HttpError) return error
  const chain = causesOf(error)
  const at = (test: (cause: Error & { code?: unknown }) => boolean) => chain.some(test)
  const message = `${url.host}: ${reasonIn(chain) ?? String(error)}`
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

/** The deepest cause; but a proxy's says better whose it is. */
function reasonIn(chain: readonly Error[]): string | undefined {
  const ofProxy = chain.find((cause) => cause instanceof ProxyError)
  const last = chain.at(-1)
  return ofProxy?.message ?? (last && `${codeOf(last) ?? last.name}: ${last.message}`)
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

type ConnectOptions = ClientRequestArgs & {
  host?: string | null
  port?: number | string | null
  servername?: string
}

/** Makes an agent's connections pass the door. */
function guarded<Agent extends HttpAgent | HttpsAgent>(
  agent: Agent,
  protocol: 'http:' | 'https:',
  door: Door,
): Agent {
  const connect = agent.createConnection.bind(agent)
  agent.createConnection = (
    options: ConnectOptions,
    answer?: (error: Error | null, stream: Duplex) => void,
  ) => {
    const { host, port, servername = '' } = options
    const dial = { hostname: host ?? 'localhost', protocol, port: String(port ?? ''), servername }
    const target = targetOf(dial)
    try {
      door.check(target)
    } catch (error) {
      // The types want a stream beside the error; Node looks at the error first.
      answer?.(error as Error, undefined as unknown as Duplex)
      return undefined
    }
    const isByProxy = door.connectByProxy(dial, (...[error, socket]) =>
      answer?.(error, socket as Duplex),
    )
    if (isByProxy) return undefined
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

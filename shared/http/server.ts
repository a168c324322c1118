import Fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify'
import http, { type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http'
import https from 'node:https'
import { isIPv6, type AddressInfo, type Socket } from 'node:net'
import { DEFAULT_CIPHERS } from 'node:tls'
import { ApiError } from '../api/errors.ts'
import {
  defaultLimits,
  defaultTimeouts,
  type ListenerOptions,
  type ServerLimits,
  type ServerTimeouts,
} from '../config/server-options.ts'
import { watchFiles } from '../files/watch.ts'
import { formatErrors, OciError } from '../oci/errors.ts'
import { isRegistryUrl } from '../oci/paths.ts'
import type { Logger } from '../observability/log.ts'
import type { HttpMetrics } from '../observability/metrics.ts'
import { finishExchange } from './access-log.ts'
import { collectAllowedMethods, type AllowedMethods } from './allowed-methods.ts'
import { Connections } from './connections.ts'
import { answerError, closeUnlessRead, type DrainLimits } from './error-answer.ts'
import { deferContinue } from './expect-continue.ts'
import { beginWithFirstBytes } from './first-bytes.ts'
import { createTrustedProxies } from './forwarded.ts'
import { isReady, lookAt, type Readiness } from './readiness.ts'
import { IdentifiedResponse } from './response.ts'
import { recordOf, startRecord } from './request-record.ts'
import { readTlsFiles, type TlsFiles } from './tls-files.ts'
import { responseToUpgrade } from './upgrade.ts'
import { Watchdog } from './watchdog.ts'

export interface HttpServerOptions {
  /** Named in logs: the program, or `edge/mirror`. */
  readonly name: string
  /** Where to listen; TLS files are read now, and again when they change. */
  readonly listener: ListenerOptions
  readonly log: Logger
  readonly httpMetrics: HttpMetrics
  /** Addresses and networks whose forwarding headers count. */
  readonly trustedProxies?: readonly string[]
  /** What is left out is as configured by default. */
  readonly timeouts?: Partial<ServerTimeouts>
  readonly limits?: Partial<ServerLimits>
  /** What must work for `/readyz` to answer 200; nothing if left out. */
  readonly readiness?: Readiness
  /** How often the TLS files are looked at. */
  readonly tlsWatchMs?: number
  /**
   * Serves HTTPS to those alone who show a certificate of the CAs that `setMutual` names, and to nobody before; the
   * listener has no TLS files then. It is made for many connections that say little: requests are read in small parts.
   */
  readonly mutual?: boolean
  /**
   * Gives routes the requests that ask for another protocol, which `switchProtocols` agrees to; without, nobody is
   * told that it was asked for. A connection that asks so carries no other request.
   */
  readonly upgrades?: boolean
}

/** Both sides prove who they are: PEM. */
export interface MutualTls {
  readonly cert: string
  readonly key: string
  readonly ca: readonly string[]
}

/**
 * Answers one request to the distribution API, at once or later; what it throws is answered as what a route throws.
 */
export type RegistryHandler = (
  request: IncomingMessage,
  response: ServerResponse,
) => Promise<void> | undefined

/** A server that rooms register their routes at. Whoever made it drains it. */
export interface HttpServer {
  readonly app: FastifyInstance
  /**
   * Gives every request under `/v2`, of whatever method, to one handler. Repository names hold slashes, so that API
   * has a grammar of its own and no use for a router, nor has a small hot answer for the framework's part of its cost.
   */
  serveRegistry(handler: RegistryHandler): void
  /**
   * Starts to listen.
   * @returns the URL to reach it at on this machine
   * @throws the system's error, with `code`, `address` and `port`, when it cannot
   */
  listen(): Promise<URL>
  /**
   * Stops accepting, lets running requests finish, cuts what is left at the deadline. Called again while that lasts, it
   * brings the deadline forward.
   * @param deadlineMs milliseconds from now
   * @returns when no connection is left
   */
  drain(deadlineMs: number): Promise<void>
  /** Takes other certificates for connections to come; only where both sides show one. */
  setMutual(mutual: MutualTls): void
}

const bulkCipher = 'TLS_AES_128_GCM_SHA256'

/**
 * Node's own ciphers with TLS 1.3's AES-128 before AES-256: what a registry sends is bulk, which costs a
 * quarter less CPU that way, and 128 bits are out of anybody's reach. The server's order is the one that counts.
 */
const negotiation = {
  minVersion: 'TLSv1.2',
  honorCipherOrder: true,
  ciphers: DEFAULT_CIPHERS.split(':')
    .toSorted((one, other) => Number(other === bulkCipher) - Number(one === bulkCipher))
    .join(':'),
} as const

/**
 * Makes an HTTP or HTTPS server for one listener. Request bodies come to routes unread, whatever their type and
 * length (`acceptJson` and `acceptForms` change that for a scope); what routes throw is answered in one place;
 * `/healthz` and `/readyz` are there.
 * @throws TlsFilesError when the certificate or key cannot be used
 */
export async function createHttpServer(options: HttpServerOptions): Promise<HttpServer> {
  const timeouts = { ...defaultTimeouts(), ...options.timeouts }
  const limits = { ...defaultLimits(), ...options.limits }
  const drain = { maxBytes: limits.refused_body, maxMs: timeouts.refused_body }
  const { listener } = options
  if (listener.insecure_http === 'all')
    options.log.warn(
      { listener: options.name, address: listener.address },
      'this listener takes passwords over plain http: for a laboratory only',
    )
  const pair = listener.tls === undefined ? undefined : await readTlsFiles(listener.tls)
  const tls = options.mutual === true ? mutualOptions : pair && contextOf(pair)
  const nodeOptions = nodeServerOptions(timeouts, limits)
  const server =
    tls === undefined
      ? http.createServer(nodeOptions)
      : https.createServer({
          ...nodeOptions,
          ...tls,
          ALPNProtocols: ['http/1.1'],
          handshakeTimeout: timeouts.tls_handshake,
        })
  if (options.mutual === true && server instanceof https.Server)
    beginWithFirstBytes(server, timeouts.tls_handshake)
  const connections = new Connections(server)
  const watchdog = new Watchdog(connections, timeouts)
  let expiry: NodeJS.Timeout | undefined
  // Edges come back, and each handshake costs both sides more than a piece of a blob does.
  const keepAlive =
    options.mutual === true ? `timeout=${Math.floor(timeouts.keep_alive / 1000)}` : undefined
  const context: AppContext = { options, connections, drain, keepAlive, registry: undefined }
  const app = createApp(server, context)
  const tlsWatch =
    listener.tls !== undefined && server instanceof https.Server
      ? watchTls(server, listener.tls, options)
      : undefined
  return {
    app,
    serveRegistry(handler) {
      context.registry = handler
    },
    async listen() {
      await app.ready()
      const url = await listenOn(server, listener, tls === undefined ? 'http' : 'https')
      // Failures to accept (no file descriptor left) pass; unheard, they would end the process.
      server.on('error', (err) =>
        options.log.error({ err, listener: options.name }, 'could not accept'),
      )
      watchdog.start()
      const expiryMs = Math.max(20, Math.min(5000, timeouts.keep_alive / 4))
      expiry = setInterval(() => connections.expire(timeouts.keep_alive), expiryMs).unref()
      return url
    },
    async drain(deadlineMs) {
      // One that never listened has no connections, and Node closes it like any other.
      await connections.drain(deadlineMs)
      watchdog.stop()
      clearInterval(expiry)
      tlsWatch?.close()
      await app.close()
    },
    setMutual({ ca, ...pair }) {
      if (server instanceof https.Server)
        server.setSecureContext({ ...contextOf(pair), ca: [...ca] })
    },
  }
}

function contextOf({ cert, key }: Pick<MutualTls, 'cert' | 'key'>): https.ServerOptions {
  return { cert, key, ...negotiation }
}

const mutualOptions = { ...negotiation, requestCert: true, rejectUnauthorized: true } as const

/** Node's own limits, where its defaults would cut what a registry lives by. */
function nodeServerOptions(timeouts: ServerTimeouts, limits: ServerLimits): http.ServerOptions {
  return {
    // Counts to the end of the body, and so kills every large push over a thin link; the watchdog replaces it.
    requestTimeout: 0,
    headersTimeout: timeouts.headers,
    // Node would set a timer of its own for each request; one sweep does for all connections.
    keepAliveTimeout: 0,
    // How often Node looks for headers that are late.
    connectionsCheckingInterval: Math.min(5000, Math.max(50, timeouts.headers / 4)),
    maxHeaderSize: limits.headers,
    ServerResponse: IdentifiedResponse,
    // Most requests have no body: theirs is at its end from the start, and its stream's events cost a tenth of a hit.
    optimizeEmptyRequests: true,
    // Node would answer a missing Host without a body; we answer in the API's form.
    requireHostHeader: false,
    noDelay: true,
  }
}

type NodeServer = http.Server | https.Server

interface AppContext {
  readonly options: HttpServerOptions
  readonly connections: Connections
  readonly drain: DrainLimits
  /** What answers say of how long their connection is kept. */
  readonly keepAlive: string | undefined
  registry: RegistryHandler | undefined
}

const noCompilers = { buildValidator: refuseSchemas, buildSerializer: refuseSchemas }

function refuseSchemas(): never {
  throw new Error('only routes of an API have schemas')
}

function createApp(server: NodeServer, context: AppContext): FastifyInstance {
  const { options, connections, drain } = context
  const { log } = options
  const app: FastifyInstance = Fastify({
    serverFactory: (handler) => attachHandler(server, handler, context),
    // Faults are logged by answerError; fastify itself logs only what it finds wrong with its use.
    logger: false,
    bodyLimit: Number.MAX_SAFE_INTEGER,
    forceCloseConnections: false,
    return503OnClosing: false,
    genReqId: (request: IncomingMessage) => recordOf(request).id,
    routerOptions: { maxParamLength: 8192 },
    // fastify would load its compilers with every app, which is a tenth of an edge's start; `createApi` has its own.
    schemaController: { compilersFactory: noCompilers },
    frameworkErrors: (error, request, reply) => {
      reply.hijack()
      void answerError(error, { request: request.raw, response: reply.raw }, { log, drain })
    },
    clientErrorHandler: (error, socket) => answerBrokenRequest(error, socket, connections),
  })
  app.removeAllContentTypeParsers()
  app.addContentTypeParser('*', (_request, _payload, done) => done(null))
  addHooks(app, context)
  addProbes(app, options.readiness)
  return app
}

/** Absolute-form targets are for proxies, and servers must take them too. [RFC 9112 §3.2.2] */
function originForm(url: string): string {
  if (url.startsWith('/')) return url
  const match = /^https?:\/\/[^/?#]*(.*)$/i.exec(url)
  if (match === null) return url
  const rest = match[1] ?? ''
  return rest.startsWith('/') ? rest : `/${rest}`
}

/** Every request passes here before fastify sees it. */
function attachHandler(
  server: NodeServer,
  handler: RequestListener,
  context: AppContext,
): NodeServer {
  const { options, connections, drain, keepAlive } = context
  const { log, httpMetrics, name } = options
  const proxies = createTrustedProxies(options.trustedProxies ?? [])
  const handle = (request: IncomingMessage, response: ServerResponse) => {
    const record = startRecord(request, { listener: name, proxies, keepAlive })
    const exchange = connections.begin(record, request, response)
    httpMetrics.started()
    // Writing to a client that has gone is an error of the stream, which would end the process; 'close' tells of it.
    response.on('error', ignore)
    // 'close' comes exactly once, whether the response was finished, cut or never begun.
    response.on('close', () => {
      finishExchange(
        { record, request, response, ...connections.end(exchange) },
        { log, httpMetrics },
      )
    })
    request.url = originForm(request.url ?? '/')
    const { registry } = context
    if (registry === undefined || !isRegistryUrl(request.url)) {
      handler(request, response)
      return
    }
    const fail = (error: unknown): void =>
      void answerError(error, { request, response }, { log, drain })
    try {
      if (isHostless(request)) throw hostless(request)
      registry(request, response)?.catch(fail)
    } catch (error) {
      fail(error)
    }
  }
  server.on('request', handle)
  server.on('checkContinue', (request, response) => {
    deferContinue(request, response)
    handle(request, response)
  })
  server.on('checkExpectation', (request, response) => {
    // Any other expectation may be ignored. [RFC 9110 §10.1.1]
    handle(request, response)
  })
  if (options.upgrades === true)
    server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) =>
      handle(request, responseToUpgrade(request, socket, head)),
    )
  return server
}

function ignore(): void {
  // see where it is used
}

function addHooks(app: FastifyInstance, { options, drain }: AppContext): void {
  const { log } = options
  const allowed = collectAllowedMethods(app)
  const answer = (error: unknown, request: FastifyRequest, reply: FastifyReply) =>
    answerError(error, { request: request.raw, response: reply.raw }, { log, drain })

  app.addHook('onRequest', (request, _reply, done) => {
    recordOf(request.raw).route = request.routeOptions.url ?? 'unknown'
    done(isHostless(request.raw) ? hostless(request.raw) : undefined)
  })
  // Refusals that are sent, not thrown, need their bodies read too.
  app.addHook('onSend', (request, reply, payload, done) => {
    if (reply.statusCode < 400) {
      done(null, payload)
      return
    }
    closeUnlessRead(request.raw, reply.raw, drain).then(() => done(null, payload), done)
  })
  // A route that fails after it took the response over would leave its client waiting for ever.
  app.addHook('onRoute', (route) => {
    const { handler } = route
    route.handler = function (request, reply) {
      const result: unknown = handler.call(this, request, reply)
      if (!(result instanceof Promise)) return result
      return result.catch((error: unknown) => {
        if (!reply.sent) throw error
        return answer(error, request, reply)
      })
    }
  })
  app.setErrorHandler(async (error, request, reply) => {
    reply.hijack()
    for (const [name, value] of Object.entries(reply.getHeaders())) {
      if (value !== undefined) reply.raw.setHeader(name, value)
    }
    await answer(error, request, reply)
  })
  app.setNotFoundHandler((request) => {
    throw noRoute(request, allowed)
  })
}

/** [RFC 9112 §3.2] */
function isHostless({ httpVersionMinor, headers }: IncomingMessage): boolean {
  return httpVersionMinor === 1 && headers.host === undefined
}

function hostless({ url }: IncomingMessage): Error {
  const message = 'an HTTP/1.1 request needs a Host header'
  return isRegistryUrl(url ?? '')
    ? new OciError('UNSUPPORTED', message, { status: 400 })
    : new ApiError('BAD_REQUEST', message)
}

/** 404, or 405 where the path exists with another method. */
function noRoute({ raw }: FastifyRequest, allowed: AllowedMethods): Error {
  const path = (raw.url ?? '').split('?')[0] ?? ''
  const methods = allowed.of(path)
  const isRegistry = isRegistryUrl(path)
  if (methods.length > 0) {
    const message = `${raw.method ?? ''} is not possible here; ${methods.join(', ')} are`
    const headers = { Allow: methods.join(', ') }
    return isRegistry
      ? new OciError('UNSUPPORTED', message, { headers })
      : new ApiError('METHOD_NOT_ALLOWED', message, { headers })
  }
  return isRegistry
    ? new OciError('NAME_UNKNOWN', 'no endpoint of the registry API has this path')
    : new ApiError('NOT_FOUND', 'there is nothing at this path')
}

function addProbes(app: FastifyInstance, readiness: Readiness | undefined): void {
  const open = { config: { permission: { of: 'nobody' } } }
  app.get('/healthz', open, () => ({ status: 'ok' }))
  // What exactly is not ready is told on the metrics listener only.
  app.get('/readyz', open, async (_request, reply) => {
    const ready = readiness === undefined || isReady(await lookAt(readiness))
    return reply.code(ready ? 200 : 503).send({ status: ready ? 'ok' : 'not ready' })
  })
}

/** What Node's parser refused: there is no request to answer, only a socket to write a last word to. */
function answerBrokenRequest(
  error: Error & { code?: string },
  socket: Socket,
  connections: Connections,
): void {
  const running = connections.runningOn(socket)
  // A word of ours in the middle of a response, or before the one that is due, would be taken for part of it.
  const isAnswering = running.some(
    ({ request, response }) => response.headersSent || request.complete,
  )
  if (!socket.writable || isAnswering || error.code === 'ECONNRESET') {
    socket.destroy()
    return
  }
  const [status, code, message] = brokenRequests[error.code ?? ''] ?? [
    '400 Bad Request',
    'BAD_REQUEST',
    'this is not a well-formed HTTP/1.1 request',
  ]
  const body = formatErrors([{ code, message }])
  socket.end(
    `HTTP/1.1 ${status}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    () => socket.destroySoon(),
  )
}

const brokenRequests: Readonly<Record<string, readonly [string, string, string]>> = {
  HPE_HEADER_OVERFLOW: [
    '431 Request Header Fields Too Large',
    'BAD_REQUEST',
    'the request line and headers are larger than this server takes',
  ],
  ERR_HTTP_REQUEST_TIMEOUT: [
    '408 Request Timeout',
    'BAD_REQUEST',
    'the request headers did not come in time',
  ],
}

async function listenOn(
  server: NodeServer,
  { address, port }: ListenerOptions,
  scheme: 'http' | 'https',
): Promise<URL> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen({ host: address, port }, () => {
      server.off('error', reject)
      resolve()
    })
  })
  const bound = server.address() as AddressInfo
  const local = { '0.0.0.0': '127.0.0.1', '::': '::1' }[bound.address] ?? bound.address
  const host = isIPv6(local) ? `[${local}]` : local
  return new URL(`${scheme}://${host}:${bound.port}`)
}

/** Takes a new certificate for connections to come; those that are open live on. A bad one changes nothing. */
function watchTls(server: https.Server, files: TlsFiles, options: HttpServerOptions) {
  const { log, name } = options
  let lastProblem: string | undefined
  return watchFiles([files.cert, files.key], {
    intervalMs: options.tlsWatchMs ?? 5000,
    onChange: async () => {
      try {
        const { cert, key, validTo } = await readTlsFiles(files)
        server.setSecureContext(contextOf({ cert, key }))
        lastProblem = undefined
        log.info({ listener: name, file: files.cert, validTo }, 'a new certificate is in use')
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error)
        if (reason === lastProblem) return
        lastProblem = reason
        log.warn(
          { listener: name, reason },
          'the changed certificate cannot be used; the old one stays',
        )
      }
    },
  })
}

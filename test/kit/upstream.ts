import { once } from 'node:events'
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import type { AddressInfo, Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { randomBytes } from 'node:crypto'
import { gzipSync } from 'node:zlib'
import { digestOf, isDigest, type Digest } from '../../shared/oci/digest.ts'
import { OciError, formatErrors } from '../../shared/oci/errors.ts'
import { mediaTypes } from '../../shared/oci/media-types.ts'
import { parseOciUrl, type OciPath } from '../../shared/oci/paths.ts'
import {
  formatContentRange,
  formatUnsatisfiedRange,
  parseRange,
} from '../../shared/stream/range.ts'
import { blobsOf, bytesOf, manifestsOf, type Image } from './images.ts'

export interface UpstreamOptions {
  /** PEM; plain HTTP without. */
  readonly tls?: { readonly cert: string; readonly key: string } | undefined
  /** Bytes a second and connection; as fast as it goes without. */
  readonly pace?: number
  readonly auth?: UpstreamAuth
  readonly address?: string
  /** How many referrers it lists at once; all without. */
  readonly referrersPerPage?: number
}

export interface UpstreamAuth {
  readonly scheme: 'bearer' | 'basic'
  /** name → password */
  readonly users?: Readonly<Record<string, string>>
  /** Repositories that need a user; the others only need the (anonymous) token. */
  readonly privateRepositories?: readonly string[]
  /** Who may read what, instead of that; undefined is a caller without a name. */
  readonly mayRead?: (user: string | undefined, repository: string) => boolean
  /** The realm of the challenge; its own `/token` without. */
  readonly realm?: string
  /** Seconds; 300 without. Left out of the answer when 0. */
  readonly expiresIn?: number
}

/** What goes wrong with the requests that a rule matches; several may be combined. */
export interface Fault {
  /** Answers this status with an OCI error body. */
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  /** Destroys the connection when this byte of the blob (not of the response) would be next. */
  readonly cutAt?: number
  /** Destroys the connection after so many bytes of the response's body. */
  readonly cutAfter?: number
  /** Flips the lowest bit of this byte of the blob. */
  readonly flipBit?: number
  /** `Content-Length` says so many bytes more, or fewer, than there are; the connection ends after the real ones. */
  readonly lengthOff?: number
  /** The whole blob is this many bytes longer or shorter, consistently: headers and body. */
  readonly sizeOff?: number
  /** Never answers. */
  readonly stallHeaders?: boolean
  /** Sends nothing more from this byte of the blob on. */
  readonly stallAt?: number
  /** Milliseconds before the headers. */
  readonly delayHeaders?: number
  readonly gzip?: boolean
  /** No `Content-Length`. */
  readonly chunked?: boolean
  /** 307 to this URL; `path` and query of the request are appended when it ends in `/`. */
  readonly redirect?: string
  /** Answers 200 with everything whatever the `Range`. */
  readonly ignoreRange?: boolean
  /** Replaces the `Docker-Content-Digest`; '' leaves it out. */
  readonly contentDigest?: string
  /** Answers 200 with this page, as a portal does that wants a log-in first. */
  readonly page?: string
}

/** Which requests; what is absent matches all. */
export interface FaultRule {
  readonly digest?: string
  readonly method?: 'GET' | 'HEAD'
  readonly path?: RegExp
  /** How many matching requests to spoil; all without. */
  readonly times?: number
  /** How many matching requests to leave alone first. */
  readonly after?: number
}

/** A request as it was seen, and what was delivered of its answer. */
export interface SeenRequest {
  readonly method: string
  /** With the query. */
  readonly url: string
  readonly headers: IncomingMessage['headers']
  /** The digest or tag in the path. */
  readonly reference: string | undefined
  readonly range: string | undefined
  /** Milliseconds, `performance.now()`. */
  readonly at: number
  status: number
  /** The blob's byte where the body starts. */
  offset: number
  /** Body bytes handed to the kernel. */
  bytes: number
  /** When its headers went out; undefined before. */
  headersAt: number | undefined
  finished: boolean
}

/** What is known of a request when it comes. @param reference the digest or tag in its path */
export function seeRequest(
  { method = 'GET', url = '/', headers }: IncomingMessage,
  reference: string | undefined,
): SeenRequest {
  return {
    method,
    url,
    headers,
    reference,
    range: headers.range,
    at: performance.now(),
    status: 0,
    offset: 0,
    bytes: 0,
    headersAt: undefined,
    finished: false,
  }
}

/** A registry stand-in on 127.0.0.1 that counts what it gives and misbehaves on demand. */
export interface Upstream {
  readonly url: URL
  /** `127.0.0.1:port`, as `ns` and containerd write it. */
  readonly host: string
  readonly requests: readonly SeenRequest[]
  addBlob(repository: string, bytes: Buffer, algorithm?: 'sha256' | 'sha512'): Digest
  addManifest(
    repository: string,
    document: object | Buffer,
    options?: { readonly mediaType?: string; readonly tag?: string },
  ): Digest
  setTag(repository: string, tag: string, digest: Digest): void
  remove(repository: string, digest: Digest): void
  /** Adds a rule; the first that matches is used. @returns a function that takes it away */
  fault(rule: FaultRule, fault: Fault): () => void
  /** Changes the pace of responses that start from now on; undefined is as fast as it goes. */
  setPace(bytesPerSecond: number | undefined): void
  /** Requests and delivered bytes of GETs for a digest (or a tag). */
  delivered(reference: string): { gets: number; heads: number; bytes: number }
  /** For each segment of the blob: how many responses delivered at least one byte of it. */
  responsesPerSegment(digest: string, segmentBytes: number): number[]
  /** Requests that ask for tokens. */
  tokenRequests(): readonly SeenRequest[]
  /** Takes no token any more that it has given out. */
  revokeTokens(): void
  forgetRequests(): void
  /** Connections open now. */
  connections(): number
  /** Refuses everybody until `up`: closes the port, cuts what runs. */
  down(): Promise<void>
  up(): Promise<void>
  close(): Promise<void>
}

interface StoredManifest {
  readonly bytes: Buffer
  readonly mediaType: string
}

interface Repository {
  readonly blobs: Map<string, Buffer>
  readonly manifests: Map<string, StoredManifest>
  readonly tags: Map<string, Digest>
}

interface ActiveFault {
  readonly rule: FaultRule
  readonly fault: Fault
  seen: number
}

const json = 'application/json'
const chunkBytes = 64 * 1024
const tickMs = 5

/** Starts one; the caller closes it. */
export async function startUpstream(options: UpstreamOptions = {}): Promise<Upstream> {
  const repositories = new Map<string, Repository>()
  const requests: SeenRequest[] = []
  const faults: ActiveFault[] = []
  const tokens = new Map<string, { user: string | undefined; scopes: string; expires: number }>()
  const sockets = new Set<Socket>()
  const address = options.address ?? '127.0.0.1'
  let pace = options.pace

  const answer = (request: IncomingMessage, response: ServerResponse) => {
    respond(request, response).catch((error: unknown) => {
      // A client that went away is part of the tests; anything else is a bug of the stand-in.
      if (!response.destroyed) response.destroy(error instanceof Error ? error : undefined)
    })
  }
  const server = options.tls ? createTlsServer(options.tls, answer) : createServer(answer)
  server.keepAliveTimeout = 5000
  server.on('connection', (socket: Socket) => {
    sockets.add(socket)
    socket.once('close', () => sockets.delete(socket))
  })
  await listen(0)
  const port = (server.address() as AddressInfo).port
  const scheme = options.tls ? 'https' : 'http'
  const url = new URL(`${scheme}://${address}:${port}/`)

  async function listen(onPort: number) {
    server.listen(onPort, address)
    await once(server, 'listening')
  }

  async function shut() {
    if (!server.listening) return
    const closed = once(server, 'close')
    server.close()
    for (const socket of sockets) socket.destroy()
    await closed
  }

  function repositoryOf(name: string): Repository {
    const known = repositories.get(name)
    if (known !== undefined) return known
    const fresh = { blobs: new Map(), manifests: new Map(), tags: new Map() }
    repositories.set(name, fresh)
    return fresh
  }

  async function respond(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const rawUrl = request.url ?? '/'
    const target = rawUrl.startsWith('/v2') ? parseOciUrl(rawUrl) : undefined
    const path = target?.path
    const reference = path && 'text' in path ? path.text : undefined
    const seen = seeRequest(request, reference)
    requests.push(seen)
    response.once('finish', () => (seen.finished = true))
    const reply = { request, response, seen }
    const fault = faultFor(seen)
    if (fault.stallHeaders === true) return
    if (fault.delayHeaders !== undefined) await delay(fault.delayHeaders)
    if (fault.redirect !== undefined) {
      const location = fault.redirect.endsWith('/')
        ? new URL(rawUrl.slice(1), fault.redirect).href
        : fault.redirect
      return sendEmpty(reply, 307, { ...fault.headers, location })
    }
    if (fault.status !== undefined) return sendError(reply, fault.status, 'UNKNOWN', fault.headers)
    if (fault.page !== undefined)
      return sendBody(reply, Buffer.from(fault.page), 'text/html; charset=utf-8', {})
    if (rawUrl.split('?')[0] === '/token') return sendToken(reply)
    const refusal = challengeFor(request, path)
    if (refusal !== undefined) {
      return sendError(reply, 401, 'UNAUTHORIZED', { 'www-authenticate': refusal })
    }
    if (target === undefined) return sendError(reply, 404, 'UNSUPPORTED')
    await route(reply, target, fault)
  }

  async function route(
    reply: Reply,
    target: { path: OciPath; query: URLSearchParams },
    fault: Fault,
  ) {
    const { path, query } = target
    if (path.kind === 'catalog') {
      const names = [...repositories.keys()].sort()
      return sendBody(reply, Buffer.from(JSON.stringify({ repositories: names })), json, fault)
    }
    if (path.kind === 'ping') return sendBody(reply, Buffer.from('{}'), json, fault)
    if (!('repository' in path)) return sendError(reply, 404, 'UNSUPPORTED')
    const repository = repositories.get(path.repository)
    if (repository === undefined) return sendError(reply, 404, 'NAME_UNKNOWN')
    if (path.kind === 'blob') {
      const bytes = repository.blobs.get(path.text)
      if (bytes === undefined) return sendError(reply, 404, 'BLOB_UNKNOWN')
      return sendBlobBytes(reply, path.text, bytes, fault)
    }
    if (path.kind === 'manifest') return sendManifest(reply, repository, path.text, fault)
    if (path.kind === 'tags') return sendTags(reply, path.repository, repository, { query, fault })
    if (path.kind === 'referrers')
      return sendReferrers(reply, repository, {
        subject: path.text,
        query,
        fault,
        perPage: options.referrersPerPage ?? Infinity,
      })
    return sendError(reply, 405, 'UNSUPPORTED')
  }

  function faultFor(seen: SeenRequest): Fault {
    for (const active of faults) {
      const { rule } = active
      if (rule.digest !== undefined && rule.digest !== seen.reference) continue
      if (rule.method !== undefined && rule.method !== seen.method) continue
      if (rule.path !== undefined && !rule.path.test(seen.url)) continue
      active.seen++
      const after = rule.after ?? 0
      if (active.seen <= after || active.seen > after + (rule.times ?? Infinity)) continue
      return active.fault
    }
    return {}
  }

  function challengeFor(request: IncomingMessage, path: OciPath | undefined): string | undefined {
    const { auth } = options
    if (auth === undefined) return undefined
    const repository = path && 'repository' in path ? path.repository : undefined
    const [kind = '', credential = ''] = (request.headers.authorization ?? '').split(' ')
    if (auth.scheme === 'basic') {
      const user = userOf(auth, credential)
      const known = kind.toLowerCase() === 'basic' && user !== undefined
      const may = repository === undefined || (auth.mayRead?.(user, repository) ?? true)
      return known && may ? undefined : 'Basic realm="upstream"'
    }
    const token = kind.toLowerCase() === 'bearer' ? tokens.get(credential) : undefined
    const realm = auth.realm ?? `${url.href}token`
    const scope = repository === undefined ? '' : `,scope="repository:${repository}:pull"`
    const challenge = `Bearer realm="${realm}",service="upstream"${scope}`
    if (token === undefined || token.expires < performance.now()) return challenge
    if (repository === undefined) return undefined
    const granted = token.scopes.split(' ').includes(`repository:${repository}:pull`)
    const isPrivate = auth.privateRepositories?.includes(repository) === true
    const may = auth.mayRead?.(token.user, repository) ?? (!isPrivate || token.user !== undefined)
    if (granted && may) return undefined
    return `${challenge},error="insufficient_scope"`
  }

  function sendToken(reply: Reply) {
    const { auth } = options
    const header = reply.request.headers.authorization
    const user = auth && header ? userOf(auth, header.split(' ')[1] ?? '') : undefined
    if (header !== undefined && user === undefined)
      return sendError(reply, 401, 'UNAUTHORIZED', { 'www-authenticate': 'Basic realm="token"' })
    const query = new URL(reply.seen.url, url).searchParams
    const token = randomBytes(16).toString('hex')
    const seconds = auth?.expiresIn ?? 300
    const scopes = query.getAll('scope').join(' ')
    const lifeMs = (seconds === 0 ? 60 : seconds) * 1000
    tokens.set(token, { user, scopes, expires: performance.now() + lifeMs })
    const body = seconds === 0 ? { token } : { token, access_token: token, expires_in: seconds }
    return sendBody(reply, Buffer.from(JSON.stringify(body)), 'application/json', {})
  }

  async function sendBlobBytes(reply: Reply, digest: string, stored: Buffer, fault: Fault) {
    const bytes = resized(stored, fault)
    const { request, response, seen } = reply
    const ranged =
      request.method === 'GET' && fault.ignoreRange !== true
        ? parseRange(request.headers.range, bytes.length)
        : ({ kind: 'whole' } as const)
    if (ranged.kind === 'unsatisfiable') {
      return sendEmpty(reply, 416, { 'content-range': formatUnsatisfiedRange(bytes.length) })
    }
    const part = ranged.kind === 'part' ? ranged : { start: 0, end: bytes.length - 1 }
    const length = part.end - part.start + 1
    const headers: Record<string, string | number> = {
      'content-type': 'application/octet-stream',
      'docker-content-digest': fault.contentDigest ?? digest,
      etag: `"${digest}"`,
      'accept-ranges': 'bytes',
    }
    if (ranged.kind === 'part')
      headers['content-range'] = formatContentRange(part.start, part.end, bytes.length)
    if (fault.chunked !== true) headers['content-length'] = length + (fault.lengthOff ?? 0)
    if (fault.contentDigest === '') delete headers['docker-content-digest']
    if (fault.gzip === true) {
      return sendGzip(reply, bytes, headers)
    }
    seen.offset = part.start
    seen.status = ranged.kind === 'part' ? 206 : 200
    response.writeHead(seen.status, { ...headers, ...fault.headers })
    response.flushHeaders()
    seen.headersAt = performance.now()
    if (request.method === 'HEAD') return void response.end()
    await sendPaced(reply, bytes.subarray(part.start, part.end + 1), fault)
  }

  async function sendPaced(reply: Reply, body: Buffer, fault: Fault): Promise<void> {
    const { response, seen } = reply
    const rate = pace
    const start = performance.now()
    const stop = Math.min(
      fault.cutAt === undefined ? Infinity : Math.max(fault.cutAt - seen.offset, 0),
      fault.cutAfter ?? Infinity,
    )
    const stall = fault.stallAt === undefined ? Infinity : Math.max(fault.stallAt - seen.offset, 0)
    const flip = fault.flipBit === undefined ? -1 : fault.flipBit - seen.offset
    let sent = 0
    while (sent < Math.min(body.length, stop, stall)) {
      // Always a pause between paced writes: a few bytes at a time would starve the event loop.
      if (rate !== undefined && sent >= allowedAt(rate, start) - chunkBytes) {
        await delay(tickMs)
        if (response.destroyed) return
      }
      const allowed = rate === undefined ? Infinity : allowedAt(rate, start)
      if (allowed <= sent) continue
      const end = Math.min(sent + chunkBytes, body.length, stop, stall, allowed)
      await write(response, spoiled(body.subarray(sent, end), flip - sent))
      if (response.destroyed) return
      seen.bytes += end - sent
      sent = end
    }
    if (stall <= Math.min(body.length, stop)) return
    if (sent < body.length || (fault.lengthOff ?? 0) !== 0) return void response.destroy()
    response.end()
  }

  return {
    url,
    host: `${address}:${port}`,
    requests,
    addBlob(repository, bytes, algorithm = 'sha256') {
      const digest = digestOf(bytes, algorithm)
      repositoryOf(repository).blobs.set(digest, bytes)
      return digest
    },
    addManifest(repository, document, { mediaType, tag } = {}) {
      const bytes = Buffer.isBuffer(document) ? document : Buffer.from(JSON.stringify(document))
      const digest = digestOf(bytes)
      const { manifests, tags } = repositoryOf(repository)
      manifests.set(digest, { bytes, mediaType: mediaType ?? mediaTypeOf(document) })
      if (tag !== undefined) tags.set(tag, digest)
      return digest
    },
    setTag(repository, tag, digest) {
      repositoryOf(repository).tags.set(tag, digest)
    },
    remove(repository, digest) {
      repositoryOf(repository).blobs.delete(digest)
      repositoryOf(repository).manifests.delete(digest)
    },
    fault(rule, fault) {
      const active = { rule, fault, seen: 0 }
      faults.push(active)
      return () => {
        const index = faults.indexOf(active)
        if (index >= 0) faults.splice(index, 1)
      }
    },
    setPace(bytesPerSecond) {
      pace = bytesPerSecond
    },
    ...countsOf(requests),
    tokenRequests: () => requests.filter((request) => request.url.split('?')[0] === '/token'),
    revokeTokens: () => tokens.clear(),
    forgetRequests() {
      requests.length = 0
    },
    connections: () => sockets.size,
    down: shut,
    up: () => listen(port),
    close: shut,
  }
}

/** What was given, by those requests. */
export function countsOf(
  requests: readonly Pick<SeenRequest, 'method' | 'reference' | 'offset' | 'bytes'>[],
): Pick<Upstream, 'delivered' | 'responsesPerSegment'> {
  return {
    delivered(reference) {
      const of = requests.filter((request) => request.reference === reference)
      const gets = of.filter((request) => request.method === 'GET')
      return {
        gets: gets.length,
        heads: of.length - gets.length,
        bytes: gets.reduce((sum, request) => sum + request.bytes, 0),
      }
    },
    responsesPerSegment(digest, segmentBytes) {
      const counts: number[] = []
      for (const { reference, method, offset, bytes } of requests) {
        if (reference !== digest || method !== 'GET' || bytes === 0) continue
        const last = Math.floor((offset + bytes - 1) / segmentBytes)
        for (let segment = Math.floor(offset / segmentBytes); segment <= last; segment++)
          counts[segment] = (counts[segment] ?? 0) + 1
      }
      return Array.from(counts, (count) => count ?? 0)
    },
  }
}

/** Puts an image of one layer there. */
export function addImage(
  upstream: Upstream,
  repository: string,
  { seed = 'image', bytes = 3 * 1024 * 1024, tag = 'v1' } = {},
) {
  const config = upstream.addBlob(repository, Buffer.from(`{"seed":"${seed}"}`))
  const content = bytesOf(seed, bytes)
  const layer = upstream.addBlob(repository, content)
  const document = {
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    config: {
      mediaType: 'application/vnd.oci.image.config.v1+json',
      digest: config,
      size: seed.length + 11,
    },
    layers: [
      { mediaType: 'application/vnd.oci.image.layer.v1.tar', digest: layer, size: content.length },
    ],
  }
  const manifest = upstream.addManifest(repository, document, { tag })
  return { config, layer, content, manifest }
}

/** Puts an image or an index there, with all that it names. */
export function offerImage(
  upstream: Upstream,
  { repository, tag }: { readonly repository: string; readonly tag: string },
  image: Image,
): void {
  for (const { bytes } of blobsOf(image)) upstream.addBlob(repository, bytes)
  for (const { bytes, mediaType } of manifestsOf(image))
    upstream.addManifest(repository, bytes, { mediaType })
  upstream.setTag(repository, tag, image.manifest.digest)
}

interface Reply {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly seen: SeenRequest
}

function allowedAt(bytesPerSecond: number, start: number): number {
  return Math.floor(((performance.now() - start) / 1000) * bytesPerSecond)
}

function userOf(auth: UpstreamAuth, credential: string): string | undefined {
  const [name = '', ...rest] = Buffer.from(credential, 'base64').toString().split(':')
  return auth.users?.[name] === rest.join(':') ? name : undefined
}

function mediaTypeOf(document: object): string {
  const type = 'mediaType' in document ? document.mediaType : undefined
  return typeof type === 'string' ? type : 'application/vnd.oci.image.manifest.v1+json'
}

function sendManifest(reply: Reply, repository: Repository, text: string, fault: Fault) {
  const digest = isDigest(text) ? text : repository.tags.get(text)
  const manifest = digest === undefined ? undefined : repository.manifests.get(digest)
  if (digest === undefined || manifest === undefined)
    return sendError(reply, 404, 'MANIFEST_UNKNOWN')
  const contentDigest = fault.contentDigest ?? digest
  if (reply.request.headers['if-none-match'] === `"${digest}"`)
    return sendEmpty(reply, 304, { etag: `"${digest}"`, ...fault.headers })
  return sendBody(reply, resized(manifest.bytes, fault), manifest.mediaType, fault, {
    etag: `"${digest}"`,
    ...(contentDigest === '' ? {} : { 'docker-content-digest': contentDigest }),
  })
}

function sendTags(
  reply: Reply,
  name: string,
  repository: Repository,
  { query, fault }: { readonly query: URLSearchParams; readonly fault: Fault },
) {
  const last = query.get('last') ?? ''
  const all = [...repository.tags.keys()].sort().filter((tag) => tag > last)
  const n = Number(query.get('n') ?? all.length)
  const tags = all.slice(0, n)
  const next = tags.at(-1)
  const link =
    next !== undefined && tags.length < all.length
      ? { link: `</v2/${name}/tags/list?n=${n}&last=${next}>; rel="next"` }
      : {}
  const body = Buffer.from(JSON.stringify({ name, tags }))
  return sendBody(reply, body, 'application/json', fault, link)
}

function sendReferrers(
  reply: Reply,
  repository: Repository,
  {
    subject,
    query,
    fault,
    perPage,
  }: {
    readonly subject: string
    readonly query: URLSearchParams
    readonly fault: Fault
    readonly perPage: number
  },
) {
  const wantedType = query.get('artifactType')
  const all = [...repository.manifests].flatMap(([digest, { bytes, mediaType }]) => {
    const { artifactType, annotations, ...document } = JSON.parse(bytes.toString()) as {
      subject?: { digest?: string }
      artifactType?: string
      annotations?: Record<string, string>
    }
    if (document.subject?.digest !== subject) return []
    if (wantedType !== null && artifactType !== wantedType) return []
    return [{ mediaType, digest, size: bytes.length, artifactType, annotations }]
  })
  const start = Number(query.get('from') ?? 0)
  const manifests = all.slice(start, start + perPage)
  const next = new URLSearchParams(query)
  next.set('from', String(start + perPage))
  const isLast = start + perPage >= all.length
  const link = isLast ? {} : { link: `<${subject}?${next.toString()}>; rel="next"` }
  const index = {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.index.v1+json',
    manifests,
  }
  return sendBody(reply, Buffer.from(JSON.stringify(index)), index.mediaType, fault, link)
}

function sendBody(
  { request, response, seen }: Reply,
  stored: Buffer,
  mediaType: string,
  fault: Fault,
  headers: Record<string, string> = {},
) {
  const body = fault.gzip === true ? gzipSync(stored) : spoiled(stored, fault.flipBit ?? -1)
  seen.status = 200
  response.writeHead(200, {
    'content-type': mediaType,
    ...(fault.chunked === true ? {} : { 'content-length': body.length + (fault.lengthOff ?? 0) }),
    ...(fault.gzip === true ? { 'content-encoding': 'gzip' } : {}),
    ...headers,
    ...fault.headers,
  })
  seen.headersAt = performance.now()
  if (request.method === 'HEAD') return void response.end()
  if (fault.stallAt !== undefined) {
    seen.bytes = fault.stallAt
    return void response.write(body.subarray(0, fault.stallAt))
  }
  const cut = fault.cutAt ?? fault.cutAfter
  seen.bytes = Math.min(cut ?? body.length, body.length)
  if (cut === undefined && (fault.lengthOff ?? 0) === 0) return void response.end(body)
  response.write(body.subarray(0, cut), () => response.destroy())
}

function sendGzip(reply: Reply, bytes: Buffer, headers: Record<string, string | number>) {
  const body = gzipSync(bytes)
  reply.seen.status = 200
  reply.seen.bytes = body.length
  reply.response.writeHead(200, {
    ...headers,
    'content-encoding': 'gzip',
    'content-length': body.length,
  })
  reply.response.end(reply.request.method === 'HEAD' ? undefined : body)
}

function sendError(
  reply: Reply,
  status: number,
  code: ConstructorParameters<typeof OciError>[0],
  headers: Readonly<Record<string, string>> = {},
) {
  const body = Buffer.from(formatErrors(new OciError(code, 'said the stand-in').entries))
  reply.seen.status = status
  reply.seen.headersAt = performance.now()
  reply.response.writeHead(status, {
    'content-type': 'application/json',
    'content-length': body.length,
    ...headers,
  })
  reply.response.end(reply.request.method === 'HEAD' ? undefined : body)
}

function sendEmpty(reply: Reply, status: number, headers: Readonly<Record<string, string>>) {
  reply.seen.status = status
  reply.seen.headersAt = performance.now()
  reply.response.writeHead(status, { 'content-length': 0, ...headers })
  reply.response.end()
}

function resized(bytes: Buffer, { sizeOff = 0 }: Fault): Buffer {
  if (sizeOff < 0) return bytes.subarray(0, bytes.length + sizeOff)
  return sizeOff === 0 ? bytes : Buffer.concat([bytes, Buffer.alloc(sizeOff, 0x2a)])
}

function spoiled(chunk: Buffer, flip: number): Buffer {
  if (flip < 0 || flip >= chunk.length) return chunk
  const copy = Buffer.from(chunk)
  copy[flip] = (copy[flip] ?? 0) ^ 1
  return copy
}

/** Resolves when the chunk went to the kernel or the response is gone: after an abort no callback comes. */
function write(response: ServerResponse, chunk: Buffer): Promise<void> {
  return new Promise((resolve) => {
    const settle = () => {
      response.off('close', settle)
      resolve()
    }
    response.once('close', settle)
    response.write(chunk, settle)
  })
}

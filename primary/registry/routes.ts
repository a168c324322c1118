import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { IncomingMessage, OutgoingHttpHeaders } from 'node:http'
import { repositoryScope, type Scope } from '../../shared/auth/scope.ts'
import { isBodyRead } from '../../shared/http/drain-body.ts'
import { closeUnlessRead, type DrainLimits } from '../../shared/http/error-answer.ts'
import { clientAddressOf } from '../../shared/http/forwarded.ts'
import { createOciUrlReader, type OciUrlReader } from '../../shared/http/oci-urls.ts'
import { recordOf } from '../../shared/http/request-record.ts'
import type { BlobSender } from '../../shared/http/send-blob.ts'
import type { Digest, DigestAlgorithm } from '../../shared/oci/digest.ts'
import { namesDigest, parseEntityTags } from '../../shared/oci/entity-tags.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { mediaTypes } from '../../shared/oci/media-types.ts'
import { blobPath, manifestPath, type OciPath } from '../../shared/oci/paths.ts'
import type { Reference, RepositoryName, Tag } from '../../shared/oci/reference.ts'
import type { Logger } from '../../shared/observability/log.ts'
import { reportsPulls, reportsPullsHeader } from '../../shared/replication/pulls.ts'
import { tagHeader } from '../../shared/replication/signed-tag.ts'
import { parseUploadRange } from '../../shared/stream/range.ts'
import type { Caller, RepositoryFacts } from '../accounts/caller.ts'
import type { Delete } from './delete.ts'
import type { Discovery } from './discovery.ts'
import type { NamePage } from './paging.ts'
import { userBytesHead, type ManifestAnswer, type Pull } from './pull.ts'
import type { Push } from './push.ts'
import { progressHeaders, type UploadChunk, type UploadSessions } from './uploads.ts'

export interface RegistryRouteDeps {
  /** Says who sent a request; throws UNAUTHORIZED with the challenge for a wrong credential. */
  readonly authenticate: (request: {
    readonly authorization?: string | undefined
    readonly address: string
    readonly connection?: object
    readonly scopes?: readonly Scope[]
  }) => Promise<Caller>
  readonly pull: Pull
  readonly discovery: Discovery
  readonly push: Push
  readonly uploads: UploadSessions
  readonly remove: Delete
  /** Where a tag points, and what says that, signed, with when it was so; undefined when that cannot be told exactly. */
  readonly stateTag: (
    repository: RepositoryFacts,
    tag: Tag,
  ) => Promise<{ readonly digest: Digest; readonly statement: string } | undefined>
  readonly sender: BlobSender
  readonly challenge: (scopes: readonly Scope[]) => string
  readonly drain: DrainLimits
  readonly log: Logger
  /** Told of the body bytes of each blob that was sent. */
  readonly onSent?: (source: 'memory' | 'disk', bytes: number) => void
}

interface Exchange<Path extends OciPath = OciPath> {
  readonly request: FastifyRequest
  readonly reply: FastifyReply
  readonly path: Path
  readonly query: URLSearchParams
  readonly caller: Caller
  readonly deps: RegistryRouteDeps
}

type Kind = OciPath['kind']
type PathOf<K extends Kind> = Extract<OciPath, { readonly kind: K }>
type Handler<K extends Kind> = (exchange: Exchange<PathOf<K>>) => Promise<void>
type Methods<K extends Kind> = Readonly<Record<string, Handler<K>>>

const apiVersion = { 'Docker-Distribution-API-Version': 'registry/2.0' } as const

/** Every endpoint of the distribution API. HEAD answers as GET does, without the body. [distribution-spec, Endpoints] */
const endpoints: { readonly [K in Kind]: Methods<K> } = {
  ping: { GET: ping, HEAD: ping },
  catalog: { GET: catalog, HEAD: catalog },
  manifest: { GET: getManifest, HEAD: getManifest, PUT: putManifest, DELETE: deleteManifest },
  blob: { GET: getBlob, HEAD: headBlob, DELETE: deleteBlob },
  uploads: { POST: startUpload },
  upload: {
    GET: uploadStatus,
    HEAD: uploadStatus,
    PATCH: patchUpload,
    PUT: putUpload,
    DELETE: cancelUpload,
  },
  tags: { GET: listTags, HEAD: listTags },
  referrers: { GET: listReferrers, HEAD: listReferrers },
}

/** Registers the distribution API: one wildcard and one grammar, since repository names hold slashes. */
export function registryRoutes(app: FastifyInstance, deps: RegistryRouteDeps): void {
  const readUrl = createOciUrlReader()
  const handler = async (request: FastifyRequest, reply: FastifyReply): Promise<void> => {
    try {
      await dispatch(request, reply, { deps, readUrl })
    } catch (error) {
      reply.raw.setHeader('Docker-Distribution-API-Version', 'registry/2.0')
      throw refusalFor(error, request.raw)
    }
  }
  // Each operation asks for its right to the repository in the path.
  const config = { permission: { of: 'repository' } }
  for (const url of ['/v2', '/v2/*']) {
    app.route({ method: app.supportedMethods, url, config, handler })
  }
}

async function dispatch(
  request: FastifyRequest,
  reply: FastifyReply,
  { deps, readUrl }: { readonly deps: RegistryRouteDeps; readonly readUrl: OciUrlReader },
): Promise<void> {
  const { raw } = request
  const target = readUrl(raw.url ?? '')
  if (target === undefined) {
    throw new OciError('NAME_UNKNOWN', 'no endpoint of the registry API has this path')
  }
  const { path, query } = target
  recordOf(raw).route = path.kind
  const handle = handlerOf(path.kind, raw.method ?? '')
  const { authorization } = raw.headers
  const caller = await deps.authenticate({
    authorization,
    address: authorization === undefined ? '' : clientAddressOf(raw),
    connection: recordOf(raw).socket,
    ...('repository' in path && { scopes: [scopeOf(path.repository, raw.method ?? '')] }),
  })
  // Whoever sends a body with a GET wants an answer all the same, and the connection goes on behind it.
  const isRead = raw.method === 'GET' || raw.method === 'HEAD'
  if (isRead && !isBodyRead(raw)) await closeUnlessRead(raw, reply.raw, deps.drain)
  await handle({ request, reply, path, query, caller, deps })
}

function handlerOf(kind: Kind, method: string): (exchange: Exchange) => Promise<void> {
  const methods: Readonly<Record<string, unknown>> = endpoints[kind]
  const handler = Object.hasOwn(methods, method) ? methods[method] : undefined
  // The table's type says that a kind's handlers take that kind's path.
  if (handler !== undefined) return handler as (exchange: Exchange) => Promise<void>
  const allowed = Object.keys(methods).join(', ')
  throw new OciError('UNSUPPORTED', `${method} is not possible here; ${allowed} are`, {
    headers: { Allow: allowed },
  })
}

/** What a client with a wrong token should ask for, as `allow` would say it. */
function scopeOf(repository: RepositoryName, method: string): Scope {
  if (method === 'GET' || method === 'HEAD') return repositoryScope(repository, ['pull'])
  return repositoryScope(repository, method === 'DELETE' ? ['delete'] : ['pull', 'push'])
}

/** [end-1] A token for nobody is a log-in too; without one, clients learn here where to log in. */
async function ping({ request, reply, caller, deps }: Exchange): Promise<void> {
  if (caller.kind === 'anonymous' && caller.access === undefined) {
    throw new OciError('UNAUTHORIZED', 'log in, or ask the realm for an anonymous token', {
      headers: { 'WWW-Authenticate': deps.challenge([]) },
    })
  }
  await answer({ request, reply, deps }, { status: 200, head: jsonHead, body: emptyObject })
}

const emptyObject = Buffer.from('{}')
const jsonHead = { ...apiVersion, 'Content-Type': 'application/json' } as const

async function catalog(exchange: Exchange<PathOf<'catalog'>>): Promise<void> {
  const { caller, query, deps } = exchange
  const page = await deps.discovery.catalog({ caller, query })
  await answerPage(exchange, page, { repositories: page.names })
}

/** [end-8] */
async function listTags(exchange: Exchange<PathOf<'tags'>>): Promise<void> {
  const { caller, path, query, deps } = exchange
  const page = await deps.discovery.tags({ caller, repository: path.repository, query })
  await answerPage(exchange, page, { name: path.repository, tags: page.names })
}

async function answerPage(exchange: Exchange, page: NamePage, document: object): Promise<void> {
  const head = page.link === undefined ? jsonHead : { ...jsonHead, Link: page.link }
  const body = Buffer.from(JSON.stringify(document))
  await answer(exchange, { status: 200, head, body })
}

/** [end-12] */
async function listReferrers(exchange: Exchange<PathOf<'referrers'>>): Promise<void> {
  const { caller, path, query, deps } = exchange
  const { repository, digest } = path
  const page = await deps.discovery.referrers({ caller, repository, digest, query })
  const head = {
    ...apiVersion,
    ...userBytesHead,
    // crane and oras compare this text: anything else and they look for the tag schema instead.
    'Content-Type': mediaTypes.ociIndex,
    ...(page.filtered && { 'OCI-Filters-Applied': 'artifactType' }),
    ...(page.link !== undefined && { Link: page.link }),
  }
  await answer(exchange, { status: 200, head, body: page.body })
}

/** [end-3] */
async function getManifest(exchange: Exchange<PathOf<'manifest'>>): Promise<void> {
  const { request, reply, caller, path, deps } = exchange
  const { raw } = request
  const { repository, reference } = path
  const isGet = raw.method === 'GET'
  const { accept } = raw.headers
  const held = parseEntityTags(raw.headers['if-none-match'])
  const find = (wanted: Reference | undefined) =>
    deps.pull.manifest({
      caller,
      repository,
      reference: wanted,
      accept,
      counted: (digest) => isGet && !isReported(exchange) && !namesDigest(held, digest),
    })
  const found = await find(reference)
  recordOf(raw).source = 'memory'
  const said = await stateTag(exchange, found)
  // It moved meanwhile: an edge is given what was signed.
  const hasMoved = said !== undefined && said.digest !== found.digest
  const manifest = hasMoved ? await find({ kind: 'digest', digest: said.digest }) : found
  const stated = said && { [tagHeader]: said.statement }
  reply.hijack()
  if (namesDigest(held, manifest.digest)) {
    const { 'Content-Length': _length, 'Content-Type': _type, ...head } = manifest.head
    reply.raw.writeHead(304, { ...head, ...stated }).end()
    return
  }
  const head = stated === undefined ? manifest.head : { ...manifest.head, ...stated }
  reply.raw.writeHead(200, head).end(isGet ? manifest.body : undefined)
}

/** An edge that reports the pulls of its clients pulls nothing itself; of any other one this is all that is known. */
function isReported({ caller, request }: Exchange<PathOf<'manifest'>>): boolean {
  return caller.kind === 'edge' && request.raw.headers[reportsPullsHeader] === reportsPulls
}

/** Tells an edge when the tag was so, that it may know which of two answers is the later one. */
async function stateTag(
  { caller, path, deps }: Exchange<PathOf<'manifest'>>,
  { repository }: ManifestAnswer,
): ReturnType<RegistryRouteDeps['stateTag']> {
  const { reference } = path
  if (caller.kind !== 'edge' || reference?.kind !== 'tag') return undefined
  return deps.stateTag(repository, reference.tag)
}

/** [end-7a, end-7b] */
async function putManifest(exchange: Exchange<PathOf<'manifest'>>): Promise<void> {
  const { request, caller, path, query, deps } = exchange
  const { raw } = request
  const { repository, reference, text } = path
  const pushed = await deps.push.putManifest({
    caller,
    repository,
    reference,
    text,
    tags: query.getAll('tag'),
    contentType: raw.headers['content-type'],
    conditions: {
      ifMatch: parseEntityTags(raw.headers['if-match']),
      ifNoneMatch: parseEntityTags(raw.headers['if-none-match']),
    },
    body: raw,
    address: clientAddressOf(raw),
  })
  const { digest, subject, tags } = pushed
  await answer(exchange, {
    status: 201,
    head: {
      ...apiVersion,
      Location: manifestPath(repository, { kind: 'digest', digest }),
      'Docker-Content-Digest': digest,
      ...(subject !== undefined && { 'OCI-Subject': subject }),
      ...(tags.length > 0 && { 'OCI-Tag': tags.join(', ') }),
    },
  })
}

/** [end-9] */
async function deleteManifest(exchange: Exchange<PathOf<'manifest'>>): Promise<void> {
  const { request, caller, path, deps } = exchange
  const { repository, reference, text } = path
  const address = clientAddressOf(request.raw)
  await deps.remove.manifest({ caller, repository, reference, text, address })
  await answer(exchange, { status: 202, head: apiVersion })
}

/** [end-2] */
async function getBlob({
  request,
  reply,
  caller,
  path,
  deps,
}: Exchange<PathOf<'blob'>>): Promise<void> {
  const { repository, digest } = path
  const opened = await deps.pull.openBlob({ caller, repository, digest })
  const record = recordOf(request.raw)
  if ('redirect' in opened) {
    const head = { ...apiVersion, Location: opened.redirect.href }
    await answer({ request, reply, deps }, { status: 307, head })
    return
  }
  const blob = { ...opened, headers: userBytesHead }
  const source = 'bytes' in opened ? 'memory' : 'disk'
  record.source = source
  try {
    reply.hijack()
    const sent = await deps.sender.send(request.raw, reply.raw, blob)
    deps.onSent?.(source, sent.bytes)
    if (sent.outcome === 'cut') {
      deps.log.error(
        { err: sent.cause, requestId: record.id, digest: blob.digest },
        'a stored blob could not be read',
      )
    }
  } finally {
    if ('handle' in opened) await opened.handle.close()
  }
}

/** [end-2] */
async function headBlob({
  request,
  reply,
  caller,
  path,
  deps,
}: Exchange<PathOf<'blob'>>): Promise<void> {
  const { repository, digest } = path
  const blob = await deps.pull.statBlob({ caller, repository, digest })
  reply.hijack()
  const handle = { size: blob.size, read: async () => 0 }
  await deps.sender.send(request.raw, reply.raw, {
    digest: blob.digest,
    handle,
    headers: userBytesHead,
  })
}

/** [end-10] */
async function deleteBlob(exchange: Exchange<PathOf<'blob'>>): Promise<void> {
  const { caller, path, deps } = exchange
  await deps.remove.blob({ caller, repository: path.repository, digest: path.digest })
  await answer(exchange, { status: 202, head: apiVersion })
}

/** A mount if one is asked for and possible, else a whole blob, else a session. [end-11, end-4b, end-4a, end-4c] */
async function startUpload(exchange: Exchange<PathOf<'uploads'>>): Promise<void> {
  const { request, caller, path, query, deps } = exchange
  const { repository } = path
  const [mount, from, digest] = [query.get('mount'), query.get('from'), query.get('digest')]
  if (mount !== null) {
    const mounted = await deps.push.mount({ caller, repository, digest: mount, from })
    if (mounted !== undefined) {
      await answer(exchange, blobCreated(repository, mounted))
      return
    }
  } else if (digest !== null) {
    const chunk = chunkOf(request.raw)
    const received = await deps.uploads.receiveWhole({ caller, repository }, { digest, chunk })
    await answer(exchange, blobCreated(repository, received))
    return
  }
  const algorithm = parseAlgorithm(query.get('digest-algorithm'))
  const { id, held } = await deps.uploads.open({ caller, repository, algorithm })
  await answer(exchange, {
    status: 202,
    head: { ...apiVersion, ...progressHeaders({ repository, id }, held) },
  })
}

/** [end-5] */
async function patchUpload(exchange: Exchange<PathOf<'upload'>>): Promise<void> {
  const { request, caller, path, deps } = exchange
  const { repository, id } = path
  const { held } = await deps.uploads.receive({ caller, repository, id }, chunkOf(request.raw))
  await answer(exchange, { status: 202, head: { ...apiVersion, ...progressHeaders(path, held) } })
}

/** [end-6] */
async function putUpload(exchange: Exchange<PathOf<'upload'>>): Promise<void> {
  const { request, caller, path, query, deps } = exchange
  const { repository, id } = path
  const chunk = chunkOf(request.raw)
  const digest = query.get('digest')
  const finished = await deps.uploads.finish({ caller, repository, id }, { digest, chunk })
  await answer(exchange, blobCreated(repository, finished))
}

/** [end-13] */
async function uploadStatus(exchange: Exchange<PathOf<'upload'>>): Promise<void> {
  const { caller, path, deps } = exchange
  const { repository, id } = path
  const { held } = await deps.uploads.status({ caller, repository, id })
  await answer(exchange, { status: 204, head: { ...apiVersion, ...progressHeaders(path, held) } })
}

/** [end-14] */
async function cancelUpload(exchange: Exchange<PathOf<'upload'>>): Promise<void> {
  const { caller, path, deps } = exchange
  await deps.uploads.cancel({ caller, repository: path.repository, id: path.id })
  await answer(exchange, { status: 204, head: apiVersion })
}

interface Answer {
  readonly status: number
  readonly head: OutgoingHttpHeaders
  readonly body?: Buffer
}

/** Writes an answer whose body is here. What the client still sends is read first: docker would miss the answer. */
async function answer(
  { request, reply, deps }: Pick<Exchange, 'request' | 'reply' | 'deps'>,
  { status, head, body }: Answer,
): Promise<void> {
  reply.hijack()
  await closeUnlessRead(request.raw, reply.raw, deps.drain)
  const length = status === 204 ? {} : { 'Content-Length': body?.length ?? 0 }
  reply.raw.writeHead(status, { ...head, ...length })
  reply.raw.end(request.raw.method === 'HEAD' ? undefined : body)
}

function blobCreated(repository: RepositoryName, digest: Parameters<typeof blobPath>[1]): Answer {
  const head = {
    ...apiVersion,
    Location: blobPath(repository, digest),
    'Docker-Content-Digest': digest,
  }
  return { status: 201, head }
}

/** What a request brings, and where it says that this belongs. */
function chunkOf(request: IncomingMessage): UploadChunk {
  const {
    'content-length': length,
    'content-range': range,
    'transfer-encoding': encoding,
  } = request.headers
  return {
    body: request,
    length: length === undefined ? (encoding === undefined ? 0 : undefined) : Number(length),
    range: range === undefined ? undefined : parseChunkRange(range),
  }
}

function parseChunkRange(text: string): { readonly start: number; readonly end: number } {
  const range = parseUploadRange(text)
  if (range !== undefined) return range
  throw new OciError('BLOB_UPLOAD_INVALID', 'Content-Range must be <first>-<last>, both inclusive')
}

function parseAlgorithm(text: string | null): DigestAlgorithm | undefined {
  if (text === null) return undefined
  if (text === 'sha256' || text === 'sha512') return text
  throw new OciError('DIGEST_INVALID', 'digest-algorithm must be sha256 or sha512')
}

/** SQLSTATE of a database without room, and what a file system says. */
const noSpace: ReadonlySet<unknown> = new Set(['ENOSPC', 'EDQUOT', '53100'])

/** A full disk and a client that hung up are no faults of the program; the rest is what it is. */
function refusalFor(error: unknown, request: IncomingMessage): unknown {
  if (error instanceof OciError || !(error instanceof Error)) return error
  if ('code' in error && noSpace.has(error.code)) {
    return new OciError(
      'UNAVAILABLE',
      'the registry has no disk space left: its administrator must free some',
      {
        status: 507,
        cause: error,
      },
    )
  }
  if (request.destroyed && !request.complete) {
    return new OciError('BLOB_UPLOAD_INVALID', 'the connection closed before the end of the body', {
      cause: error,
    })
  }
  return error
}

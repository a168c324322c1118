import type { ServerResponse } from 'node:http'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { clientAddressOf } from '../../shared/http/forwarded.ts'
import { createOciUrlReader, type OciUrlReader } from '../../shared/http/oci-urls.ts'
import { recordOf } from '../../shared/http/request-record.ts'
import type { BlobSender } from '../../shared/http/send-blob.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { acceptsIndex, isIndexMediaType } from '../../shared/oci/media-types.ts'
import { referrersPath, tagsPath } from '../../shared/oci/paths.ts'
import { formatReference, type Reference, type RepositoryName } from '../../shared/oci/reference.ts'
import { SourceError } from '../../shared/stream/blob-source.ts'
import type { UpstreamClient, UpstreamRequest } from '../../shared/upstream/fetch.ts'
import type { Registries, RegistryEntry } from '../../shared/upstream/registries.ts'
import type { Authorise } from '../access/authorise.ts'
import type { Origin } from '../cache/cache-index.ts'
import type { Blobs, OpenedBlob } from './blobs.ts'
import type { HeldManifest, Manifests } from './manifests.ts'
import { refusalOf } from './refusal.ts'
import { chooseTarget, type Target } from '../upstreams/target.ts'

/** One listener's manners. */
export interface MirrorListener {
  /** The upstream of requests that name none. */
  readonly fallback: RegistryEntry
  readonly authorise: Authorise
  /** Where pushes belong, for the refusal. */
  readonly pushUrl: string | undefined
}

export interface MirrorDeps {
  readonly listener: MirrorListener
  readonly registries: Registries
  readonly manifests: Manifests
  readonly blobs: Blobs
  readonly client: (upstream: string) => UpstreamClient
  readonly sender: BlobSender
  /** Bytes that went out, by where they came from. */
  readonly onServed: (source: 'hit' | 'fill', bytes: number) => void
}

/** What containerd, docker and podman talk to: the reading half of the distribution API. */
export function mirrorRoutes(app: FastifyInstance, deps: MirrorDeps): void {
  const served = { ...deps, readUrl: createOciUrlReader() }
  const read = async (request: FastifyRequest, reply: FastifyReply) =>
    answer(served, request, reply)
  // Access is decided by upstream and repository, before any look-up.
  const config = { permission: { of: 'repository' } }
  app.route({ method: ['GET', 'HEAD'], url: '/v2', config, handler: read })
  app.route({ method: ['GET', 'HEAD'], url: '/v2/*', config, handler: read })
  app.route({
    method: ['POST', 'PUT', 'PATCH', 'DELETE'],
    url: '/v2/*',
    config,
    handler: async () => {
      throw refusePush(deps.listener.pushUrl)
    },
  })
}

function refusePush(pushUrl: string | undefined): OciError {
  const where = pushUrl === undefined ? 'to its primary' : `to ${pushUrl}`
  return new OciError('UNSUPPORTED', `this is an edge, which only reads: push ${where}`, {
    headers: { Allow: 'GET, HEAD' },
  })
}

/** One request, past the choice of its upstream and before its access is decided. */
interface Asked {
  readonly request: FastifyRequest
  readonly reply: FastifyReply
  readonly target: Target
  readonly origin: Origin
  /** As the client calls it: with the upstream's prefix, without the default namespace. */
  readonly repository: RepositoryName
  readonly query: URLSearchParams
  readonly upstreamRequest: UpstreamRequest
}

async function answer(
  deps: MirrorDeps & { readonly readUrl: OciUrlReader },
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<unknown> {
  const record = recordOf(request.raw)
  const parsed = deps.readUrl(request.raw.url ?? '')
  record.route = parsed?.path.kind ?? 'unknown'
  if (parsed === undefined)
    throw new OciError('UNSUPPORTED', 'there is no such endpoint under /v2/', { status: 404 })
  const { registries, listener } = deps
  const caller = {
    authorization: request.headers.authorization,
    address: clientAddressOf(request.raw),
    requestId: record.id,
    connection: record.socket,
  }
  if (parsed.path.kind === 'ping') {
    await listener.authorise.ping(caller)
    return reply
      .header('Docker-Distribution-API-Version', 'registry/2.0')
      .type('application/json')
      .send(emptyObject)
  }
  const target = chooseTarget(parsed, { registries, fallback: listener.fallback })
  if (
    !('repository' in target.path) ||
    target.path.kind === 'uploads' ||
    target.path.kind === 'upload'
  ) {
    throw target.path.kind === 'catalog'
      ? new OciError('UNSUPPORTED', 'an edge has no catalog: ask the registry itself', {
          status: 404,
        })
      : refusePush(listener.pushUrl)
  }
  const { repository } = target.path
  const { project } = await listener.authorise.pull(caller, { entry: target.upstream, repository })
  const asked: Asked = {
    request,
    reply,
    target,
    origin: { upstream: target.upstream.id, repository, project },
    repository: 'repository' in parsed.path ? parsed.path.repository : repository,
    query: parsed.query,
    upstreamRequest: new RequestToUpstream(record.id, reply.raw),
  }
  try {
    return await dispatch(deps, asked)
  } catch (error) {
    if (!(error instanceof SourceError)) throw error
    record.fields = { upstream: target.upstream.id, reason: error.message }
    throw refusalOf(error, target.path.kind)
  }
}

/**
 * What goes along to the upstream. Most requests never get there, so the signal is made when it is asked for. A class,
 * because an accessor of an object literal gives each object a shape of its own, and the collector keeps those.
 */
class RequestToUpstream implements UpstreamRequest {
  readonly headers: Readonly<Record<string, string>>
  readonly #response: ServerResponse
  #gone: AbortController | undefined

  constructor(requestId: string, response: ServerResponse) {
    this.headers = { 'X-Request-Id': requestId }
    this.#response = response
  }

  get signal(): AbortSignal {
    this.#gone ??= this.#watch()
    return this.#gone.signal
  }

  #watch(): AbortController {
    const response = this.#response
    const controller = new AbortController()
    const abort = () => {
      // After a finished response nobody listens, and an abort is dear: it makes an error with its stack.
      if (!response.writableFinished) controller.abort()
    }
    if (response.destroyed) abort()
    else response.once('close', abort)
    return controller
  }
}

async function dispatch(deps: MirrorDeps, asked: Asked): Promise<unknown> {
  const { path } = asked.target
  switch (path.kind) {
    case 'manifest':
      if (path.reference === undefined) throw unknownManifest(path.text)
      return sendManifest(deps, asked, path.reference)
    case 'blob':
      if (path.digest === undefined)
        throw new OciError('DIGEST_INVALID', 'the digest in the path is not one')
      return sendBlob(deps, asked, path.digest)
    case 'tags':
      return sendTags(deps, asked)
    case 'referrers':
      if (path.digest === undefined)
        throw new OciError('DIGEST_INVALID', 'the digest in the path is not one')
      return sendReferrers(deps, asked, path.digest)
    case 'ping':
    case 'catalog':
    case 'uploads':
    case 'upload':
      throw new Error(`a request for ${path.kind} came past its own answer`)
  }
}

async function sendManifest(
  deps: MirrorDeps,
  asked: Asked,
  reference: Reference,
): Promise<unknown> {
  const { manifests, sender } = deps
  const { origin, upstreamRequest, request, reply } = asked
  const resolved =
    reference.kind === 'digest'
      ? { digest: reference.digest, staleMs: undefined }
      : await manifests.resolve(origin, reference.tag, upstreamRequest)
  const manifest = resolved && (await manifests.get(origin, resolved.digest, upstreamRequest))
  if (manifest === undefined) throw unknownManifest(formatReference(reference))
  if (
    reference.kind === 'tag' &&
    isIndexMediaType(manifest.mediaType) &&
    !acceptsIndex(request.headers.accept)
  ) {
    throw new OciError(
      'MANIFEST_UNKNOWN',
      'the tag names an index, and the Accept header names no type of index',
    )
  }
  noteManifest(request, manifest, asked.target.upstream.id)
  const sent = await sender.send(request.raw, reply.raw, {
    beforeHead: () => void reply.hijack(),
    bytes: manifest.bytes,
    digest: manifest.digest,
    contentType: manifest.mediaType,
    ...(reference.kind === 'tag' && { cacheControl: 'no-cache' }),
    headers: { ...commonHeaders(asked), ...staleHeaders(resolved?.staleMs) },
  })
  deps.onServed(manifest.source === 'upstream' ? 'fill' : 'hit', sent.bytes)
  return reply
}

async function sendBlob(deps: MirrorDeps, asked: Asked, digest: Digest): Promise<unknown> {
  const { blobs, sender } = deps
  const { origin, upstreamRequest, request, reply } = asked
  if (request.method === 'HEAD') {
    const size = await blobs.size(origin, digest, upstreamRequest)
    if (size === undefined) throw unknownBlob(digest)
    await sender.send(request.raw, reply.raw, {
      beforeHead: () => void reply.hijack(),
      digest,
      handle: sizeOnly(size),
      headers: commonHeaders(asked),
    })
    return reply
  }
  const opened = await blobs.open(origin, digest, upstreamRequest)
  noteBlob(request, opened, asked.target.upstream.id)
  try {
    const body = opened.kind === 'memory' ? { bytes: opened.bytes } : { handle: opened.handle }
    const sent = await sender.send(request.raw, reply.raw, {
      ...body,
      beforeHead: () => void reply.hijack(),
      digest,
      headers: commonHeaders(asked),
    })
    deps.onServed(opened.kind === 'fill' ? 'fill' : 'hit', sent.bytes)
    return reply
  } finally {
    if (opened.kind !== 'memory') await opened.handle.close()
  }
}

async function sendTags(deps: MirrorDeps, asked: Asked): Promise<unknown> {
  const { origin, query, reply, upstreamRequest } = asked
  const n = query.get('n')
  if (n !== null && !/^\d{1,9}$/.test(n)) {
    throw new OciError('PAGINATION_NUMBER_INVALID', 'n must be a whole number, 0 or more')
  }
  const page = { n: n === null ? undefined : Number(n), last: query.get('last') ?? undefined }
  const tags = await deps.client(origin.upstream).listTags(origin.repository, page, upstreamRequest)
  if (tags === undefined) throw new OciError('NAME_UNKNOWN', 'the upstream has no such repository')
  if (tags.next !== undefined)
    linkNext(asked, tagsPath(asked.repository), { ...(n !== null && { n }), last: tags.next })
  const body = JSON.stringify({ name: origin.repository, tags: tags.tags })
  return reply.headers(commonHeaders(asked)).type('application/json').send(Buffer.from(body))
}

async function sendReferrers(deps: MirrorDeps, asked: Asked, subject: Digest): Promise<unknown> {
  const { origin, repository, query, reply, upstreamRequest } = asked
  const artifactType = query.get('artifactType') ?? undefined
  const after = query.get('after') ?? undefined
  const client = deps.client(origin.upstream)
  const asking = { artifactType, after }
  const page = await client.referrers(origin.repository, subject, asking, upstreamRequest)
  if (page.next !== undefined) {
    const type = artifactType === undefined ? {} : { artifactType }
    linkNext(asked, referrersPath(repository, subject), { ...type, after: page.next })
  }
  const filters = page.headers['oci-filters-applied']
  if (filters !== undefined) reply.header('OCI-Filters-Applied', filters)
  return reply.headers(commonHeaders(asked)).type(page.mediaType).send(page.body)
}

/** Leads to the next page of the same list of the same upstream, however the client chose it. [RFC 8288] */
function linkNext({ reply, target }: Asked, path: string, query: Record<string, string>): void {
  const { namespace } = target
  const next = new URLSearchParams({ ...query, ...(namespace !== undefined && { ns: namespace }) })
  reply.header('Link', `<${path}?${next.toString()}>; rel="next"`)
}

function commonHeaders({ target }: Asked): Record<string, string> {
  return {
    'Docker-Distribution-API-Version': 'registry/2.0',
    ...(target.namespace !== undefined && { 'OCI-Namespace': target.namespace }),
  }
}

/** What a client may know of an answer that its upstream could not confirm. [RFC 9111 §5.1; RFC 7234 §5.5] */
function staleHeaders(staleMs: number | undefined): Record<string, string> {
  if (staleMs === undefined) return {}
  return {
    Age: String(Math.floor(staleMs / 1000)),
    Warning: '110 - "the upstream cannot be reached: this tag may have moved"',
  }
}

function noteManifest(request: FastifyRequest, manifest: HeldManifest, upstream: string): void {
  const record = recordOf(request.raw)
  record.cache = manifest.source === 'upstream' ? 'miss' : 'hit'
  record.source = manifest.source === 'upstream' ? upstream : manifest.source
}

function noteBlob(request: FastifyRequest, opened: OpenedBlob, upstream: string): void {
  const record = recordOf(request.raw)
  record.cache = opened.kind === 'fill' ? 'fill' : 'hit'
  record.source = opened.kind === 'fill' ? upstream : opened.kind
}

/** HEAD needs a size and reads nothing. */
function sizeOnly(size: number) {
  return {
    size,
    read: () => Promise.reject(new Error('a HEAD reads no bytes')),
  }
}

const emptyObject = Buffer.from('{}')

function unknownManifest(reference: string): OciError {
  return new OciError('MANIFEST_UNKNOWN', 'there is no such manifest in this repository', {
    detail: { reference },
  })
}

function unknownBlob(digest: Digest): OciError {
  return new OciError('BLOB_UNKNOWN', 'there is no such blob in this repository', {
    detail: { digest },
  })
}

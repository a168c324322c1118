import type { IncomingMessage, ServerResponse } from 'node:http'
import { clientAddressOf } from '../../shared/http/forwarded.ts'
import { createOciUrlReader, type OciUrlReader } from '../../shared/http/oci-urls.ts'
import { recordOf } from '../../shared/http/request-record.ts'
import type { BlobSender } from '../../shared/http/send-blob.ts'
import type { RegistryHandler } from '../../shared/http/server.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { acceptsIndex, isIndexMediaType } from '../../shared/oci/media-types.ts'
import type { OciTarget } from '../../shared/oci/paths.ts'
import {
  formatReference,
  type Reference,
  type RepositoryName,
  type Tag,
} from '../../shared/oci/reference.ts'
import { SourceError } from '../../shared/stream/blob-source.ts'
import type { UpstreamRequest } from '../../shared/upstream/fetch.ts'
import type { Registries, RegistryEntry } from '../../shared/upstream/registries.ts'
import type { Authorise, EdgeCaller, PullGrant } from '../access/authorise.ts'
import type { Origin } from '../cache/cache-index.ts'
import {
  apiVersion,
  commonHeaders,
  jsonType,
  sendDocument,
  staleHeaders,
  type Asked,
  type Asking,
} from './answers.ts'
import type { Blobs } from './blobs.ts'
import type { Lists } from './lists.ts'
import type { HeldManifest, Manifests } from './manifests.ts'
import type { Prefetch } from './prefetch.ts'
import type { Repeats } from './repeats.ts'
import { partHeader, viaHeader } from '../sources/hops.ts'
import { refusalOf } from '../upstreams/refusal.ts'
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
  readonly lists: Lists
  readonly prefetch: Pick<Prefetch, 'served'>
  readonly sender: BlobSender
  readonly repeats: Repeats
  /** Bytes that went out, by where they came from. */
  readonly onServed: (source: 'hit' | 'fill', bytes: number) => void
  /** A manifest went out: it was pulled by a tag, or without one by its digest. */
  readonly onPulled: (origin: Origin, digest: Digest, tag: Tag | undefined) => void
}

/** What containerd, docker and podman talk to: the reading half of the distribution API. */
export function createMirror(deps: MirrorDeps): RegistryHandler {
  const readUrl = createOciUrlReader()
  const { registries, listener } = deps
  // URLs that come again are remembered as one object: so is whose they are, in a closed table.
  const chosen = new WeakMap<OciTarget, Target>()
  const choose = (parsed: OciTarget): Target => {
    const known = chosen.get(parsed)
    if (known !== undefined) return known
    const target = chooseTarget(parsed, { registries, fallback: listener.fallback })
    chosen.set(parsed, target)
    return target
  }
  return (request, response) => answer(deps, { request, response, readUrl, choose })
}

const writingMethods: ReadonlySet<string | undefined> = new Set(['POST', 'PUT', 'PATCH', 'DELETE'])

function refusalOfMethod(method: string | undefined, { pushUrl }: MirrorListener): OciError {
  if (writingMethods.has(method)) return refusePush(pushUrl)
  return new OciError('UNSUPPORTED', `${method ?? ''} is not possible here; GET, HEAD are`, {
    headers: { Allow: 'GET, HEAD' },
  })
}

function refusePush(pushUrl: string | undefined): OciError {
  const where = pushUrl === undefined ? 'to its primary' : `to ${pushUrl}`
  return new OciError('UNSUPPORTED', `this is an edge, which only reads: push ${where}`, {
    headers: { Allow: 'GET, HEAD' },
  })
}

/** One request, past the choice of its upstream and before its access is decided. */
interface Wanted {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly target: Target
  readonly parsed: OciTarget
  /** As the upstream calls it. */
  readonly repository: RepositoryName
}

interface Exchange {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly readUrl: OciUrlReader
  readonly choose: (parsed: OciTarget) => Target
}

/**
 * Answers what is known in the turn of the loop that brought the request, and without a promise: most are hits, and
 * are to cost little more than Node's own part. Of everything else it asks.
 */
function answer(
  deps: MirrorDeps,
  { request, response, readUrl, choose }: Exchange,
): Promise<void> | undefined {
  const record = recordOf(request)
  const { method } = request
  const { listener } = deps
  const parsed = readUrl(request.url ?? '')
  record.route = parsed?.path.kind ?? 'unknown'
  if (method !== 'GET' && method !== 'HEAD') throw refusalOfMethod(method, listener)
  if (parsed === undefined)
    throw new OciError('UNSUPPORTED', 'there is no such endpoint under /v2/', { status: 404 })
  const { authorise } = listener
  if (parsed.path.kind === 'ping') {
    return authorise.ping(callerOf(request)).then(() => {
      sendDocument({ request, response }, { ...apiVersion, ...jsonType }, emptyObject)
    })
  }
  const target = choose(parsed)
  if (target.path.kind === 'catalog')
    return askForCatalog(deps, { request, response, target, parsed })
  const repository = repositoryOf(target, listener)
  const wanted = { entry: target.upstream, repository, path: target.path }
  const asked = { request, response, target, parsed, repository }
  const credential = { authorization: request.headers.authorization, connection: record.socket }
  const grant = authorise.known(credential, wanted)
  if (grant === undefined) {
    return authorise
      .pull(callerOf(request), wanted)
      .then((given) => askAndAnswer(deps, allow(asked, given)))
  }
  const allowed = allow(asked, grant)
  return answerKnown(deps, allowed) ? undefined : askAndAnswer(deps, allowed)
}

function callerOf(request: IncomingMessage): EdgeCaller {
  const { id, socket } = recordOf(request)
  return {
    authorization: request.headers.authorization,
    connection: socket,
    address: clientAddressOf(request),
    requestId: id,
    via: request.headers[viaHeader]?.toString(),
    cacheControl: request.headers['cache-control'],
    part: request.headers[partHeader]?.toString(),
  }
}

function allow(
  { request, response, target, parsed: { path, query }, repository }: Wanted,
  grant: PullGrant,
): Asked {
  const { project } = grant
  return {
    request,
    response,
    target,
    grant,
    origin: { upstream: target.upstream.id, repository, project },
    repository: 'repository' in path ? path.repository : repository,
    query,
  }
}

/** @throws OciError for what an edge does not have */
function repositoryOf({ path }: Target, { pushUrl }: MirrorListener): RepositoryName {
  if (!('repository' in path) || path.kind === 'uploads' || path.kind === 'upload')
    throw refusePush(pushUrl)
  return path.repository
}

/** Answers what is in memory. @returns whether it was */
function answerKnown(deps: MirrorDeps, asked: Asked): boolean {
  const { origin, target } = asked
  const { path } = target
  if (path.kind === 'manifest' && path.reference !== undefined) {
    const manifest = deps.manifests.known(origin, path.reference)
    if (manifest === undefined) return false
    sendManifest(deps, asked, { manifest, reference: path.reference })
    return true
  }
  if (path.kind === 'blob' && path.digest !== undefined) {
    const blob = deps.blobs.known(origin, path.digest)
    if (blob === undefined) return false
    sendBytes(deps, asked, { digest: path.digest, bytes: blob.bytes })
    return true
  }
  return false
}

function askAndAnswer(deps: MirrorDeps, asked: Asked): Promise<void> {
  return askingUpstream(asked, (upstreamRequest) => dispatch(deps, { ...asked, upstreamRequest }))
}

/** @throws OciError where an upstream's repositories are nobody's to list: the primary shows each its own */
function askForCatalog(
  { lists, listener: { authorise } }: MirrorDeps,
  { request, response, target, parsed }: Omit<Wanted, 'repository'>,
): Promise<void> {
  if (!authorise.isOpen(target.upstream.id)) {
    throw new OciError('UNSUPPORTED', 'an edge has no catalog of its primary: ask the primary', {
      status: 404,
    })
  }
  const asked = { request, response, target, grant: {}, query: parsed.query }
  return askingUpstream(asked, (upstreamRequest) =>
    lists.sendCatalog({ ...asked, upstreamRequest }),
  )
}

/** @throws OciError for what the upstream did not give */
async function askingUpstream(
  { request, response, target, grant }: Pick<Asked, 'request' | 'response' | 'target' | 'grant'>,
  ask: (upstreamRequest: UpstreamRequest) => Promise<void>,
): Promise<void> {
  const record = recordOf(request)
  try {
    await ask(new RequestToUpstream(record.id, response, grant))
  } catch (error) {
    if (!(error instanceof SourceError)) throw error
    if (error.code === 'refused') grant.revoke?.()
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
  readonly credential: UpstreamRequest['credential']
  readonly identity: string | undefined
  readonly hop: UpstreamRequest['hop']
  readonly #response: ServerResponse
  #gone: AbortController | undefined

  constructor(requestId: string, response: ServerResponse, grant: PullGrant) {
    this.headers = { 'X-Request-Id': requestId }
    this.credential = grant.credential
    this.identity = grant.identity
    this.hop = grant.hop
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
      // Once it is answered nobody listens, and an abort is dear: it makes an error with its stack.
      if (!response.headersSent) controller.abort()
    }
    if (response.destroyed) abort()
    else response.once('close', abort)
    return controller
  }
}

async function dispatch(deps: MirrorDeps, asked: Asking): Promise<void> {
  const { path } = asked.target
  switch (path.kind) {
    case 'manifest':
      if (path.reference === undefined) throw unknownManifest(path.text)
      return findAndSendManifest(deps, asked, path.reference)
    case 'blob':
      if (path.digest === undefined)
        throw new OciError('DIGEST_INVALID', 'the digest in the path is not one')
      return openAndSendBlob(deps, asked, path.digest)
    case 'tags':
      return deps.lists.sendTags(asked)
    case 'referrers':
      if (path.digest === undefined)
        throw new OciError('DIGEST_INVALID', 'the digest in the path is not one')
      return deps.lists.sendReferrers(asked, path.digest)
    case 'catalog':
    case 'ping':
    case 'uploads':
    case 'upload':
      throw new Error(`a request for ${path.kind} came past its own answer`)
  }
}

/** A manifest that is answered, though a tag's upstream may not have confirmed it. */
type FoundManifest = HeldManifest & { readonly staleMs?: number | undefined }

async function findAndSendManifest(
  deps: MirrorDeps,
  asked: Asking,
  reference: Reference,
): Promise<void> {
  const manifest = await findManifest(deps.manifests, asked, reference)
  if (manifest === undefined) throw unknownManifest(formatReference(reference))
  sendManifest(deps, asked, { manifest, reference })
}

async function findManifest(
  manifests: Manifests,
  { origin, upstreamRequest }: Asking,
  reference: Reference,
): Promise<FoundManifest | undefined> {
  if (reference.kind === 'digest' && upstreamRequest.hop?.onlyHeld === true)
    return manifests.held(origin, reference.digest)
  if (reference.kind === 'digest') return manifests.get(origin, reference.digest, upstreamRequest)
  const resolved = await manifests.resolve(origin, reference.tag, upstreamRequest)
  const manifest = resolved && (await manifests.get(origin, resolved.digest, upstreamRequest))
  return manifest && { ...manifest, staleMs: resolved.staleMs }
}

/** @throws OciError when the client's `Accept` has no word for what a tag names */
function sendManifest(
  { sender, prefetch, onServed, onPulled }: MirrorDeps,
  asked: Asked,
  { manifest, reference }: { readonly manifest: FoundManifest; readonly reference: Reference },
): void {
  const { request, response, target, grant } = asked
  const isTag = reference.kind === 'tag'
  if (isTag && isIndexMediaType(manifest.mediaType) && !acceptsIndex(request.headers.accept)) {
    throw new OciError(
      'MANIFEST_UNKNOWN',
      'the tag names an index, and the Accept header names no type of index',
    )
  }
  noteManifest(request, manifest, target.upstream.id)
  if (request.method === 'GET') {
    const requestOf = () => new RequestToUpstream(recordOf(request).id, response, grant)
    prefetch.served(asked.origin, manifest, requestOf)
  }
  const blob = {
    bytes: manifest.bytes,
    digest: manifest.digest,
    contentType: manifest.mediaType,
    ...(isTag && { cacheControl: 'no-cache' }),
    headers: { ...commonHeaders(asked), ...staleHeaders(manifest.staleMs) },
  }
  sender.sendBytes(request, response, blob, ({ bytes }) => {
    onServed(manifest.source === 'upstream' ? 'fill' : 'hit', bytes)
    // A HEAD, and who has it already, pull nothing.
    if (bytes > 0) onPulled(asked.origin, manifest.digest, isTag ? reference.tag : undefined)
  })
}

async function openAndSendBlob(deps: MirrorDeps, asked: Asking, digest: Digest): Promise<void> {
  const { blobs, sender, repeats } = deps
  const { origin, upstreamRequest, request, response } = asked
  const headers = commonHeaders(asked)
  if (request.method === 'HEAD') {
    const size = await blobs.size(origin, digest, upstreamRequest)
    if (size === undefined) throw unknownBlob(digest)
    await sender.send(request, response, { digest, handle: sizeOnly(size), headers })
    return
  }
  const isDoubted = repeats.isAgain(request, digest)
  const opened = await blobs.open(origin, digest, upstreamRequest, { isDoubted })
  if (opened.kind === 'memory') return sendBytes(deps, asked, { digest, bytes: opened.bytes })
  const { kind, handle } = opened
  const record = recordOf(request)
  record.cache = kind === 'fill' ? 'fill' : 'hit'
  record.source = kind === 'fill' ? asked.target.upstream.id : kind
  try {
    const sent = await sender.send(request, response, { digest, handle, headers })
    deps.onServed(record.cache, sent.bytes)
    if (kind === 'disk' && sent.outcome === 'complete') repeats.sent(request, digest)
  } finally {
    await handle.close()
  }
}

/** A blob that is in memory; the answer to a HEAD too. */
function sendBytes(
  { sender, onServed }: MirrorDeps,
  asked: Asked,
  blob: { readonly digest: Digest; readonly bytes: Buffer },
): void {
  const { request, response } = asked
  const record = recordOf(request)
  record.cache = 'hit'
  record.source = 'memory'
  const answer = { ...blob, headers: commonHeaders(asked) }
  sender.sendBytes(request, response, answer, ({ bytes }) => onServed('hit', bytes))
}

function noteManifest(request: IncomingMessage, manifest: HeldManifest, upstream: string): void {
  const record = recordOf(request)
  record.cache = manifest.source === 'upstream' ? 'miss' : 'hit'
  record.source = manifest.source === 'upstream' ? upstream : manifest.source
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

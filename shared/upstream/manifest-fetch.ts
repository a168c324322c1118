import type { HttpResponse } from '../http/client.ts'
import { algorithmOf, digestOf, isDigest } from '../oci/digest.ts'
import { OciError } from '../oci/errors.ts'
import { manifestMaxBytes, parseManifest } from '../oci/manifest.ts'
import { essenceOf, isManifestMediaType, mediaTypes } from '../oci/media-types.ts'
import { manifestPath } from '../oci/paths.ts'
import type { Reference, RepositoryName } from '../oci/reference.ts'
import { SourceError } from '../stream/blob-source.ts'
import type { Api, ApiCall } from './api.ts'
import { maxRedirects } from './exchange.ts'
import type { FetchedManifest, HeldTag, NamedManifest, UpstreamRequest } from './fetch.ts'
import { passedHeaders } from './lists.ts'
import { errorOfStatus } from './outcome.ts'
import { repositoryAt, type RegistryEntry } from './registries.ts'
import { sizeOf, urlAt } from './request.ts'

/** The order says what we would rather have: an upstream that chooses by it gives the whole image. */
const manifestAccept = [
  mediaTypes.ociIndex,
  mediaTypes.dockerIndex,
  mediaTypes.ociManifest,
  mediaTypes.dockerManifest,
].join(', ')

export interface ManifestFetchDeps {
  readonly entry: RegistryEntry
  readonly api: Api
  readonly onBytes: (count: number) => void
}

/** Manifests of one upstream. Both answer undefined for a 404. */
export function createManifestFetch({ entry, api, onBytes }: ManifestFetchDeps) {
  async function get(
    name: RepositoryName,
    reference: Reference,
    options: UpstreamRequest | undefined,
  ): Promise<FetchedManifest | undefined> {
    const { answer } = await api(manifestCall('GET', name, reference, options))
    if (answer.status === 404) return undefined
    if (answer.status !== 200) throw errorOfStatus(entry.id, answer.status, answer.headers)
    onBytes(answer.body.length)
    return readManifest(entry, reference, answer)
  }

  async function head(
    name: RepositoryName,
    reference: Reference,
    { held, ...options }: UpstreamRequest & { readonly held?: HeldTag | undefined } = {},
  ): Promise<NamedManifest | undefined> {
    const call = manifestCall('HEAD', name, reference, options)
    const { answer } = await api({ ...call, ifNoneMatch: held?.etag })
    const { status, headers } = answer
    if (status === 404) return undefined
    if (status === 304 && held?.etag !== undefined)
      return { digest: held.digest, headers: passedHeaders({ etag: held.etag, ...headers }) }
    if (status === 405 || status === 501) return get(name, reference, options)
    if (status !== 200) throw errorOfStatus(entry.id, status, headers)
    const digest = headers['docker-content-digest'] ?? ''
    const size = sizeOf(headers['content-length'])
    const mediaType = essenceOf(headers['content-type'])
    // A digest other than the asked one may be its name in another algorithm: the bytes tell.
    const isAsked = reference.kind === 'tag' || reference.digest === digest
    if (!isDigest(digest) || !isAsked || size === undefined || !isManifestMediaType(mediaType))
      return get(name, reference, options)
    return { digest, headers: passedHeaders(headers) }
  }

  function manifestCall(
    method: 'GET' | 'HEAD',
    name: RepositoryName,
    reference: Reference,
    options: UpstreamRequest | undefined,
  ): ApiCall {
    const repository = repositoryAt(entry, name)
    const url = urlAt(entry, manifestPath(repository, reference))
    const redirects = entry.redirectsManifests ? maxRedirects : 0
    const accept = manifestAccept
    return { method, url, accept, maxBytes: manifestMaxBytes, redirects, repository, options }
  }

  return { get, head }
}

function readManifest(
  entry: RegistryEntry,
  reference: Reference,
  { body: bytes, headers }: HttpResponse,
): FetchedManifest {
  const claimed = headers['docker-content-digest']
  const named =
    reference.kind === 'digest'
      ? reference.digest
      : claimed !== undefined && isDigest(claimed)
        ? claimed
        : undefined
  const digest = digestOf(bytes, named === undefined ? 'sha256' : algorithmOf(named))
  if (named !== undefined && named !== digest)
    throw new SourceError('broken', `${entry.id} gives other content than the digest names`)
  try {
    const manifest = parseManifest(bytes, headers['content-type'])
    return {
      digest,
      mediaType: manifest.mediaType,
      size: bytes.length,
      headers: passedHeaders(headers),
      bytes,
      manifest,
    }
  } catch (error) {
    if (!(error instanceof OciError)) throw error
    const message = `${entry.id} gives no valid manifest: ${error.message}`
    throw new SourceError('broken', message, { cause: error })
  }
}

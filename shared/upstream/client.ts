import { createBulkAgent, createHttpClient } from '../http/client.ts'
import { createGuard } from '../http/guard.ts'
import type { Digest } from '../oci/digest.ts'
import { blobPath, tagsPath } from '../oci/paths.ts'
import type { RepositoryName } from '../oci/reference.ts'
import { SourceError, type BlobSource, type SourceErrorCode } from '../stream/blob-source.ts'
import { createApi } from './api.ts'
import { createAuthenticator } from './bearer.ts'
import { errorOfBlobStatus, maxRedirects, openBlobAt } from './blob-fetch.ts'
import type { TagPage, UpstreamClient, UpstreamRequest } from './fetch.ts'
import { listMaxBytes, nextPage, readTags } from './lists.ts'
import { createManifestFetch } from './manifest-fetch.ts'
import { errorOfStatus } from './outcome.ts'
import { createReferrers } from './referrers.ts'
import { originsOf, repositoryAt, type RegistryEntry } from './registries.ts'
import { credentialOf, sizeOf, urlAt } from './request.ts'

export interface UpstreamDeps {
  readonly entry: RegistryEntry
  /** What far sides may name besides public addresses: `outbound.allow`. What the entry names is always allowed. */
  readonly allow?: readonly string[]
  /** Ports where this process listens. */
  readonly ownPorts?: () => readonly number[]
  readonly timeouts?: UpstreamTimeouts
  readonly observer?: UpstreamObserver
  /** Milliseconds, monotonic. */
  readonly now?: () => number
}

export interface UpstreamTimeouts {
  readonly connectTimeoutMs?: number
  readonly headersTimeoutMs?: number
  /** Milliseconds without a byte of the body. */
  readonly stallMs?: number
}

/** For metrics; may not throw. */
export interface UpstreamObserver {
  /** Body bytes of blobs and manifests arrived. */
  onBytes?(count: number): void
  /** The upstream did not give what was asked; a 404 is no error. */
  onError?(code: SourceErrorCode): void
}

/**
 * A client of one upstream of the table, with connections and tokens of its own; the caller closes it.
 * Whoever opens blobs bounds them (the fills, by lane `entry.id`); it bounds its other requests itself.
 */
export function createUpstreamClient(deps: UpstreamDeps): UpstreamClient {
  const { entry, allow = [], timeouts, observer = {}, now = () => performance.now() } = deps
  const guard = createGuard({
    configured: originsOf(entry),
    allow,
    ...(deps.ownPorts && { ownPorts: deps.ownPorts }),
  })
  const connection = { guard, ca: entry.ca, caOrigin: entry.url, ...timeouts }
  const http = createHttpClient({ ...connection, maxSockets: entry.maxApiRequests })
  // Wider than the lane, which alone decides: bodies that are given up linger for a moment.
  const dispatcher = createBulkAgent({ ...connection, maxSockets: 2 * entry.maxBlobRequests })
  const authenticator = createAuthenticator({ entry, http, now })
  const onBytes = (count: number) => observer.onBytes?.(count)
  const api = createApi({ entry, http, authenticator })
  const manifests = createManifestFetch({ entry, api, onBytes })
  const referrers = createReferrers({ entry, api, getManifest: manifests.get })

  /** Tells the observer of what goes wrong. */
  async function observed<T>(work: Promise<T>): Promise<T> {
    try {
      return await work
    } catch (error) {
      if (error instanceof SourceError && error.code !== 'absent') observer.onError?.(error.code)
      throw error
    }
  }

  async function headBlob(
    name: RepositoryName,
    digest: Digest,
    options: UpstreamRequest | undefined,
  ): Promise<{ size: number } | undefined> {
    const repository = repositoryAt(entry, name)
    const { answer, elsewhere } = await api({
      method: 'HEAD',
      url: urlAt(entry, blobPath(repository, digest)),
      accept: '*/*',
      maxBytes: 0,
      redirects: maxRedirects,
      repository,
      options,
    })
    if (answer.status === 404) return undefined
    if (answer.status !== 200) throw errorOfBlobStatus(entry.id, answer, elsewhere)
    const size = sizeOf(answer.headers['content-length'])
    if (size === undefined) throw new SourceError('broken', `${entry.id} says no length`)
    return { size }
  }

  function openBlob(
    name: RepositoryName,
    digest: Digest,
    options: Omit<UpstreamRequest, 'signal'> = {},
  ): BlobSource {
    const repository = repositoryAt(entry, name)
    const target = {
      url: urlAt(entry, blobPath(repository, digest)),
      access: { repository, credential: credentialOf(entry, options) },
      headers: options.headers ?? {},
    }
    return {
      name: entry.id,
      async open(request) {
        const blob = { dispatcher, authenticator, onBytes }
        const opened = await observed(openBlobAt(target, request, blob))
        return { ...opened, read: (into) => observed(opened.read(into)) }
      },
    }
  }

  async function listTags(
    name: RepositoryName,
    { n, last }: { readonly n?: number | undefined; readonly last?: string | undefined },
    options: UpstreamRequest | undefined,
  ): Promise<TagPage | undefined> {
    const repository = repositoryAt(entry, name)
    const url = urlAt(entry, tagsPath(repository))
    if (n !== undefined) url.searchParams.set('n', String(n))
    if (last !== undefined) url.searchParams.set('last', last)
    const accept = 'application/json'
    const { answer } = await api({ url, accept, maxBytes: listMaxBytes, repository, options })
    if (answer.status === 404) return undefined
    if (answer.status !== 200) throw errorOfStatus(entry.id, answer.status, answer.headers)
    const tags = readTags(entry, answer.body)
    const next = nextPage(url, answer.headers)
    return { tags, next: next && (next.searchParams.get('last') ?? tags.at(-1)) }
  }

  return {
    entry,
    headManifest: (name, reference, options) => observed(manifests.head(name, reference, options)),
    getManifest: (name, reference, options) => observed(manifests.get(name, reference, options)),
    headBlob: (name, digest, options) => observed(headBlob(name, digest, options)),
    openBlob,
    listTags: (name, page, options) => observed(listTags(name, page, options)),
    referrers: (name, subject, { artifactType, after }, options) =>
      observed(referrers({ name, subject, artifactType, after, options })),
    async close() {
      http.close()
      await dispatcher.destroy()
    },
  }
}

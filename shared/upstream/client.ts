import { createBulkAgent, createHttpClient } from '../http/client.ts'
import { createGuard } from '../http/guard.ts'
import type { ChooseProxy } from '../http/proxy.ts'
import type { Digest } from '../oci/digest.ts'
import { blobPath, pingPath } from '../oci/paths.ts'
import type { RepositoryName } from '../oci/reference.ts'
import { SourceError, type BlobSource, type SourceErrorCode } from '../stream/blob-source.ts'
import { createApi } from './api.ts'
import { createAuthenticator } from './bearer.ts'
import { errorOfBlobStatus, openBlobAt } from './blob-fetch.ts'
import { maxRedirects } from './exchange.ts'
import type { UpstreamClient, UpstreamRequest } from './fetch.ts'
import { createGate, type Gate, type ProbeRules } from './gate.ts'
import { createLists } from './lists.ts'
import { createManifestFetch } from './manifest-fetch.ts'
import { errorOfStatus } from './outcome.ts'
import { readRateLimit, type RateLimit } from './rate-limit.ts'
import { createReferrers } from './referrers.ts'
import { originsOf, repositoryAt, type RegistryEntry } from './registries.ts'
import { credentialOf, sizeOf, urlAt } from './request.ts'

export interface UpstreamDeps {
  readonly entry: RegistryEntry
  /** What far sides may name besides public addresses: `outbound.allow`. What the entry names is always allowed. */
  readonly allow?: readonly string[]
  /** Who is reached through a proxy; nobody without. */
  readonly chooseProxy?: ChooseProxy | undefined
  /** Ports where this process listens. */
  readonly ownPorts?: () => readonly number[]
  readonly timeouts?: UpstreamTimeouts
  /** What its own origin is sent with each request for something small. */
  readonly ownHeaders?: () => Readonly<Record<string, string>>
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
  const { url, ca, clientCertificate, servername } = entry
  const guard = createGuard({
    configured: originsOf(entry),
    allow,
    ...(deps.ownPorts && { ownPorts: deps.ownPorts }),
  })
  const own = { ca, clientCertificate, servername, ownOrigin: url }
  const connection = { guard, ...own, chooseProxy: deps.chooseProxy, ...timeouts }
  const http = createHttpClient({ ...connection, maxSockets: entry.maxApiRequests })
  // Wider than the lane, which alone decides: bodies that are given up linger for a moment.
  const dispatcher = createBulkAgent({ ...connection, maxSockets: 2 * entry.maxBlobRequests })
  const authenticator = createAuthenticator({ entry, http, now })
  const onBytes = (count: number) => observer.onBytes?.(count)
  let rateLimit: RateLimit | undefined
  const api = createApi({
    entry,
    http,
    authenticator,
    ownHeaders: deps.ownHeaders,
    onHeaders(headers) {
      rateLimit = readRateLimit(headers, now()) ?? rateLimit
    },
  })
  const lists = createLists({ entry, api })
  const manifests = createManifestFetch({ entry, api, onBytes })
  const referrers = createReferrers({ entry, api, getManifest: manifests.get })

  // Apart: storage that blobs are redirected to may be away alone, and a limit on manifests is none on blobs.
  const gates = {
    api: createGate({ name: entry.id, now }),
    blobs: createGate({ name: `${entry.id} for blobs`, now }),
  }
  const through = <T>(gate: Gate, work: () => Promise<T>, probe?: ProbeRules<T>): Promise<T> =>
    observed(gate.pass(work, probe))

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

  async function ping(options: UpstreamRequest | undefined): Promise<void> {
    const url = urlAt(entry, pingPath)
    const call = { url, accept: '*/*', maxBytes: 64 * 1024, repository: undefined, options }
    const { answer } = await api(call)
    if (answer.status !== 200) throw errorOfStatus(entry.id, answer.status, answer.headers)
  }

  function openBlob(
    name: RepositoryName,
    digest: Digest,
    options: Omit<UpstreamRequest, 'signal'> = {},
  ): BlobSource {
    return {
      name: entry.id,
      async open(request) {
        const repository = repositoryAt(entry, name)
        const target = {
          url: urlAt(entry, blobPath(repository, digest)),
          access: { repository, credential: credentialOf(entry, options) },
          headers: options.headers ?? {},
        }
        const blob = { dispatcher, authenticator, onBytes }
        const opened = await through(gates.blobs, () => openBlobAt(target, request, blob), {
          discard: (late) => late.cancel(),
        })
        return { ...opened, read: (into) => observed(opened.read(into)) }
      },
    }
  }

  return {
    entry,
    headManifest: (name, reference, options) =>
      through(gates.api, () => manifests.head(name, reference, options), {
        // Whoever knows the tag answers that after a while, and takes the upstream's answer when it comes.
        waits: options?.held !== undefined,
      }),
    getManifest: (name, reference, options) =>
      through(gates.api, () => manifests.get(name, reference, options)),
    headBlob: (name, digest, options) =>
      through(gates.blobs, () => headBlob(name, digest, options)),
    openBlob,
    listTags: (name, page, options) => through(gates.api, () => lists.tags(name, page, options)),
    referrers: (name, subject, { artifactType, after }, options) =>
      through(gates.api, () => referrers({ name, subject, artifactType, after, options })),
    catalog: (page, options) => through(gates.api, () => lists.catalog(page, options)),
    ping: (options) => through(gates.api, () => ping(options)),
    get health() {
      return {
        isAway: { api: gates.api.isOpen, blobs: gates.blobs.isOpen },
        rateLimit: rateLimit && { ...rateLimit, ageMs: now() - rateLimit.seenAt },
      }
    },
    async close() {
      http.close()
      await dispatcher.destroy()
    },
  }
}

import type { Digest } from '../oci/digest.ts'
import type { Manifest } from '../oci/manifest.ts'
import type { Reference, RepositoryName } from '../oci/reference.ts'
import type { BlobSource } from '../stream/blob-source.ts'
import type { RateLimit } from './rate-limit.ts'
import type { Credential, RegistryEntry } from './registries.ts'

/** One upstream, spoken to as a client. Failures are SourceErrors; a 404 is `undefined`. */
export interface UpstreamClient {
  readonly entry: RegistryEntry
  /**
   * What a tag or digest names, without the document. Falls back to a GET where the HEAD does not say all of it.
   * @param options `held`: what the tag was known to name; given back where the upstream says that nothing changed
   */
  headManifest(
    repository: RepositoryName,
    reference: Reference,
    options?: UpstreamRequest & { readonly held?: HeldTag | undefined },
  ): Promise<NamedManifest | undefined>
  /** The document, verified against the digest asked for or claimed. */
  getManifest(
    repository: RepositoryName,
    reference: Reference,
    options?: UpstreamRequest,
  ): Promise<FetchedManifest | undefined>
  headBlob(
    repository: RepositoryName,
    digest: Digest,
    options?: UpstreamRequest,
  ): Promise<{ readonly size: number } | undefined>
  /** Where a fill gets the blob from. Nothing is sent before it is opened. */
  openBlob(
    repository: RepositoryName,
    digest: Digest,
    options?: Omit<UpstreamRequest, 'signal'>,
  ): BlobSource
  /** One page of tags. */
  listTags(
    repository: RepositoryName,
    page: { readonly n?: number | undefined; readonly last?: string | undefined },
    options?: UpstreamRequest,
  ): Promise<TagPage | undefined>
  /**
   * The index of referrers, pages joined as far as clients read. Where the upstream has no such endpoint, what its referrers tag names;
   * else an empty one. [distribution-spec, Unavailable Referrers API]
   */
  referrers(
    repository: RepositoryName,
    subject: Digest,
    page: { readonly artifactType?: string | undefined; readonly after?: string | undefined },
    options?: UpstreamRequest,
  ): Promise<ReferrersPage>
  /** Repositories, as far as its credential may see them; undefined where the upstream tells nobody. */
  catalog(
    page: { readonly n?: number | undefined; readonly last?: string | undefined },
    options?: UpstreamRequest,
  ): Promise<CatalogPage | undefined>
  /** Whether the upstream takes the credential. @throws SourceError `refused` when it does not */
  ping(options?: UpstreamRequest): Promise<void>
  /** What is known of the upstream now. */
  readonly health: UpstreamHealth
  /** Ends whatever is running. */
  close(): Promise<void>
}

/** What a caller adds to a request at an upstream. */
export interface UpstreamRequest {
  /** Instead of the entry's own: a client's credential that is passed through. `'anonymous'`: none at all. */
  readonly credential?: Credential | 'anonymous' | undefined
  /** Whose request it is, where that is not the edge: what is remembered of one caller's is not another's. */
  readonly identity?: string | undefined
  /** How it came from another edge. */
  readonly hop?: Hop | undefined
  /** Further request headers for the upstream itself: the request id. */
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly signal?: AbortSignal | undefined
}

/** How a request came here from another edge. */
export interface Hop {
  /** The ids of the edges that it came through; the last one asks. */
  readonly via: readonly string[]
  /** That one is of the same site and takes this edge for the home: it is not sent sideways again. */
  readonly isSideways: boolean
  /** Only what is here, or on its way, is of use to it. */
  readonly onlyHeld: boolean
  /**
   * It takes this edge for the home of the part that begins with this piece, which the fill's own sources are then to
   * give; without `onlyHeld` also if nothing of the blob is here.
   */
  readonly part?: number | undefined
}

export interface UpstreamHealth {
  /** Whether it does not answer, so that requests fail at once: of manifests, tags and lists; of blobs. */
  readonly isAway: { readonly api: boolean; readonly blobs: boolean }
  /** With the milliseconds since it was seen. */
  readonly rateLimit: (RateLimit & { readonly ageMs: number }) | undefined
}

/** What a tag named when it was last asked for. */
export interface HeldTag {
  readonly digest: Digest
  /** With the quotes, as it came. */
  readonly etag?: string | undefined
}

export interface NamedManifest {
  readonly digest: Digest
  /** Only those of the allow-list. */
  readonly headers: Readonly<Record<string, string>>
}

export interface ManifestHead extends NamedManifest {
  readonly mediaType: string
  readonly size: number
}

export interface FetchedManifest extends ManifestHead {
  readonly bytes: Buffer
  readonly manifest: Manifest
}

export interface TagPage {
  readonly tags: readonly string[]
  /** `last` of the next page; undefined on the final one. */
  readonly next: string | undefined
}

export interface CatalogPage {
  readonly repositories: readonly RepositoryName[]
  /** `last` of the next page; undefined on the final one. */
  readonly next: string | undefined
}

export interface ReferrersPage {
  readonly body: Buffer
  readonly mediaType: string
  readonly headers: Readonly<Record<string, string>>
  /** What to ask `after` for the rest; undefined on the last page. */
  readonly next?: string
}

import type { Digest } from '../../shared/oci/digest.ts'
import type { Reference, Tag } from '../../shared/oci/reference.ts'
import { tagHeader } from '../../shared/replication/signed-tag.ts'
import type { NamedManifest, UpstreamClient, UpstreamRequest } from '../../shared/upstream/fetch.ts'
import type { CachedBlobs } from '../cache/blobs.ts'
import type { CacheIndex, Origin, TagEntry } from '../cache/cache-index.ts'
import type { MemoryCache } from '../cache/memory.ts'
import { ownerOf } from '../cache/shares.ts'
import type { Stated } from '../replication/stated.ts'
import type { Sources } from '../sources/sources.ts'
import { createRefused, isRefusal } from '../upstreams/refused.ts'
import { createShare } from '../upstreams/share.ts'
import { namesOf } from './names.ts'
import { keyOf, withoutSignal } from './questions.ts'
import { createTags, type StaleReason, type TagRules, type Tags, type TagsDeps } from './tags.ts'

/** A manifest as its upstream sent it. */
export interface HeldManifest {
  readonly digest: Digest
  readonly mediaType: string
  readonly bytes: Buffer
  /** Where the bytes came from, for the access log. */
  readonly source: 'memory' | 'disk' | 'upstream'
}

export interface Manifests {
  /** What a reference names, when it is in memory and, for a tag, within the upstream's TTL; undefined says nothing. */
  known(origin: Origin, reference: Reference): HeldManifest | undefined
  /** The manifest that a digest names in the origin's repository, if it is here. */
  held(origin: Origin, digest: Digest): Promise<HeldManifest | undefined>
  /**
   * The manifest that a digest names in the origin's repository, held or fetched; undefined when the
   * upstream does not have it.
   * @throws SourceError when it cannot be known
   */
  get(origin: Origin, digest: Digest, request?: UpstreamRequest): Promise<HeldManifest | undefined>
  readonly resolve: Tags['resolve']
  /** Resolves when nothing is left to be done behind an answer. */
  close(): Promise<void>
}

/** How one upstream's manifests and tags are answered. */
export interface ManifestRules extends TagRules {
  /** Milliseconds for which a no is remembered. */
  readonly negativeTtlMs: number
  /** With fewer pulls left of the upstream's rate limit, known tags are not asked for again. */
  readonly rateBudget: number
}

export interface ManifestsDeps {
  readonly index: CacheIndex
  readonly blobs: CachedBlobs
  readonly memory: MemoryCache
  readonly client: (upstream: string) => UpstreamClient
  readonly sources: Pick<Sources, 'manifest'>
  readonly rules: (upstream: string) => ManifestRules
  readonly stated: Stated
  readonly onStale: (upstream: string, reason: StaleReason) => void
  /** Told when a tag points elsewhere, or to nothing. */
  readonly onTagMoved: (origin: Origin) => void
  /** Told when a manifest has come. */
  readonly onFetched: (origin: Origin, digest: Digest) => void
  readonly now: () => number
  readonly onDiskFailed: (error: unknown) => void
}

/** Manifests and tags of all upstreams. Requests for the same thing share one question. */
export function createManifests(deps: ManifestsDeps): Manifests {
  const { index, blobs, memory, client, sources, rules, stated, now } = deps
  const fetchOnce = createShare<HeldManifest | undefined>()
  const refused = createRefused()
  const demoting = new Set<Promise<void>>()

  const inMemory = (origin: Origin, digest: Digest): HeldManifest | undefined => {
    const bytes = memory.get(digest)
    const mediaType = bytes === undefined ? undefined : blobs.link(origin, digest)?.mediaType
    if (bytes === undefined || mediaType === undefined) return undefined
    if (stated.isDenied(origin, digest)) return undefined
    blobs.used(digest)
    return { digest, mediaType, bytes, source: 'memory' }
  }

  const held = async (origin: Origin, digest: Digest): Promise<HeldManifest | undefined> => {
    const hot = inMemory(origin, digest)
    if (hot !== undefined) return hot
    await blobs.know(digest)
    const mediaType = blobs.link(origin, digest)?.mediaType
    if (mediaType === undefined || stated.isDenied(origin, digest)) return undefined
    const bytes = await blobs.readAll(digest)
    if (bytes === undefined) return undefined
    memory.put(digest, bytes)
    return { digest, mediaType, bytes, source: 'disk' }
  }

  /** An index that cannot be written costs the next one a question, and nobody this answer. */
  const remember = async (write: () => Promise<void>): Promise<void> => {
    try {
      await write()
    } catch (error) {
      deps.onDiskFailed(error)
    }
  }

  const fetchManifest = async (
    origin: Origin,
    digest: Digest,
    request: UpstreamRequest,
  ): Promise<HeldManifest | undefined> => {
    const fetched = await sources.manifest(origin, digest, request)
    if (fetched === undefined) return undefined
    const { bytes, mediaType, manifest, size } = fetched
    // The link first, as for a blob: without bytes it does no harm, and bytes without it are fetched once more.
    await blobs.addLink(origin, digest, { mediaType })
    await blobs.put(digest, bytes, ownerOf(origin))
    if (manifest.subject !== undefined) {
      const { subject, artifactType, annotations } = manifest
      const descriptor = {
        mediaType,
        digest,
        size,
        ...(artifactType !== undefined && { artifactType }),
        ...(annotations && { annotations }),
      }
      await remember(() => index.putReferrer(origin, subject.digest, descriptor))
    }
    memory.put(digest, bytes)
    deps.onFetched(origin, digest)
    return { digest, mediaType, bytes, source: 'upstream' }
  }

  const get: Manifests['get'] = async (origin, digest, request) =>
    (await held(origin, digest)) ??
    fetchOnce(keyOf(origin, digest, request), () =>
      refused.unless(keyOf(origin, digest, request), rules(origin.upstream).negativeTtlMs, () =>
        fetchManifest(origin, digest, withoutSignal(request)),
      ),
    )

  /** What one caller's credential is refused says nothing to the others, who have rights of their own. */
  const forgetTag = async (origin: Origin, tag: Tag, request: UpstreamRequest | undefined) => {
    if (request?.identity !== undefined) return
    await remember(() => index.removeTag(origin, tag))
    deps.onTagMoved(origin)
  }

  const tagOf = (origin: Origin, tag: Tag): TagEntry | undefined => {
    const known = index.tag(origin, tag)
    return known?.project === origin.project ? known : undefined
  }

  /** What the upstream says of a tag, or said a moment ago, if that was a no: that ends what was held. */
  const askForTag = async (
    origin: Origin,
    tag: Tag,
    request: UpstreamRequest | undefined,
  ): Promise<NamedManifest | undefined> => {
    const reference = { kind: 'tag', tag } as const
    const { negativeTtlMs } = rules(origin.upstream)
    try {
      const named = await refused.unless(keyOf(origin, tag, request), negativeTtlMs, () =>
        client(origin.upstream).headManifest(origin.repository, reference, {
          ...request,
          held: tagOf(origin, tag),
        }),
      )
      if (named === undefined) await forgetTag(origin, tag, request)
      const signed = named?.headers[tagHeader]
      if (signed !== undefined) await remember(() => stated.take(origin, signed))
      return named
    } catch (error) {
      if (isRefusal(error)) await forgetTag(origin, tag, request)
      throw error
    }
  }

  /** Remembers where a tag points, whose manifest is here. */
  const recordTag = async (
    origin: Origin,
    {
      tag,
      manifest,
      etag,
      checkedAt = now(),
    }: {
      readonly tag: Tag
      readonly manifest: HeldManifest
      readonly etag: string | undefined
      readonly checkedAt?: number | undefined
    },
  ): Promise<void> => {
    const { project } = origin
    const entry = {
      digest: manifest.digest,
      checkedAt,
      ...(etag !== undefined && { etag }),
      ...(project !== undefined && { project }),
    }
    const before = index.tag(origin, tag)?.digest
    await remember(() => index.putTag(origin, tag, entry))
    if (before === manifest.digest) return
    deps.onTagMoved(origin)
    if (before === undefined) return
    // Behind the answer: all tags of the repository are looked through for it.
    const demoted = remember(() =>
      demoteImage(origin, { tag, digest: before, by: manifest.bytes }),
    ).finally(() => demoting.delete(demoted))
    demoting.add(demoted)
  }

  /** Asks, and makes sure that what is promised can be given: the manifest is held before the tag is. */
  const ask: TagsDeps['ask'] = async (origin, tag, request) => {
    const named = await askForTag(origin, tag, request)
    if (named === undefined) return undefined
    const manifest = await get(origin, named.digest, request)
    if (manifest === undefined) {
      await forgetTag(origin, tag, request)
      return undefined
    }
    await recordTag(origin, { tag, manifest, etag: named.headers['etag'] })
    return manifest.digest
  }

  /**
   * What the image is made of that a tag has moved away from goes next when room is needed, unless somebody still asks for
   * it: another image may have the same layers. Of an index, its manifests; their layers age.
   */
  const demoteImage = async (
    origin: Origin,
    { tag, digest, by }: { readonly tag: Tag; readonly digest: Digest; readonly by: Buffer },
  ): Promise<void> => {
    if (await index.isTagged(origin, digest, tag)) return
    const bytes = memory.get(digest) ?? (await blobs.readAll(digest))
    if (bytes === undefined) return
    const needed = new Set(partsOf(by))
    for (const part of [digest, ...partsOf(bytes)]) if (!needed.has(part)) blobs.demote(part)
  }

  /** Seen longer ago, it may have changed: the next tag is asked for, which tells. */
  const savingMs = (upstream: string): number | undefined => {
    const { rateLimit } = client(upstream).health
    if (rateLimit === undefined || rateLimit.ageMs > rateLimitSeenMs) return undefined
    return rateLimit.remaining < rules(upstream).rateBudget ? rateLimit.windowMs : undefined
  }

  const tags = createTags({
    rules,
    find: tagOf,
    stated: stated.tag,
    hold: async (origin, tag, { digest, request, checkedAt }) => {
      const manifest = await get(origin, digest, request)
      if (manifest === undefined) return false
      if (tagOf(origin, tag)?.digest !== digest)
        await recordTag(origin, { tag, manifest, etag: undefined, checkedAt })
      return true
    },
    ask,
    isHeld: async (origin, digest) => (await held(origin, digest)) !== undefined,
    savingMs,
    onStale: deps.onStale,
    now,
  })

  return {
    get,
    held,
    known(origin, reference) {
      if (reference.kind === 'digest') return inMemory(origin, reference.digest)
      const digest = tags.known(origin, reference.tag)
      return digest && inMemory(origin, digest)
    },
    resolve: tags.resolve,
    async close() {
      await Promise.all(demoting)
    },
  }
}

const rateLimitSeenMs = 300_000

/** What a manifest names; an index's own children only. */
function partsOf(bytes: Buffer): readonly Digest[] {
  const { blobs, manifests } = namesOf(bytes)
  return [...blobs, ...manifests].map(({ digest }) => digest)
}

import type { Digest } from '../../shared/oci/digest.ts'
import { parseManifest } from '../../shared/oci/manifest.ts'
import type { Reference, Tag } from '../../shared/oci/reference.ts'
import { SourceError } from '../../shared/stream/blob-source.ts'
import type { UpstreamClient, UpstreamRequest } from '../../shared/upstream/fetch.ts'
import type { CachedBlobs } from '../cache/blobs.ts'
import type { CacheIndex, Origin, TagEntry } from '../cache/cache-index.ts'
import type { MemoryCache } from '../cache/memory.ts'

/** A manifest as its upstream sent it. */
export interface HeldManifest {
  readonly digest: Digest
  readonly mediaType: string
  readonly bytes: Buffer
  /** Where the bytes came from, for the access log. */
  readonly source: 'memory' | 'disk' | 'upstream'
}

/** Where a tag points. */
export interface ResolvedTag {
  readonly digest: Digest
  /** Milliseconds since the upstream last said so, when it could not be asked again. */
  readonly staleMs: number | undefined
}

export interface Manifests {
  /** What a reference names, when it is in memory and, for a tag, within the upstream's TTL; undefined says nothing. */
  known(origin: Origin, reference: Reference): HeldManifest | undefined
  /**
   * The manifest that a digest names in the origin's repository, held or fetched; undefined when the
   * upstream does not have it.
   * @throws SourceError when it cannot be known
   */
  get(origin: Origin, digest: Digest, request?: UpstreamRequest): Promise<HeldManifest | undefined>
  /**
   * Where a tag points: as remembered within the upstream's TTL, else as the upstream says now. An upstream
   * that cannot be reached leaves the last answer standing; one that says no ends it.
   */
  resolve(origin: Origin, tag: Tag, request?: UpstreamRequest): Promise<ResolvedTag | undefined>
}

export interface ManifestsDeps {
  readonly index: CacheIndex
  readonly blobs: CachedBlobs
  readonly memory: MemoryCache
  readonly client: (upstream: string) => UpstreamClient
  /** Milliseconds that a tag is answered without asking. */
  readonly tagTtlMs: (upstream: string) => number
  readonly now: () => number
  readonly onDiskFailed: (error: unknown) => void
}

/** Manifests and tags of all upstreams. Requests for the same thing share one question. */
export function createManifests(deps: ManifestsDeps): Manifests {
  const { index, blobs, memory, client, now } = deps
  const fetching = new Map<string, Promise<HeldManifest | undefined>>()
  const asking = new Map<string, Promise<Digest | undefined>>()

  const inMemory = (origin: Origin, digest: Digest): HeldManifest | undefined => {
    const bytes = memory.get(digest)
    const mediaType = bytes === undefined ? undefined : blobs.link(origin, digest)?.mediaType
    if (bytes === undefined || mediaType === undefined) return undefined
    blobs.used(digest)
    return { digest, mediaType, bytes, source: 'memory' }
  }

  const held = async (origin: Origin, digest: Digest): Promise<HeldManifest | undefined> => {
    const hot = inMemory(origin, digest)
    if (hot !== undefined) return hot
    const mediaType = blobs.link(origin, digest)?.mediaType
    if (mediaType === undefined) return undefined
    const bytes = await blobs.readAll(digest)
    if (bytes === undefined) return undefined
    memory.put(digest, bytes)
    return { digest, mediaType, bytes, source: 'disk' }
  }

  const fetchManifest = async (
    origin: Origin,
    digest: Digest,
    request: UpstreamRequest | undefined,
  ): Promise<HeldManifest | undefined> => {
    const reference = { kind: 'digest', digest } as const
    const fetched = await client(origin.upstream).getManifest(origin.repository, reference, request)
    if (fetched === undefined) return undefined
    const { bytes, mediaType } = fetched
    // The link first, as for a blob: without bytes it does no harm, and bytes without it are fetched once more.
    await blobs.addLink(origin, digest, { mediaType })
    await blobs.put(digest, bytes)
    memory.put(digest, bytes)
    return { digest, mediaType, bytes, source: 'upstream' }
  }

  const get: Manifests['get'] = async (origin, digest, request) =>
    (await held(origin, digest)) ??
    share(fetching, keyOf(origin, digest), () =>
      fetchManifest(origin, digest, withoutSignal(request)),
    )

  /** An index that cannot be written costs the next one a question, and nobody this answer. */
  const remember = async (write: () => Promise<void>): Promise<void> => {
    try {
      await write()
    } catch (error) {
      deps.onDiskFailed(error)
    }
  }

  /** Asks, and makes sure that what is promised can be given: the manifest is held before the tag is. */
  const ask = async (
    origin: Origin,
    tag: Tag,
    request: UpstreamRequest | undefined,
  ): Promise<Digest | undefined> => {
    const head = await client(origin.upstream).headManifest(
      origin.repository,
      { kind: 'tag', tag },
      request,
    )
    const manifest = head && (await get(origin, head.digest, request))
    if (manifest === undefined) {
      await remember(() => index.removeTag(origin, tag))
      return undefined
    }
    const { project } = origin
    const entry = {
      digest: manifest.digest,
      checkedAt: now(),
      ...(project !== undefined && { project }),
    }
    const before = index.tag(origin, tag)?.digest
    await remember(() => index.putTag(origin, tag, entry))
    if (before !== undefined && before !== manifest.digest)
      await remember(() => demoteImage(origin, { tag, digest: before, by: manifest.bytes }))
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
    const bytes = await blobs.readAll(digest)
    if (bytes === undefined) return
    const needed = new Set(partsOf(by))
    for (const part of [digest, ...partsOf(bytes)]) if (!needed.has(part)) blobs.demote(part)
  }

  const tagOf = (origin: Origin, tag: Tag): TagEntry | undefined => {
    const known = index.tag(origin, tag)
    return known?.project === origin.project ? known : undefined
  }
  const ageOf = (known: TagEntry | undefined): number =>
    known === undefined ? Infinity : now() - known.checkedAt
  // A negative age is a clock that was set back: it says nothing about the tag.
  const isFresh = (ageMs: number, { upstream }: Origin): boolean =>
    ageMs >= 0 && ageMs < deps.tagTtlMs(upstream)

  return {
    get,
    known(origin, reference) {
      if (reference.kind === 'digest') return inMemory(origin, reference.digest)
      const known = tagOf(origin, reference.tag)
      return known && isFresh(ageOf(known), origin) ? inMemory(origin, known.digest) : undefined
    },
    async resolve(origin, tag, request) {
      const known = tagOf(origin, tag)
      const ageMs = ageOf(known)
      if (known !== undefined && isFresh(ageMs, origin)) {
        return { digest: known.digest, staleMs: undefined }
      }
      try {
        const digest = await share(asking, keyOf(origin, tag), () =>
          ask(origin, tag, withoutSignal(request)),
        )
        return digest && { digest, staleMs: undefined }
      } catch (error) {
        if (known === undefined || !isPassing(error) || !(await held(origin, known.digest)))
          throw error
        return { digest: known.digest, staleMs: ageMs }
      }
    },
  }
}

/** What a manifest names; an index's own children only. */
function partsOf(bytes: Buffer): readonly Digest[] {
  try {
    const { config, layers, manifests } = parseManifest(bytes, undefined)
    return [...(config === undefined ? [] : [config]), ...layers, ...manifests].map(
      ({ digest }) => digest,
    )
  } catch {
    // An upstream's document that is none is passed on as it is, and names nothing.
    return []
  }
}

/** Whether a failure says nothing about the thing asked for: only then may an old answer stand. */
function isPassing(error: unknown): boolean {
  return error instanceof SourceError && (error.code === 'unavailable' || error.code === 'busy')
}

/** A question that several wait for is not dropped because the first who asked has gone. */
function withoutSignal(request: UpstreamRequest | undefined): UpstreamRequest {
  const { signal: _, ...rest } = request ?? {}
  return rest
}

function keyOf({ upstream, repository, project }: Origin, reference: string): string {
  return `${upstream}!${repository}!${project ?? ''}!${reference}`
}

async function share<T>(
  running: Map<string, Promise<T>>,
  key: string,
  start: () => Promise<T>,
): Promise<T> {
  const joined = running.get(key)
  if (joined !== undefined) return joined
  const started = start()
  running.set(key, started)
  try {
    return await started
  } finally {
    running.delete(key)
  }
}

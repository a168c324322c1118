import { createLru } from '../../shared/memory/lru.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import type { Descriptor } from '../../shared/oci/manifest.ts'
import type { UpstreamRequest } from '../../shared/upstream/fetch.ts'
import type { CacheIndex, Origin } from '../cache/cache-index.ts'
import type { Blobs } from './blobs.ts'
import type { HeldManifest, Manifests } from './manifests.ts'
import { namesOf } from './names.ts'
import { keyOf, withoutSignal } from './questions.ts'

/** What is fetched ahead when a client gets a manifest that is new here: nothing, all that it names, or of an index only the platforms that this edge has served lately. */
export type PrefetchMode = 'off' | 'on' | 'platforms'

/** What became of something that was to be fetched ahead. */
export type PrefetchOutcome = 'held' | 'failed' | 'dropped'

/** Fetches what the clients of a new manifest are going to ask for, when nobody waits for anything else. */
export interface Prefetch {
  /** A manifest has come from its upstream. */
  arrived(origin: Origin, digest: Digest): void
  /** A client was given a manifest. @param requestOf with what rights to fetch what it names */
  served(origin: Origin, manifest: HeldManifest, requestOf: () => UpstreamRequest): void
  /** Drops what waits, and resolves when nothing is being fetched ahead. The fills are ended by whoever has them. */
  close(): Promise<void>
}

export interface PrefetchDeps {
  readonly modeOf: (upstream: string) => PrefetchMode
  readonly index: Pick<CacheIndex, 'document' | 'putDocument'>
  readonly manifests: Pick<Manifests, 'get'>
  readonly blobs: Pick<Blobs, 'prefetch'>
  /** Whether the disk takes what comes. */
  readonly mayStore: () => boolean
  readonly onDone: (outcome: PrefetchOutcome) => void
  readonly onDiskFailed: (error: unknown) => void
  readonly now: () => number
}

interface Job {
  readonly kind: 'manifest' | 'blob'
  readonly origin: Origin
  readonly digest: Digest
  readonly request: UpstreamRequest
}

const atOnce = 2
/** A few images' worth: who pulls hundreds of new ones at once has its upstream busy without us. */
const maxWaiting = 1000
const rememberedManifests = 1000
/** Children of indexes whose platforms are remembered. */
const rememberedChildren = 10_000
/** What counts as lately, and how often that is written down. */
const latelyMs = 30 * 24 * 3_600_000
const writtenEveryMs = 3_600_000
const documentName = 'platforms'
const maxPlatforms = 100

export function createPrefetch(deps: PrefetchDeps): Prefetch {
  const { modeOf } = deps
  const platformOf = createLru<Digest, string>({ max: rememberedChildren })
  /** What came and was given to nobody yet: a HEAD of a tag brings its manifest too, and is no pull. */
  const unserved = createLru<string, true>({ max: rememberedManifests })
  const lately = createLately(deps)
  const waiting = new Map<string, Job>()
  const running = new Set<Promise<void>>()
  let closed = false

  const enqueue = (job: Job): void => {
    const key = keyOf(job.origin, job.digest)
    if (closed || waiting.has(key)) return
    if (waiting.size >= maxWaiting) return deps.onDone('dropped')
    waiting.set(key, job)
    begin()
  }
  const begin = (): void => {
    while (running.size < atOnce) {
      const [next] = waiting
      if (next === undefined) return
      waiting.delete(next[0])
      const job = run(next[1]).finally(() => {
        running.delete(job)
        begin()
      })
      running.add(job)
    }
  }
  const run = async ({ kind, origin, digest, request }: Job): Promise<void> => {
    try {
      if (!deps.mayStore()) return deps.onDone('dropped')
      if (kind === 'blob') await deps.blobs.prefetch(origin, digest, request)
      else {
        const manifest = await deps.manifests.get(origin, digest, request)
        unserved.delete(keyOf(origin, digest))
        if (manifest !== undefined) enqueueAll(origin, manifest, request)
      }
      deps.onDone('held')
    } catch {
      // Whoever asks for it meets the same trouble, and is told.
      deps.onDone('failed')
    }
  }
  const learn = ({ digest }: Descriptor, platform: string | undefined): void => {
    if (platform !== undefined) platformOf.set(digest, platform)
  }
  const enqueueAll = (origin: Origin, { bytes }: HeldManifest, request: UpstreamRequest): void => {
    const { blobs, manifests } = namesOf(bytes)
    for (const child of manifests) {
      const platform = platformIn(child)
      learn(child, platform)
      const isUsual = platform !== undefined && lately.has(platform)
      if (isUsual || modeOf(origin.upstream) === 'on')
        enqueue({ kind: 'manifest', origin, digest: child.digest, request })
    }
    for (const { digest } of blobs) enqueue({ kind: 'blob', origin, digest, request })
  }

  return {
    arrived(origin, digest) {
      if (modeOf(origin.upstream) !== 'off') unserved.set(keyOf(origin, digest), true)
    },
    served(origin, manifest, requestOf) {
      if (modeOf(origin.upstream) === 'off') return
      const platform = platformOf.get(manifest.digest)
      if (platform !== undefined) lately.add(platform)
      if (unserved.delete(keyOf(origin, manifest.digest)))
        enqueueAll(origin, manifest, withoutSignal(requestOf()))
      // Known before a restart: what its children are has to be learned again.
      else if (manifest.source === 'disk')
        for (const child of namesOf(manifest.bytes).manifests) learn(child, platformIn(child))
    },
    async close() {
      closed = true
      waiting.clear()
      await Promise.all(running)
    },
  }
}

/** The platforms of which this edge has served an image lately; remembered across restarts. */
function createLately({ index, now, onDiskFailed }: PrefetchDeps) {
  const seen = readPlatforms(index.document(documentName))
  let writtenAt = -Infinity
  return {
    has: (platform: string): boolean => now() - (seen.get(platform) ?? -Infinity) < latelyMs,
    add(platform: string): void {
      const isNew = !seen.has(platform)
      if (isNew && seen.size >= maxPlatforms) return
      seen.set(platform, now())
      if (!isNew && now() - writtenAt < writtenEveryMs) return
      writtenAt = now()
      index.putDocument(documentName, Object.fromEntries(seen)).catch(onDiskFailed)
    },
  }
}

function readPlatforms(document: unknown): Map<string, number> {
  const entries = Object.entries(document ?? {}).filter(
    (entry): entry is [string, number] => typeof entry[1] === 'number',
  )
  return new Map(entries)
}

/** Undefined for what is no platform: attestations stand beside the images of an index as `unknown/unknown`. */
function platformIn({ platform }: Descriptor): string | undefined {
  if (platform === undefined || platform.os === 'unknown') return undefined
  const { os, architecture, variant } = platform
  return [os, architecture, ...(variant === undefined ? [] : [variant])].join('/')
}

import { createLru } from '../../shared/memory/lru.ts'
import { isDigest, type Digest } from '../../shared/oci/digest.ts'
import type { RepositoryName } from '../../shared/oci/reference.ts'
import type { CachedBlobs } from '../cache/blobs.ts'
import type { CacheIndex, Origin } from '../cache/cache-index.ts'
import { namesOf } from './names.ts'

/** Images that stay in the cache whoever needs room. */
export interface Pin {
  readonly upstream: string
  /** A repository as clients name it there, or all below a path: `prod/**`. */
  readonly repository: string
  /** Tags and digests; without, whatever its tags name. */
  readonly references?: readonly string[] | undefined
}

/** Keeps the cache told of what the pinned images are made of. */
export interface Pins {
  /** Something of the repository has another meaning now: a tag, or a manifest that has come. */
  changed(origin: Origin): void
  /** Resolves when the cache knows of all pins. */
  mark(): Promise<void>
  /** All that is pinned now; undefined when a manifest that is to stay is not here, and so what it names is not known. */
  all(): Promise<ReadonlySet<Digest> | undefined>
}

export interface PinsDeps {
  readonly pins: readonly Pin[]
  /** Manifests that stay besides: what rules bring. */
  readonly roots: () => readonly Digest[]
  readonly index: CacheIndex
  readonly blobs: Pick<CachedBlobs, 'readAll' | 'setPins'>
  readonly onDiskFailed: (error: unknown) => void
}

/** The digests that a manifest names. */
interface NamedDigests {
  readonly blobs: readonly Digest[]
  readonly manifests: readonly Digest[]
}

/** Manifests whose names are remembered, so that a mark reads only what is new. */
const rememberedManifests = 20_000

export function createPins({ pins, roots, index, blobs, onDiskFailed }: PinsDeps): Pins {
  const known = createLru<Digest, NamedDigests>({ max: rememberedManifests })
  let running: Promise<void> | undefined
  let again = false

  const namesIn = async (digest: Digest): Promise<NamedDigests> => {
    const remembered = known.get(digest)
    if (remembered !== undefined) return remembered
    const bytes = await blobs.readAll(digest)
    // What has not come names nothing yet; it tells when it has.
    if (bytes === undefined) return { blobs: [], manifests: [] }
    const names = namesOf(bytes)
    const digests = { blobs: names.blobs.map(digestIn), manifests: names.manifests.map(digestIn) }
    known.set(digest, digests)
    return digests
  }

  const repositoriesOf = async ({ upstream, repository }: Pin): Promise<readonly string[]> =>
    isPattern(repository)
      ? (await index.listRepositories(upstream)).filter((name) => covers(repository, name))
      : [repository]

  const rootsOf = async (pin: Pin): Promise<readonly Digest[]> => {
    const roots = (pin.references ?? []).filter(isDigest)
    for (const repository of await repositoriesOf(pin)) {
      const origin = { upstream: pin.upstream, repository: repository as RepositoryName }
      for (const { tag, entry } of await index.listAllTags(origin)) {
        if (pin.references === undefined || pin.references.includes(tag)) roots.push(entry.digest)
      }
    }
    return roots
  }

  const readRoots = async (): Promise<readonly Digest[]> => {
    const found = [...roots()]
    for (const pin of pins) found.push(...(await rootsOf(pin)))
    return found
  }

  const closureOf = async (from: readonly Digest[]): Promise<ReadonlySet<Digest>> => {
    const found = new Set<Digest>()
    const left = [...from]
    for (let digest = left.pop(); digest !== undefined; digest = left.pop()) {
      if (found.has(digest)) continue
      found.add(digest)
      const names = await namesIn(digest)
      for (const blob of names.blobs) found.add(blob)
      left.push(...names.manifests)
    }
    return found
  }

  const markOnce = async (): Promise<void> => blobs.setPins(await closureOf(await readRoots()))

  /** What changes while it runs is marked once more. */
  const markUntilStill = async (): Promise<void> => {
    do {
      again = false
      await markOnce()
    } while (again)
  }

  const mark = (): Promise<void> => {
    again = true
    running ??= markUntilStill().finally(() => {
      running = undefined
    })
    return running
  }

  return {
    changed({ upstream, repository }) {
      const isPinned = pins.some(
        (pin) => pin.upstream === upstream && covers(pin.repository, repository),
      )
      if (isPinned) mark().catch(onDiskFailed)
    },
    mark,
    async all() {
      const from = await readRoots()
      for (const digest of from)
        if (!known.has(digest) && (await blobs.readAll(digest)) === undefined) return undefined
      return closureOf(from)
    },
  }
}

function digestIn({ digest }: { readonly digest: Digest }): Digest {
  return digest
}

const below = '/**'

function isPattern(repository: string): boolean {
  return repository.endsWith(below)
}

function covers(pattern: string, repository: string): boolean {
  return isPattern(pattern)
    ? repository.startsWith(pattern.slice(0, -below.length + 1))
    : pattern === repository
}

/** The name in a pin's repository, without what stands for all below it. */
export function nameInPin(repository: string): string {
  return isPattern(repository) ? repository.slice(0, -below.length) : repository
}

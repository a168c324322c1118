import type { CountedPulls } from '../store/pulls.ts'
import type { StoredManifest } from '../store/manifests.ts'

export interface PullCountsDeps {
  readonly add: (counted: readonly CountedPulls[]) => Promise<void>
  /** What failed to be written; the counts are kept for the next flush. */
  readonly onError: (error: unknown) => void
  readonly now: () => Date
  /** Milliseconds between flushes: what a crash may lose. */
  readonly intervalMs: number
}

interface Tally {
  readonly repositoryId: number
  readonly manifest: Pick<StoredManifest, 'id' | 'digest'>
  readonly tags: Set<string>
  byDigest: number
  byTag: number
  lastAt: Date
}

/** Manifest GETs since the last flush, by manifest. One that is opened and closed. */
export class PullCounts {
  readonly #deps: PullCountsDeps
  #tallies = new Map<number, Tally>()
  #timer: NodeJS.Timeout | undefined
  #flushing: Promise<void> | undefined

  constructor(deps: PullCountsDeps) {
    this.#deps = deps
  }

  /** Counts one GET; `tag` is what it was asked by, undefined: its digest. */
  count(
    repositoryId: number,
    manifest: Pick<StoredManifest, 'id' | 'digest'>,
    tag: string | undefined,
  ): void {
    let tally = this.#tallies.get(manifest.id)
    if (tally === undefined) {
      const lastAt = this.#deps.now()
      tally = { repositoryId, manifest, tags: new Set(), byDigest: 0, byTag: 0, lastAt }
      this.#tallies.set(manifest.id, tally)
    }
    tally.lastAt = this.#deps.now()
    if (tag === undefined) {
      tally.byDigest++
    } else {
      tally.byTag++
      tally.tags.add(tag)
    }
    this.#timer ??= setTimeout(() => void this.flush(), this.#deps.intervalMs).unref()
  }

  /** Writes what was counted. Failures are reported, not thrown: a count is not worth a pull. */
  async flush(): Promise<void> {
    await this.#flushing
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#tallies.size === 0) return
    const tallies = this.#tallies
    this.#tallies = new Map()
    this.#flushing = this.#write(tallies)
    await this.#flushing
  }

  async #write(tallies: ReadonlyMap<number, Tally>): Promise<void> {
    try {
      await this.#deps.add([...tallies.values()].map(toCounted))
    } catch (error) {
      this.#deps.onError(error)
      for (const [id, lost] of tallies) this.#merge(id, lost)
    }
  }

  #merge(id: number, lost: Tally): void {
    const tally = this.#tallies.get(id)
    if (tally === undefined) {
      this.#tallies.set(id, lost)
      this.#timer ??= setTimeout(() => void this.flush(), this.#deps.intervalMs).unref()
      return
    }
    tally.byDigest += lost.byDigest
    tally.byTag += lost.byTag
    for (const tag of lost.tags) tally.tags.add(tag)
  }

  /** Stops the timer and writes the rest. */
  async close(): Promise<void> {
    await this.flush()
    clearTimeout(this.#timer)
  }
}

function toCounted(tally: Tally): CountedPulls {
  return {
    repositoryId: tally.repositoryId,
    manifestId: tally.manifest.id,
    digest: tally.manifest.digest,
    byDigest: tally.byDigest,
    byTag: tally.byTag,
    tags: [...tally.tags],
    lastAt: tally.lastAt,
  }
}

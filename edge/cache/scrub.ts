import type { Digest } from '../../shared/oci/digest.ts'

/** Reads all that is held, slowly and again and again: a disk does not say what it has forgotten. */
export interface Scrub {
  /** Resolves when it has stopped. */
  close(): Promise<void>
}

export interface ScrubDeps {
  readonly bytesPerSecond: number
  /** The held digest behind this one, in any order that stays the same; undefined behind the last. */
  readonly next: (after: Digest | undefined) => Promise<Digest | undefined>
  /**
   * Reads a file, and drops it unless it is what its digest says.
   * @param pause to be waited for after each read
   */
  readonly check: (digest: Digest, pause: (bytes: number) => Promise<void>) => Promise<void>
  /** Where an earlier run came to. */
  readonly start: Digest | undefined
  readonly save: (position: Digest) => Promise<void>
  readonly onFailed: (error: unknown) => void
}

/** With nothing held, and after something that failed. */
const idleMs = 60_000
/** A restart reads that much again, at most. */
const saveEveryBytes = 1024 ** 3

/** Begins at once; close it before the index. */
export function startScrub(deps: ScrubDeps): Scrub {
  const stopping = new AbortController()
  const { signal } = stopping
  let sinceSave = 0

  const pause = async (bytes: number): Promise<void> => {
    sinceSave += bytes
    await wait((bytes / deps.bytesPerSecond) * 1000, signal)
    signal.throwIfAborted()
  }
  const run = async (): Promise<void> => {
    let at = deps.start
    while (!signal.aborted) {
      try {
        const digest = await deps.next(at)
        if (digest === undefined) {
          // Round again; soon enough that a new file waits for no more than all the others.
          if (at === undefined) await wait(idleMs, signal)
          at = undefined
          continue
        }
        at = digest
        await deps.check(digest, pause)
        if (sinceSave < saveEveryBytes) continue
        sinceSave = 0
        await deps.save(digest)
      } catch (error) {
        if (signal.aborted) return
        deps.onFailed(error)
        await wait(idleMs, signal)
      }
    }
  }
  const running = run()
  return {
    close() {
      stopping.abort()
      return running
    },
  }
}

/** Ends early with the signal. */
function wait(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve()
    const end = (): void => {
      clearTimeout(timer)
      signal.removeEventListener('abort', end)
      resolve()
    }
    const timer = setTimeout(end, ms).unref()
    signal.addEventListener('abort', end)
  })
}

import type { OpenFillReader } from './fill-reader.ts'

export interface OwnersOptions {
  /** What a fill without an owner may still fetch, and how long it may go on, as of now; without limits it finishes. */
  readonly budget: () => { readonly bytes?: number; readonly ms?: number }
  /** Whether there is anything left to stop. */
  readonly running: () => boolean
  /** Called when nobody owns the fill and its budget is spent. */
  readonly onSpent: () => void
}

/** Who wants a fill to go on: its readers, and those who wait to become one. */
export interface Owners {
  readonly count: number
  /** Somebody waits for a reader. @returns what ends the wait */
  join(): () => void
  add(reader: OpenFillReader): void
  remove(reader: OpenFillReader): void
  /** Fails all readers, or those who got bytes of this piece before it was proved. */
  cut(reason: Error, piece?: number): void
  /** So many bytes have arrived. */
  received(bytes: number): void
  stop(): void
}

export function createOwners({ budget, running, onSpent }: OwnersOptions): Owners {
  const readers = new Set<OpenFillReader>()
  let joining = 0
  let unownedBytes = 0
  let timer: NodeJS.Timeout | undefined

  function stop() {
    clearTimeout(timer)
    timer = undefined
  }

  function changed() {
    if (readers.size + joining > 0) {
      unownedBytes = 0
      return stop()
    }
    // A reader that lets go after the end must not start the clock again.
    const { ms } = budget()
    if (ms === undefined || timer !== undefined || !running()) return
    timer = setTimeout(onSpent, ms)
  }

  return {
    get count() {
      return readers.size + joining
    },
    join() {
      joining++
      changed()
      return () => {
        joining--
        changed()
      }
    },
    add(reader) {
      readers.add(reader)
    },
    remove(reader) {
      readers.delete(reader)
      changed()
    },
    cut(reason, piece) {
      for (const reader of readers)
        if (piece === undefined || reader.gotUnproved(piece)) reader.cut(reason)
    },
    received(bytes) {
      if (readers.size + joining > 0) return
      unownedBytes += bytes
      if (unownedBytes > (budget().bytes ?? Infinity)) onSpent()
    },
    stop,
  }
}

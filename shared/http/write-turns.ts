/**
 * Lets the writers of large bodies take turns with the event loop. A write is a copy into the kernel that the
 * loop waits for, and when bytes for a hundred clients arrive at once a hundred of them would follow each other,
 * while requests that came meanwhile are not even accepted: node accepts one connection in a turn of its loop.
 */
export interface WriteTurns {
  /**
   * A writer comes with its request: those who wait let it, and what else arrived, go first for some turns.
   * @returns what to call once when it leaves
   */
  enter(): () => void
  /**
   * Calls `write`, which is going to write so many bytes: at once for a writer alone, or while this turn of the
   * loop has bytes left and nobody waits, else in a later turn, first come first served.
   * @returns a function that withdraws a write that was not called yet; undefined when it was called
   */
  take(bytes: number, write: () => void): (() => void) | undefined
  /** Whether a write would have to wait. */
  isBusy(): boolean
  /** Whether there is one writer at most. */
  isAlone(): boolean
}

export interface WriteTurnsOptions {
  /** What goes out in one turn of the loop; the first write of a turn goes whatever its size. */
  readonly bytesPerTurn: number
  /** How many turns in a row may pass without a write, because requests arrive. */
  readonly maxYields: number
  /** Calls back once the loop has looked for what has arrived. */
  readonly nextTurn?: (begin: () => void) => void
}

interface Waiting {
  readonly bytes: number
  readonly write: () => void
}

export function createWriteTurns({
  bytesPerTurn,
  maxYields,
  nextTurn = setImmediate,
}: WriteTurnsOptions): WriteTurns {
  // A set keeps the order, and whoever withdraws leaves no gap.
  const queue = new Set<Waiting>()
  let writers = 0
  let left = bytesPerTurn
  let asked = false
  let arrived = false
  let yields = 0

  const askForTurn = (): void => {
    if (asked) return
    asked = true
    nextTurn(beginTurn)
  }
  const mayWrite = (bytes: number): boolean => bytes <= left || left === bytesPerTurn
  const spend = ({ bytes, write }: Waiting): void => {
    left -= bytes
    askForTurn()
    write()
  }
  const beginTurn = (): void => {
    asked = false
    yields = arrived && queue.size > 0 && yields < maxYields ? yields + 1 : 0
    arrived = false
    if (yields > 0) return askForTurn()
    left = bytesPerTurn
    for (const waiting of queue) {
      if (!mayWrite(waiting.bytes)) return
      queue.delete(waiting)
      spend(waiting)
    }
  }

  return {
    enter() {
      writers++
      arrived = true
      return () => void writers--
    },
    take(bytes, write) {
      const waiting = { bytes, write }
      // Another turn of the loop for each of its writes would cost a writer alone 4 % more CPU.
      if (queue.size === 0 && writers <= 1) return void write()
      if (queue.size === 0 && mayWrite(bytes)) return void spend(waiting)
      queue.add(waiting)
      return () => void queue.delete(waiting)
    },
    isBusy: () => queue.size > 0 || left <= 0,
    isAlone: () => writers <= 1,
  }
}

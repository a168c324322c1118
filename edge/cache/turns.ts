/** Lets works of one key run one after another; works of different keys never wait for each other. */
export interface Turns {
  /**
   * Runs `work` once every earlier work of its key has ended, whichever way, and gives what it gives. A work
   * may not wait for another of its own key: that one comes after it.
   */
  inTurn<T>(this: void, key: string, work: () => Promise<T>): Promise<T>
  /** Keys of which a work runs or waits. */
  readonly busyKeys: number
}

/** Turns that are nobody's yet; nothing is remembered of a key when its last work has ended. */
export function createTurns(): Turns {
  const lastOf = new Map<string, Promise<unknown>>()
  return {
    async inTurn(key, work) {
      const turn = (lastOf.get(key) ?? Promise.resolve()).then(work)
      // The next in turn waits for the end, and does not care which.
      const end = turn.catch(() => undefined)
      lastOf.set(key, end)
      try {
        return await turn
      } finally {
        if (lastOf.get(key) === end) lastOf.delete(key)
      }
    },
    get busyKeys() {
      return lastOf.size
    },
  }
}

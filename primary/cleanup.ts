/** What was started, to be ended in the reverse order. */
export interface Cleanup {
  add(end: () => Promise<void>): void
  /** Ends everything, the newest first; the first failure is thrown when all have been tried. */
  run(): Promise<void>
}

/** Starts an empty list. */
export function createCleanup(): Cleanup {
  const ends: (() => Promise<void>)[] = []
  return {
    add: (end) => void ends.push(end),
    async run() {
      const failures: unknown[] = []
      for (let end = ends.pop(); end !== undefined; end = ends.pop()) {
        try {
          await end()
        } catch (error) {
          failures.push(error)
        }
      }
      if (failures.length > 0) throw failures[0]
    },
  }
}

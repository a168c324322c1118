/** Wakes everybody who waits, each time it is rung. */
export interface Bell {
  /** Resolves at the next ring. Look at the state first, then wait, with no `await` between. */
  wait(): Promise<void>
  ring(): void
}

export function createBell(): Bell {
  let { promise, resolve } = Promise.withResolvers<void>()
  let awaited = false
  return {
    wait() {
      awaited = true
      return promise
    },
    ring() {
      if (!awaited) return
      awaited = false
      resolve()
      ;({ promise, resolve } = Promise.withResolvers<void>())
    },
  }
}

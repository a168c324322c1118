/** Wakes everybody who waits, each time it is rung. */
export interface Bell {
  /** Resolves at the next ring. Look at the state first, then wait, with no `await` between. */
  wait(): Promise<void>
  ring(): void
  /** A bell that rings with this one, and alone: whose own affairs wake nobody else. */
  branch(): Bell
}

/** @param outer rings whenever this one does */
export function createBell(outer?: Bell): Bell {
  let waiting = new Set<() => void>()
  return {
    wait: () => new Promise((resolve) => void waiting.add(resolve)),
    ring() {
      outer?.ring()
      if (waiting.size === 0) return
      const woken = waiting
      waiting = new Set()
      for (const wake of woken) wake()
    },
    branch() {
      const own = createBell()
      let listens = false
      const wake = (): void => {
        listens = false
        own.ring()
      }
      return {
        ...own,
        wait() {
          if (!listens) waiting.add(wake)
          listens = true
          return own.wait()
        },
      }
    },
  }
}

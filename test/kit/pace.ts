import { setImmediate as turn } from 'node:timers/promises'
import type { Pace } from '../../shared/discovery/blocking-query.ts'

/** Time that passes only when it is told to, and what waits for it. */
export interface TestPace extends Pace {
  /** Passes so much time: what is due in it goes on, each at its own moment. */
  pass(ms: number): Promise<void>
  /** How long each wait was that began since, in order. */
  readonly waits: readonly number[]
}

export function createTestPace({
  random = () => 0,
}: { readonly random?: () => number } = {}): TestPace {
  let now = 0
  const waits: number[] = []
  const due = new Set<{ readonly at: number; readonly resolve: () => void }>()
  /** All that follows at once of what just happened. */
  const settle = async () => {
    for (let round = 0; round < 5; round++) await turn()
  }
  return {
    now: () => now,
    random,
    waits,
    delay(ms, signal) {
      if (signal.aborted) return Promise.resolve()
      waits.push(ms)
      return new Promise((resolve) => {
        const done = () => {
          due.delete(waiter)
          resolve()
        }
        const waiter = { at: now + ms, resolve: done }
        due.add(waiter)
        signal.addEventListener('abort', done, { once: true })
      })
    },
    async pass(ms) {
      const end = now + ms
      await settle()
      for (;;) {
        const [next] = [...due].sort((one, other) => one.at - other.at)
        if (next === undefined || next.at > end) break
        now = Math.max(now, next.at)
        next.resolve()
        await settle()
      }
      now = end
    },
  }
}

import { setTimeout as delay } from 'node:timers/promises'

/** A clock that moves only when told. */
export interface TestClock {
  /** Milliseconds since 1970. */
  readonly now: () => number
  advance(ms: number): void
}

/** Makes a clock that starts at a fixed moment. */
export function createTestClock(startMs = Date.UTC(2026, 0, 1)): TestClock {
  let current = startMs
  return {
    now: () => current,
    advance(ms) {
      current += ms
    },
  }
}

/**
 * Waits until a condition holds, looking every few milliseconds.
 * @param condition returns undefined or false while it does not hold
 * @returns what the condition returned
 * @throws Error naming what was waited for, after `timeoutMs`
 */
export async function waitFor<Value>(
  what: string,
  condition: () => Value | undefined | false | Promise<Value | undefined | false>,
  { timeoutMs = 30_000 }: { readonly timeoutMs?: number } = {},
): Promise<Value> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    const askedAt = performance.now()
    const value = await condition()
    if (value !== undefined && value !== false) return value
    const now = performance.now()
    if (now > deadline) throw new Error(`waited ${timeoutMs} ms in vain for: ${what}`)
    // A dear question is asked less often: it must not keep back what it asks about.
    await delay(Math.min(Math.max(5, 4 * (now - askedAt)), 100))
  }
}

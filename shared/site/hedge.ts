export interface HedgeOptions {
  /** Milliseconds, monotonic. */
  readonly now: () => number
  /** Ends after so long, or when the signal is aborted; it need not throw then. */
  readonly delay: (ms: number, signal: AbortSignal) => Promise<void>
}

/**
 * Asks a second one when the first takes longer than 95 of 100 did, and takes what comes first. [Dean and Barroso,
 * The tail at scale, "Hedged requests"]
 */
export interface Hedge {
  /**
   * @param attempts the questions, in their order; only one that is idempotent. The signal of the slower one is
   *   aborted. The second is asked at once when the first fails
   * @throws what the last one that was asked throws; the reason of `signal`
   */
  race<T>(
    attempts: readonly [Attempt<T>, Attempt<T>?],
    options?: { readonly signal?: AbortSignal },
  ): Promise<T>
  /** After how many milliseconds the second is asked. */
  readonly afterMs: number
}

export type Attempt<T> = (signal: AbortSignal) => Promise<T>

/** Of the last so many. */
const window = 128
const percentile = 0.95
/** Before so many are known, and within these bounds: less is noise, and more is no help. */
const after = { unknown: 8, unknownMs: 100, leastMs: 5, mostMs: 2000 }
/** Second questions for one first, and how many may be saved up: when all get slow, asking twice makes it worse. */
const budget = { share: 0.1, most: 10 }

export function createHedge({ now, delay }: HedgeOptions): Hedge {
  const times: number[] = []
  let next = 0
  let tokens = budget.most

  function note(ms: number): void {
    times[next] = ms
    next = (next + 1) % window
  }

  function afterMs(): number {
    if (times.length < after.unknown) return after.unknownMs
    const sorted = times.toSorted((one, other) => one - other)
    const at = sorted[Math.floor(percentile * (sorted.length - 1))] ?? after.unknownMs
    return Math.min(Math.max(at, after.leastMs), after.mostMs)
  }

  /** @param startedAt when its caller began to wait: a second one's time is that, or slow firsts would be forgotten */
  async function timed<T>(
    attempt: Attempt<T>,
    { signal, startedAt }: { readonly signal: AbortSignal; readonly startedAt: number },
  ): Promise<T> {
    const value = await attempt(signal)
    note(now() - startedAt)
    return value
  }

  return {
    get afterMs() {
      return afterMs()
    },
    async race([first, second], { signal } = {}) {
      signal?.throwIfAborted()
      tokens = Math.min(tokens + budget.share, budget.most)
      const over = new AbortController()
      const stopped = signal === undefined ? over.signal : AbortSignal.any([signal, over.signal])
      const startedAt = now()
      try {
        const asking = timed(first, { signal: stopped, startedAt })
        if (second === undefined) return await asking
        const waiting = new AbortController()
        const outcome = await Promise.race([
          asking.then(
            (value) => ({ value }),
            (error: unknown) => ({ error }),
          ),
          delay(afterMs(), AbortSignal.any([stopped, waiting.signal])).then(
            () => undefined,
            () => undefined,
          ),
        ])
        waiting.abort()
        signal?.throwIfAborted()
        if (outcome !== undefined && 'value' in outcome) return outcome.value
        // It failed: this is no second question beside the first, but one instead.
        if (outcome !== undefined) return await timed(second, { signal: stopped, startedAt })
        if (tokens < 1) return await asking
        tokens--
        return await firstOf([asking, timed(second, { signal: stopped, startedAt })])
      } finally {
        over.abort()
      }
    },
  }
}

/** The first value; when there is none, what failed last. */
async function firstOf<T>(promises: readonly Promise<T>[]): Promise<T> {
  try {
    return await Promise.any(promises)
  } catch (error) {
    throw error instanceof AggregateError ? error.errors.at(-1) : error
  }
}

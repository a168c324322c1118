import { SourceError } from '../stream/blob-source.ts'
import { lasts } from '../stream/lasts.ts'

/**
 * Keeps requests from a far side that cannot answer them: a circuit breaker [Nygard, Release It!, "Circuit Breaker"],
 * and the pause that a 429 asks for by `Retry-After`. What is turned away fails at once, so whoever asked can answer from what is
 * held or let its client go elsewhere.
 */
export interface Gate {
  /**
   * Does the work, unless the far side is known to be away or wants to be left alone.
   * @throws SourceError `unavailable` or `busy` with the time to wait; what the work throws
   */
  pass<T>(work: () => Promise<T>, probe?: ProbeRules<T>): Promise<T>
  readonly isOpen: boolean
}

/** What becomes of a caller whose work happens to be the probe. */
export interface ProbeRules<T> {
  /** It waits as long as the work takes: it has something else to answer meanwhile. Others are turned away soon. */
  readonly waits?: boolean
  /** Gets what the work brings after all when its caller was turned away. */
  readonly discard?: (result: T) => void
}

export interface GateOptions {
  /** The upstream's id, for messages. */
  readonly name: string
  /** Milliseconds, monotonic. */
  readonly now: () => number
  /** 0 to 1: edges that lost one upstream together do not come back to it together. */
  readonly random?: () => number
}

/** One after the other, of requests to anything; and what each counts that kept its client waiting. */
const failuresToOpen = 5
const slowFailure = { ms: 1000, counts: 3 }
/** A client whose request is the probe is not kept for longer; the probe goes on without it. */
const probeWaitMs = 30
/** Doubled by each probe that fails, and shortened by up to half at random. */
const firstWaitMs = 1000
const longestWaitMs = 10_000
/** An upstream may ask for a day; whether it still wants it is seen by asking again. */
const longestPauseMs = 60_000

/** Closed at first. When it has been open for a while one request goes through as a probe; its answer decides. */
export function createGate({ name, now, random = Math.random }: GateOptions): Gate {
  let failures = 0
  let waitMs = firstWaitMs
  let pausedUntil = -Infinity
  /** Undefined: closed. */
  let openUntil: number | undefined
  let isProbing = false

  const away = (retryAfterMs: number): SourceError =>
    new SourceError('unavailable', `${name} does not answer`, { retryAfterMs, isAway: true })
  const turnedAway = (): SourceError | undefined => {
    const pauseMs = pausedUntil - now()
    if (pauseMs > 0)
      return new SourceError('busy', `${name} has asked for a pause`, { retryAfterMs: pauseMs })
    if (openUntil === undefined) return undefined
    const openMs = openUntil - now()
    if (openMs <= 0 && !isProbing) return undefined
    return away(Math.max(openMs, firstWaitMs))
  }
  const open = (): void => {
    openUntil = now() + waitMs * (1 - random() / 2)
    waitMs = Math.min(2 * waitMs, longestWaitMs)
  }
  const close = (): void => {
    failures = 0
    waitMs = firstWaitMs
    openUntil = undefined
  }
  const failed = (
    error: SourceError,
    { isProbe, ms }: { readonly isProbe: boolean; readonly ms: number },
  ): void => {
    if (error.code === 'busy' && error.retryAfterMs !== undefined)
      pausedUntil = now() + Math.min(error.retryAfterMs, longestPauseMs)
    if (!error.isAway) return close()
    // What was sent before it opened says nothing new.
    if (isProbe) return open()
    failures += ms >= slowFailure.ms ? slowFailure.counts : 1
    if (openUntil === undefined && failures >= failuresToOpen) open()
  }

  /** Does the work, and learns from it. */
  const watched = async <T>(work: () => Promise<T>, isProbe: boolean): Promise<T> => {
    const startedAt = now()
    try {
      const result = await work()
      close()
      return result
    } catch (error) {
      // A client that went away says nothing of the upstream: the next request is the probe.
      if (error instanceof SourceError) failed(error, { isProbe, ms: now() - startedAt })
      throw error
    }
  }
  const probe = async <T>(
    work: () => Promise<T>,
    { waits = false, discard }: ProbeRules<T>,
  ): Promise<T> => {
    isProbing = true
    const probing = watched(work, true).finally(() => {
      isProbing = false
    })
    if (waits || !(await lasts(probing, probeWaitMs))) return probing
    probing.then(discard, ignore)
    throw away(firstWaitMs)
  }

  return {
    pass(work, rules = {}) {
      const refusal = turnedAway()
      if (refusal !== undefined) return Promise.reject(refusal)
      return openUntil === undefined ? watched(work, false) : probe(work, rules)
    },
    get isOpen() {
      return openUntil !== undefined
    },
  }
}

function ignore(): void {}

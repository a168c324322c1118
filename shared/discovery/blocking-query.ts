import { createHash } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { formatMs, type ConsulAnswer } from './consul-client.ts'

/** What a loop needs of time and luck, so that tests can have their own. */
export interface Pace {
  /** Milliseconds, monotonic. */
  readonly now: () => number
  /** Ends after so long, or at once when the signal is aborted; it does not throw then. */
  readonly delay: (ms: number, signal: AbortSignal) => Promise<void>
  /** From 0 to 1. */
  readonly random: () => number
}

export const realPace: Pace = {
  now: () => performance.now(),
  delay: (ms, signal) => sleep(ms, undefined, { signal }).catch(() => undefined),
  random: Math.random,
}

/** One request of a watch. */
export interface BlockingRequest {
  /** `index`, `wait`, and `stale` where that will do. */
  readonly query: Readonly<Record<string, string>>
  readonly timeoutMs: number
  readonly signal: AbortSignal
}

export interface BlockingQueryOptions<Value> {
  readonly read: (request: BlockingRequest) => Promise<ConsulAnswer>
  /** What is watched, of a body. @throws what says that the body is none; that counts as a failure */
  readonly select: (body: unknown) => Value
  /** Called with the first value, and with each that differs from the one before. */
  readonly onValue?: (value: Value) => void
  /** Called when Consul begins to fail, and (without an error) when it is back. */
  readonly onState?: (error: Error | undefined) => void
  /** How long one request may wait for a change: a minute without. */
  readonly waitMs?: number
  /** A server that heard of its leader longer ago is not believed, unless nothing is known yet: 10 s without. */
  readonly maxStaleMs?: number
  readonly pace?: Pace
}

/** What Consul says, kept true. */
export interface BlockingQuery<Value> {
  /** The last good value, however old; undefined before the first. */
  readonly latest: () => Value | undefined
  /** Ends with the first value, and when the query is closed. */
  readonly first: Promise<void>
  /** Ends the request that is on its way, and the loop. */
  close(): Promise<void>
}

/** At most one request a second: of a service that is busy every one returns at once. */
const leastIntervalMs = 1000
const backoff = { firstMs: 2000, mostMs: 30_000 }
/** A server waits for up to a sixteenth more than it is told. [Consul, HTTP API, Blocking queries] */
const serverJitter = 1 / 16
/** For the way there and back. */
const marginMs = 10_000

/**
 * Asks again and again, each time waiting for a change. A value once had is kept for ever: Consul away is Consul that
 * says nothing new. No answer ends it.
 */
export function startBlockingQuery<Value>(
  options: BlockingQueryOptions<Value>,
): BlockingQuery<Value> {
  const { read, select, onValue, onState, waitMs = 60_000, maxStaleMs = 10_000 } = options
  const { delay, random } = options.pace ?? realPace
  const closing = new AbortController()
  const first = Promise.withResolvers<void>()
  let latest: { readonly value: Value; readonly fingerprint: string } | undefined
  let index = 0
  /** The last answer was of a server that had lost its leader: the next one must come by way of the leader. */
  let mustBeFresh = false
  let failures = 0

  async function ask(): Promise<ConsulAnswer> {
    const wait = waitMs * (1 - random() / 10)
    const timeoutMs = Math.ceil(wait * (1 + serverJitter)) + marginMs
    const query = {
      ...(index > 0 && { index: String(index), wait: formatMs(wait) }),
      ...(!mustBeFresh && { stale: '' }),
    }
    const deadline = new AbortController()
    const answered = new AbortController()
    // Beside the timeout that the client keeps: this clock can be a test's.
    void delay(timeoutMs, AbortSignal.any([closing.signal, answered.signal])).then(() => {
      deadline.abort(new Error(`no answer came in ${timeoutMs} ms`))
    })
    try {
      const signal = AbortSignal.any([closing.signal, deadline.signal])
      return await read({ query, timeoutMs, signal })
    } finally {
      answered.abort()
    }
  }

  function take(answer: ConsulAnswer): void {
    const before = index
    index = nextIndex(before, answer.index)
    // It went back, as after a restore, or at a server that lags behind: what it is now is asked for from the start.
    if (before > 0 && index === 0) return
    const isOld = !answer.hasLeader || answer.lastContactMs > maxStaleMs
    mustBeFresh = isOld && !mustBeFresh
    if (isOld && latest !== undefined) {
      // What it says is not taken, so it must not be waited past either.
      index = before
      return
    }
    const value = select(answer.body)
    const fingerprint = fingerprintOf(value)
    if (fingerprint === latest?.fingerprint) return
    latest = { value, fingerprint }
    first.resolve()
    onValue?.(value)
  }

  async function turn(): Promise<number> {
    try {
      take(await ask())
      if (failures > 0) onState?.(undefined)
      failures = 0
      return leastIntervalMs
    } catch (error) {
      if (closing.signal.aborted) return 0
      failures++
      if (failures === 1) onState?.(error instanceof Error ? error : new Error(String(error)))
      const ms = Math.min(backoff.firstMs * 2 ** (failures - 1), backoff.mostMs)
      // Between half and all of it: those that lost it together do not come back together.
      return ms * (1 - random() / 2)
    }
  }

  async function run(): Promise<void> {
    while (!closing.signal.aborted) await delay(await turn(), closing.signal)
  }

  const running = run()
  return {
    latest: () => latest?.value,
    first: first.promise,
    async close() {
      closing.abort()
      first.resolve()
      await running
    },
  }
}

/**
 * What to ask with after an answer: back to the start when the index went back, and never less than 1, which would
 * not block. [Consul, HTTP API, Blocking queries, "Implementation details"]
 */
export function nextIndex(before: number, received: number | undefined): number {
  const index = Math.max(received ?? 0, 1)
  return index < before ? 0 : index
}

function fingerprintOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('base64')
}

/** A running request, as the watchdog sees it. */
export interface Transfer {
  /** Bytes that went over the connection so far, both ways; never shrinks by more than a TLS record. */
  movedBytes(): number
  /** Whether it is the client's turn: to send more of its body, or to take what is queued. */
  awaitsClient(): boolean
  /** Ends it. */
  cut(reason: 'idle' | 'slow'): void
}

export interface WatchdogLimits {
  /** Milliseconds without a byte. */
  readonly idle: number
  /** Bytes per second; 0 turns the rule off. */
  readonly minimum_rate: number
  /** Milliseconds over which the rate is measured. */
  readonly minimum_rate_window: number
}

interface Observation {
  bytes: number
  idleMs: number
  windowMs: number
  windowBytes: number
}

/**
 * Cuts transfers whose client stands still or crawls, in place of Node's `requestTimeout`, which cuts every upload
 * that takes longer than it, however well it moves. Only the client's own slowness counts: a request that waits
 * for our disk, database or upstream is left alone.
 *
 * The default of 512 B/s over two minutes is half of the slowest client that must live (1 KiB/s), and far above
 * what one byte a minute, the cheapest way to hold a connection past the idle rule, comes to.
 */
export class Watchdog {
  readonly #transfers: Iterable<Transfer>
  readonly #limits: WatchdogLimits
  readonly #observations = new WeakMap<Transfer, Observation>()
  readonly #intervalMs: number
  #timer: NodeJS.Timeout | undefined

  /** @param transfers those that run; it is iterated at each look. */
  constructor(transfers: Iterable<Transfer>, limits: WatchdogLimits) {
    this.#transfers = transfers
    this.#limits = limits
    this.#intervalMs = Math.max(20, Math.min(5000, limits.idle / 4, limits.minimum_rate_window / 4))
  }

  /** Looks at all transfers from time to time, by one timer for all of them. Does not keep the process alive. */
  start(): void {
    let last = performance.now()
    this.#timer = setInterval(() => {
      const now = performance.now()
      // A process that was stopped, or busy, has not watched: nobody pays for that time.
      this.look(Math.min(now - last, 2 * this.#intervalMs))
      last = now
    }, this.#intervalMs).unref()
  }

  stop(): void {
    clearInterval(this.#timer)
  }

  /** Judges every transfer by what moved since the last look, `elapsedMs` ago. */
  look(elapsedMs: number): void {
    for (const transfer of this.#transfers) {
      const reason = this.#judge(transfer, elapsedMs)
      if (reason !== undefined) transfer.cut(reason)
    }
  }

  #judge(transfer: Transfer, elapsedMs: number): 'idle' | 'slow' | undefined {
    const bytes = transfer.movedBytes()
    const seen = this.#observations.get(transfer)
    if (seen === undefined) {
      this.#observations.set(transfer, { bytes, idleMs: 0, windowMs: 0, windowBytes: 0 })
      return undefined
    }
    const moved = bytes - seen.bytes
    seen.bytes = bytes
    if (!transfer.awaitsClient()) {
      seen.idleMs = 0
      return undefined
    }
    seen.idleMs = moved === 0 ? seen.idleMs + elapsedMs : 0
    seen.windowMs += elapsedMs
    seen.windowBytes += moved
    if (seen.idleMs >= this.#limits.idle) return 'idle'
    if (seen.windowMs < this.#limits.minimum_rate_window) return undefined
    const isSlow = seen.windowBytes < (this.#limits.minimum_rate * seen.windowMs) / 1000
    seen.windowMs = 0
    seen.windowBytes = 0
    return isSlow ? 'slow' : undefined
  }
}

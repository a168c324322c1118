import type { Logger } from '../../shared/observability/log.ts'

/** Whether the cache's disk takes what is written. While it does not, clients are served all the same. */
export interface DiskHealth {
  /** Something could not be written. */
  failed(err: unknown): void
  /** Something was written. */
  worked(): void
  isFailing(): boolean
  /**
   * Why it refused something a moment ago; undefined: it did not, or that was long enough ago to try it again. Whoever
   * sends nobody here meanwhile would else never know that it is well.
   */
  refusal(): string | undefined
}

export interface DiskHealthObserver {
  readonly onFailed?: (err: unknown) => void
  /** Told once it is well again. */
  readonly onWell?: () => void
}

/** A disk that is full takes small files for long between the large ones that it refuses. */
const wellAfterMs = 30_000

/** Says once when the disk begins to fail, and once when it is well again: it wrote, and has refused nothing for a while. */
export function createDiskHealth(
  log: Logger,
  now: () => number = () => performance.now(),
  { onFailed, onWell }: DiskHealthObserver = {},
): DiskHealth {
  let failing = false
  let failedAt = 0
  let reason = ''
  return {
    failed(err) {
      if (!failing)
        log.warn({ err }, 'the cache cannot be written: blobs are passed on without being kept')
      failing = true
      failedAt = now()
      reason = err instanceof Error ? err.message : String(err)
      onFailed?.(err)
    },
    worked() {
      if (!failing || now() - failedAt < wellAfterMs) return
      log.info({}, 'the cache can be written again')
      failing = false
      onWell?.()
    },
    isFailing: () => failing,
    refusal: () => (failing && now() - failedAt < wellAfterMs ? reason : undefined),
  }
}

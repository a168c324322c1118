import type { Logger } from '../../shared/observability/log.ts'

/** Whether the cache's disk takes what is written. While it does not, clients are served all the same. */
export interface DiskHealth {
  /** Something could not be written. */
  failed(err: unknown): void
  /** Something was written. */
  worked(): void
  isFailing(): boolean
}

/** A disk that is full takes small files for long between the large ones that it refuses. */
const wellAfterMs = 30_000

/** Says once when the disk begins to fail, and once when it is well again: it wrote, and has refused nothing for a while. */
export function createDiskHealth(
  log: Logger,
  now: () => number = () => performance.now(),
): DiskHealth {
  let failing = false
  let failedAt = 0
  return {
    failed(err) {
      if (!failing)
        log.warn({ err }, 'the cache cannot be written: blobs are passed on without being kept')
      failing = true
      failedAt = now()
    },
    worked() {
      if (!failing || now() - failedAt < wellAfterMs) return
      log.info({}, 'the cache can be written again')
      failing = false
    },
    isFailing: () => failing,
  }
}

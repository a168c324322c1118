/** Shares out the bytes a second that may go out, evenly among those who want to send. */
export interface UploadRate {
  /** How many bytes are worth asking for at once, so that nobody waits long behind another. */
  readonly portion: number
  /** Resolves when so many bytes may go; who asks first goes first. */
  take(bytes: number): Promise<void>
}

/** What may go at once after a pause, in milliseconds of the rate: less is lost to late timers. */
const burstMs = 50
const largestPortion = 128 * 1024
const smallestPortion = 8 * 1024

/** @param now milliseconds, monotonic */
export function createUploadRate(
  bytesPerSecond: number,
  now: () => number = () => performance.now(),
): UploadRate {
  /** When all that was taken has gone. */
  let goneAt = -Infinity
  return {
    portion: Math.min(largestPortion, Math.max(smallestPortion, Math.floor(bytesPerSecond / 32))),
    async take(bytes) {
      goneAt = Math.max(goneAt, now() - burstMs) + (bytes * 1000) / bytesPerSecond
      const waitMs = goneAt - now()
      if (waitMs > 0) await new Promise((resolve) => setTimeout(resolve, waitMs))
    },
  }
}

/** What an upstream last said of how many pulls it still gives. */
export interface RateLimit {
  /** Pulls left in the window, and of how many. */
  readonly remaining: number
  readonly limit: number | undefined
  /** Milliseconds. */
  readonly windowMs: number
  /** By the clock that it was read with. */
  readonly seenAt: number
}

/**
 * Reads Docker Hub's `ratelimit-remaining: 76;w=21600` and `ratelimit-limit`, which come with HEADs too.
 * [Docker Hub usage and limits; draft-ietf-httpapi-ratelimit-headers-03]
 * @returns undefined when there is none of that form
 */
export function readRateLimit(
  headers: Readonly<Record<string, string>>,
  now: number,
): RateLimit | undefined {
  const remaining = parse(headers['ratelimit-remaining'])
  if (remaining === undefined) return undefined
  return {
    remaining: remaining.count,
    limit: parse(headers['ratelimit-limit'])?.count,
    windowMs: remaining.windowMs,
    seenAt: now,
  }
}

/** Hub's own, when a count says none. */
const defaultWindowMs = 6 * 3_600_000

function parse(header: string | undefined): { count: number; windowMs: number } | undefined {
  const [, count, seconds] = /^\s*(\d{1,9})\s*(?:;\s*w=(\d{1,7}))?/.exec(header ?? '') ?? []
  if (count === undefined) return undefined
  return {
    count: Number(count),
    windowMs: seconds === undefined ? defaultWindowMs : Number(seconds) * 1000,
  }
}

export interface OutliersOptions {
  /** Milliseconds, monotonic. */
  readonly now: () => number
}

/**
 * Leaves alone for a while who keeps failing. [Envoy, Outlier detection: consecutive errors, success rate, maximum
 * ejection percent]
 */
export interface Outliers {
  succeeded(id: string): void
  /** It could not be reached, was too late, or answered with a fault of its own; not a 404. */
  failed(id: string): void
  /**
   * Those that are not left alone, in their order. At most half of them are: when more keep failing, those that
   * would come back soonest are among the answer.
   */
  sift<C extends { readonly id: string }>(candidates: readonly C[]): C[]
}

/** One after the other. */
const errorsToEject = 3
/** Of so many of the last, fewer than half succeeded. */
const rate = { window: 20, least: 0.5 }
/** Times how often it was ejected before; it is forgotten by and by while it does well. */
const ejectedMs = { first: 30_000, most: 300_000 }
/** Who has been gone for long is forgotten. */
const mostRemembered = 4096

interface Standing {
  errors: number
  /** Of the last requests, the newest last. */
  results: boolean[]
  ejections: number
  until: number
}

export function createOutliers({ now }: OutliersOptions): Outliers {
  const standings = new Map<string, Standing>()

  function note(id: string, isSuccess: boolean): void {
    const standing = standings.get(id) ?? { errors: 0, results: [], ejections: 0, until: -Infinity }
    // The map is in the order of who was heard of last.
    standings.delete(id)
    standings.set(id, standing)
    const [oldest] = standings.keys()
    if (standings.size > mostRemembered && oldest !== undefined) standings.delete(oldest)
    // What was sent before it was ejected says nothing new.
    if (now() < standing.until) return
    standing.errors = isSuccess ? 0 : standing.errors + 1
    standing.results = [...standing.results, isSuccess].slice(-rate.window)
    if (!isSuccess && isOutlier(standing)) eject(standing)
    else forgive(standing)
  }

  function eject(standing: Standing): void {
    standing.ejections++
    standing.until = now() + Math.min(ejectedMs.first * standing.ejections, ejectedMs.most)
    standing.errors = 0
    standing.results = []
  }

  /** One ejection less for each time that it did well for as long as one lasts. */
  function forgive(standing: Standing): void {
    while (standing.ejections > 0 && now() >= standing.until + ejectedMs.first) {
      standing.ejections--
      standing.until += ejectedMs.first
    }
  }

  return {
    succeeded: (id) => note(id, true),
    failed: (id) => note(id, false),
    sift(candidates) {
      const ejected = candidates
        .map(({ id }) => ({ id, until: standings.get(id)?.until ?? -Infinity }))
        .filter(({ until }) => now() < until)
        .sort((one, other) => other.until - one.until)
        .slice(0, Math.floor(candidates.length / 2))
      const out = new Set(ejected.map(({ id }) => id))
      return candidates.filter(({ id }) => !out.has(id))
    },
  }
}

function isOutlier({ errors, results }: Standing): boolean {
  if (errors >= errorsToEject) return true
  const successes = results.filter(Boolean).length
  return results.length === rate.window && successes / rate.window < rate.least
}

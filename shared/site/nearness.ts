/**
 * Where a machine is in the plane of round-trip times that Consul keeps, in seconds. [Vivaldi, Dabek et al. 2004;
 * serf, coordinate/coordinate.go]
 */
export interface Coordinate {
  readonly vec: readonly number[]
  /** What its own link adds. */
  readonly height: number
  /** What its measurements say beyond that. */
  readonly adjustment: number
  /** From 0 (sure) to 1.5: it has just begun, and says that it is where everybody begins. */
  readonly error: number
}

/** A coordinate with a larger error is a guess. */
const largestError = 1

/**
 * The round-trip time between two machines, as Consul estimates it.
 * [serf, coordinate/coordinate.go, DistanceTo]
 * @returns milliseconds; undefined when one of them does not know where it is, or they are of two kinds
 */
export function distanceMs(one: Coordinate, other: Coordinate): number | undefined {
  if (one.vec.length !== other.vec.length) return undefined
  if (one.error > largestError || other.error > largestError) return undefined
  const apart = Math.hypot(...one.vec.map((at, axis) => at - (other.vec[axis] ?? 0)))
  const raw = apart + one.height + other.height
  const adjusted = raw + one.adjustment + other.adjustment
  const seconds = adjusted > 0 ? adjusted : raw
  return Number.isFinite(seconds) ? seconds * 1000 : undefined
}

/** One of those to choose from. */
export interface Candidate {
  readonly id: string
  /** By Consul's coordinates, in milliseconds. */
  readonly estimateMs?: number | undefined
  /** Where it says that it is; one in our own site comes before all others. */
  readonly site?: string | undefined
}

export interface NearnessOptions {
  /** Ours. */
  readonly site?: string | undefined
  /** Milliseconds, monotonic. */
  readonly now: () => number
  /** From 0 to 1. */
  readonly random?: () => number
}

/** Orders others by how soon they answer, and shares requests among those that are about as near. */
export interface Nearness {
  /** Notes how long one took to answer, in milliseconds. */
  measured(id: string, ms: number): void
  /** What is expected of one; undefined when nothing is known. */
  expectedMs(candidate: Candidate): number | undefined
  /** The nearest first; of whom nothing is known come last. Equal ones stay as they came. */
  order<C extends Candidate>(candidates: readonly C[]): C[]
  /** Those about as near as the nearest, in their order: all the same to whoever asks them. */
  near<C extends Candidate>(candidates: readonly C[], within?: Band): C[]
  /**
   * Whom to ask: of those about as near as the nearest, two at random, and of the two the one that has less to do
   * [Mitzenmacher, The power of two choices]. All that come after the nearest would else choose the same one.
   * @param busyOf how much one has to do, such as requests that are on their way to it
   */
  choose<C extends Candidate>(
    candidates: readonly C[],
    busyOf: (id: string) => number,
  ): C | undefined
}

/** What a new measurement counts against all before it. */
const newShare = 0.2
/** The coordinates count as so many measurements. */
const estimateCounts = 5
/** And measurements as so many at most: the network changes. */
const mostCounted = 50
/** Half of them are forgotten after so long without a new one: who was slow once is tried again. */
const halfLifeMs = 600_000
/** About as near: so many times as far as the nearest, or so much farther. */
export interface Band {
  readonly factor: number
  readonly ms: number
}

const band: Band = { factor: 1.5, ms: 1 }
/** Of others than these, nothing is remembered: they come and go. */
const mostRemembered = 4096

interface Measured {
  ms: number
  count: number
  at: number
}

export function createNearness({ site, now, random = Math.random }: NearnessOptions): Nearness {
  const known = new Map<string, Measured>()

  const countOf = ({ count, at }: Measured) => count * 2 ** (-(now() - at) / halfLifeMs)

  function expectedMs({ id, estimateMs }: Candidate): number | undefined {
    const own = known.get(id)
    if (own === undefined) return estimateMs
    if (estimateMs === undefined) return own.ms
    const count = countOf(own)
    return (estimateMs * estimateCounts + own.ms * count) / (estimateCounts + count)
  }

  const isInSite = (candidate: Candidate) =>
    site !== undefined && site !== '' && candidate.site === site

  function order<C extends Candidate>(candidates: readonly C[]): C[] {
    const ranked = candidates.map((candidate) => ({
      candidate,
      isFar: !isInSite(candidate),
      ms: expectedMs(candidate) ?? Infinity,
    }))
    ranked.sort((one, other) => {
      if (one.isFar !== other.isFar) return one.isFar ? 1 : -1
      return one.ms === other.ms ? 0 : one.ms - other.ms
    })
    return ranked.map(({ candidate }) => candidate)
  }

  function near<C extends Candidate>(candidates: readonly C[], { factor, ms } = band): C[] {
    const ordered = order(candidates)
    const [nearest] = ordered
    if (nearest === undefined) return []
    const nearestMs = expectedMs(nearest) ?? Infinity
    const limitMs = Math.max(nearestMs * factor, nearestMs + ms)
    return ordered.filter(
      (candidate) =>
        isInSite(candidate) === isInSite(nearest) && (expectedMs(candidate) ?? Infinity) <= limitMs,
    )
  }

  return {
    measured(id, ms) {
      if (!Number.isFinite(ms) || ms < 0) return
      const before = known.get(id)
      known.delete(id)
      if (before === undefined) known.set(id, { ms, count: 1, at: now() })
      else {
        const share = Math.max(newShare, 1 / (countOf(before) + 1))
        const count = Math.min(countOf(before) + 1, mostCounted)
        known.set(id, { ms: before.ms + share * (ms - before.ms), count, at: now() })
      }
      const [oldest] = known.keys()
      if (known.size > mostRemembered && oldest !== undefined) known.delete(oldest)
    },
    expectedMs,
    order,
    near,
    choose(candidates, busyOf) {
      const about = near(candidates)
      const [nearest] = about
      if (nearest === undefined) return undefined
      const first = Math.floor(random() * about.length)
      // Another one than the first, if there is one.
      const second = (first + 1 + Math.floor(random() * (about.length - 1))) % about.length
      const [one = nearest, other = nearest] = [about[first], about[second]]
      const [oneBusy, otherBusy] = [busyOf(one.id), busyOf(other.id)]
      if (oneBusy !== otherBusy) return oneBusy < otherBusy ? one : other
      return first <= second ? one : other
    },
  }
}

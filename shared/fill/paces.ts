import { pieceBytes } from './segments.ts'

/** How fast others give, each against the others: when all are slow, none is. */
export interface Paces {
  /** A request has begun; `received` says how many bytes it has brought so far. */
  began(received: () => number): Pace
}

/** When somebody is judged, and by how many times it is slower than usual then. */
export interface Slowness {
  readonly fromMs: number
  readonly factor: number
  /** How many must have begun after it and be over: where everything stands still for a moment, nobody is. */
  readonly overtakenBy: number
}

export interface Pace {
  /** Whether it is far slower than the others are meanwhile, or have been if there are none. Nobody is before a usual one is over. */
  isSlow(slowness: Slowness): boolean
  /** It is over. @param complete whether all came: only then is it an example for later ones */
  ended(complete: boolean): void
}

interface Measured {
  readonly startedAt: number
  /** Bytes a millisecond. */
  pace: () => number
  endedAt: number
}

/** Nobody is judged by somebody who has begun only just now. */
const judgesFromMs = 1000
/** Fewer meanwhile say nothing: they may be the slow ones. */
const enoughMeanwhile = 2
const enoughEver = 4
const remembered = 16
/** Whoever is still slower, alone or not, is of no use to anybody. */
const longestMs = 60_000
const leastPace = pieceBytes / longestMs

/** @param now milliseconds, monotonic */
export function createPaces(now: () => number): Paces {
  const running = new Set<Measured>()
  let complete: readonly Measured[] = []

  const meanwhile = (judged: Measured): readonly Measured[] => [
    ...[...running].filter((each) => each !== judged && now() - each.startedAt >= judgesFromMs),
    ...complete.filter(({ endedAt }) => endedAt > judged.startedAt),
  ]
  const usualFor = (judged: Measured): number | undefined => {
    const others = meanwhile(judged)
    if (others.length >= enoughMeanwhile) return medianOf(others.map(({ pace }) => pace()))
    if (complete.length < enoughEver) return undefined
    return medianOf(complete.map(({ pace }) => pace()))
  }

  return {
    began(received) {
      const startedAt = now()
      const paceAt = (at: number): number => received() / Math.max(at - startedAt, 1)
      const measured: Measured = { startedAt, pace: () => paceAt(now()), endedAt: Infinity }
      running.add(measured)
      return {
        isSlow({ fromMs, factor, overtakenBy }) {
          const ms = now() - startedAt
          const usualMs = medianOf(complete.map((each) => each.endedAt - each.startedAt))
          if (ms < Math.max(fromMs, usualMs)) return false
          const later = complete.filter((each) => each.startedAt > startedAt)
          if (later.length < overtakenBy) return false
          const pace = measured.pace()
          if (ms > longestMs && pace < leastPace) return true
          return pace * factor < (usualFor(measured) ?? 0)
        },
        ended(isComplete) {
          running.delete(measured)
          if (!isComplete) return
          const endedAt = now()
          const last = paceAt(endedAt)
          measured.endedAt = endedAt
          measured.pace = () => last
          complete = [...complete, measured].slice(-remembered)
        },
      }
    },
  }
}

/** The upper one of two in the middle; 0 of none. */
export function medianOf(values: readonly number[]): number {
  return values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)] ?? 0
}

import type { LogPlace } from '../../shared/replication/chain.ts'

/** A clock that may be set, and one that never jumps: milliseconds of each. */
export interface Clocks {
  readonly wall: () => number
  readonly steady: () => number
}

/** Whether all that the primary had said when it was last asked is recorded here. */
export interface Freshness {
  /** Notes when a lease is asked for: it runs from then. */
  ask(): AskedAt
  /** The primary answered: what is recorded counts once it reaches this head. */
  grant(asked: AskedAt, head: LogPlace, lastsMs: number): void
  /** All up to here is recorded. */
  reached(place: LogPlace): void
  /** Whether what is recorded may be answered without asking. */
  isFresh(): boolean
  /** Up to when all is recorded, in epoch ms; undefined while it may not be answered without asking. */
  coveredTo(): number | undefined
  /** Nothing counts before the next lease. */
  end(): void
}

export interface AskedAt {
  readonly wall: number
  readonly steady: number
}

interface Grant {
  readonly asked: AskedAt
  readonly head: LogPlace
  readonly lastsMs: number
}

/** Leases as an edge keeps them. A clock that was set ends one: whichever says so first is believed. */
export function createFreshness({ wall, steady }: Clocks): Freshness {
  let place: LogPlace = { epoch: 0, seq: 0 }
  let waiting: Grant[] = []
  let current: Grant | undefined

  const lasts = ({ asked, lastsMs }: Grant): boolean => {
    const byWall = wall() - asked.wall
    return steady() - asked.steady < lastsMs && byWall < lastsMs && byWall >= 0
  }
  const settle = (): void => {
    for (const grant of waiting) if (isReached(grant.head, place)) current = grant
    waiting = waiting.filter((grant) => !isReached(grant.head, place) && lasts(grant))
  }
  const coveredTo = (): number | undefined =>
    current !== undefined && current.head.epoch === place.epoch && lasts(current)
      ? current.asked.wall
      : undefined
  return {
    ask: () => ({ wall: wall(), steady: steady() }),
    grant(asked, head, lastsMs) {
      waiting.push({ asked, head, lastsMs })
      settle()
    },
    reached(reached) {
      place = reached
      settle()
    },
    isFresh: () => coveredTo() !== undefined,
    coveredTo,
    end() {
      current = undefined
      waiting = []
    },
  }
}

function isReached(head: LogPlace, place: LogPlace): boolean {
  return head.epoch === place.epoch && head.seq <= place.seq
}

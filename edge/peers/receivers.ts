import { createLru } from '../../shared/memory/lru.ts'

/** Who has asked this edge for what lately: they hold it, or are receiving it. */
export interface Receivers {
  /** This edge asks for a blob, or a part of one. */
  asked(what: string, edge: string): void
  /**
   * Whom to ask instead, best first: only who asked before this edge did, so that nobody waits for somebody who waits
   * for him; those that were named least come first, so that each feeds few.
   */
  others(what: string, edge: string): readonly string[]
}

interface Receiver {
  /** When it asked first, among all who want the same. */
  readonly turn: number
  /** How many were sent to it. */
  named: number
}

const maxAsked = 20_000
const rememberedMs = 600_000
const namedAtOnce = 3

export function createReceivers(): Receivers {
  const byWhat = createLru<string, Map<string, Receiver>>({
    max: maxAsked,
    ttl: rememberedMs,
    updateAgeOnGet: true,
  })
  return {
    asked(what, edge) {
      const known = byWhat.get(what) ?? new Map<string, Receiver>()
      byWhat.set(what, known)
      const turn = Math.max(0, ...[...known.values()].map((each) => each.turn)) + 1
      if (!known.has(edge)) known.set(edge, { turn, named: 0 })
    },
    others(what, edge) {
      const known = byWhat.get(what)
      const turn = known?.get(edge)?.turn ?? Infinity
      const earlier = [...(known ?? [])].filter(([, other]) => other.turn < turn)
      const best = earlier
        .sort(([, one], [, other]) => one.named - other.named || one.turn - other.turn)
        .slice(0, namedAtOnce)
      const [first] = best
      if (first !== undefined) first[1].named++
      return best.map(([id]) => id)
    },
  }
}

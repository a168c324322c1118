import { diskBit } from './piece-store.ts'
import type { RankedSource, SourceOrder } from './source-order.ts'

/** What a further round keeps: pieces of which this says true. */
export type NextRound =
  /** What an earlier run left on disk goes; whoever is in the race may bring it. */
  | { readonly kind: 'without-disk' }
  /** Everything that others sent goes, and only this source is asked. `again`: what it sent was wrong, too. */
  | { readonly kind: 'alone'; readonly source: RankedSource; readonly again: boolean }

/** Whom to believe after a mismatch. Bits are those of RankedSource and `diskBit`. */
export interface Trust {
  /** Whether a failure of all sources may be the fault of a choice that was made before. */
  mayStartOver(): boolean
  /**
   * What to try next: first without what an earlier run left, then each source alone, the origin before the
   * others; a single source gets a second chance.
   * @param wrong who sent what turned out wrong; 0 when the round did not reach its end
   * @returns undefined when nothing is left to try
   */
  next(wrong: number): NextRound | undefined
  /** The source that sent all of it, if one did: it lied. */
  soleSender(mask: number): RankedSource | undefined
}

export function createTrust(order: SourceOrder, sizeIsTrusted: boolean): Trust {
  const triedAlone: RankedSource[] = []
  let diskTried = false

  const soleSender = (mask: number) => order.all.find(({ bit }) => bit === mask)

  function nextAlone(wrong: number): RankedSource | undefined {
    const usable = order.all.filter(({ failure }) => !isFinal(failure?.code))
    const fresh = usable.toReversed().find((source) => !triedAlone.includes(source))
    if (fresh !== undefined || usable.length > 1) return fresh
    const [only] = usable
    const tries = triedAlone.filter((source) => source === only).length
    return wrong !== 0 && tries < 2 ? only : undefined
  }

  return {
    soleSender,
    mayStartOver() {
      const disputed = order.all.some(({ disputesSize }) => disputesSize)
      return triedAlone.length > 0 || (disputed && !sizeIsTrusted)
    },
    next(wrong) {
      if ((wrong & diskBit) !== 0 && !diskTried) {
        diskTried = true
        return { kind: 'without-disk' }
      }
      const sole = soleSender(wrong)
      if (sole !== undefined && !triedAlone.includes(sole)) triedAlone.push(sole)
      const source = nextAlone(wrong)
      if (source === undefined) return undefined
      triedAlone.push(source)
      return { kind: 'alone', source, again: source === sole }
    },
  }
}

/** A source that has nothing to offer, whoever else may be wrong. */
function isFinal(code: string | undefined): boolean {
  return code === 'absent' || code === 'refused'
}

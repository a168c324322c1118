import type { Digest } from '../../shared/oci/digest.ts'
import type { PreheatFact } from '../../shared/replication/events.ts'
import type { PreheatReport } from '../../shared/replication/lease.ts'
import type { KnownRule } from '../cache/statement-records.ts'
import type { Selection } from '../cache/statements.ts'

/** A preheat, and the rule that it is like as long as it lasts. */
export interface KnownPreheat extends PreheatFact {
  readonly rule: KnownRule
}

/** How far the work for a preheat is. */
interface PreheatWork {
  readonly reason: string
  readonly missing: ReadonlyMap<Digest, number> | undefined
}

/** Digests that are told of in one report, and preheats. */
const maxMissing = 1000
const maxReported = 100

/** The preheats that are for this edge and not over. */
export function createPreheats({
  now,
  onOver,
}: {
  /** Epoch ms. */
  readonly now: () => number
  /** Told when one is over. */
  readonly onOver: () => void
}) {
  let known: readonly KnownPreheat[] = []
  const held = new Set<number>()
  let timer: NodeJS.Timeout | undefined
  return {
    /** @returns those that are not over */
    set(all: readonly PreheatFact[]): readonly KnownPreheat[] {
      clearTimeout(timer)
      const time = now()
      known = all
        .filter(({ until }) => until > time)
        .map((preheat) => ({ ...preheat, rule: ruleOf(preheat) }))
      const ids = new Set(known.map(({ preheatId }) => preheatId))
      for (const id of held) if (!ids.has(id)) held.delete(id)
      const next = Math.min(...known.map(({ until }) => until))
      if (next !== Infinity) timer = setTimeout(onOver, next - time + 1).unref()
      return known
    },
    isHeld: (preheatId: number): boolean => held.has(preheatId),
    /** @param ruleId of its selection */
    markHeld: (ruleId: number): void => void held.add(-ruleId),
    report(workOf: (key: string) => PreheatWork | undefined): readonly PreheatReport[] {
      let left = maxMissing
      return known.slice(-maxReported).map((preheat) => {
        const { preheatId: id } = preheat
        const work = workOf(keyOf(selectionOf(preheat, { seq: 0, isHeld: false })))
        const missing = work?.missing === undefined ? undefined : [...work.missing.keys()]
        const isTold = missing !== undefined && missing.length <= left
        if (isTold) left -= missing.length
        const reason = (work?.reason ?? '').slice(0, 256)
        return { id, isHeld: held.has(id), reason, ...(isTold && { missing }) }
      })
    },
    close: () => clearTimeout(timer),
  }
}

/** What names a selection. */
export function keyOf({
  ruleId,
  repositoryId,
  digest,
}: Pick<Selection, 'ruleId' | 'repositoryId' | 'digest'>): string {
  return `${ruleId}!${repositoryId}!${digest}`
}

/** Rules have numbers from 1 on; a preheat goes for one below 0. */
export function isPreheat({ ruleId }: Pick<Selection, 'ruleId'>): boolean {
  return ruleId < 0
}

/** What a preheat brings, as if a rule had selected it. */
export function selectionOf(
  { preheatId, projectId, repositoryId, digest }: PreheatFact,
  { seq, isHeld }: Pick<Selection, 'seq' | 'isHeld'>,
): Selection {
  const isDemoted = false
  return { ruleId: -preheatId, projectId, repositoryId, digest, seq, isHeld, isDemoted }
}

function ruleOf({ preheatId, platforms }: PreheatFact): KnownRule {
  return {
    ruleId: -preheatId,
    name: `preheat ${preheatId}`,
    enabled: true,
    selector: {},
    serve: 'latest',
    platforms,
  }
}

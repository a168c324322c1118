import { hash } from 'node:crypto'
import { parseDigest } from '../oci/digest.ts'
import { createHomes } from './home.ts'
import type { Band, Candidate, Nearness } from './nearness.ts'

export interface NearestOptions {
  readonly nearness: Pick<Nearness, 'order' | 'near'>
  /** What tells this machine from others: machines with the same edges about as near share them evenly. */
  readonly machine: string
  /** How many are chosen. */
  readonly most: number
}

/** Who was chosen once stays within this: what is measured is never twice the same. */
const loose: Band = { factor: 2, ms: 3 }

/**
 * Whom a machine pulls through: of those about as near as the nearest one by its name, so that not all take the nearest;
 * then the next. Whoever was chosen stays while nobody is much nearer.
 * @param before who was chosen last, in their order
 * @returns the ids of the chosen, first to last
 */
export function chooseNearest(
  candidates: readonly Candidate[],
  before: readonly string[],
  { nearness, machine, most }: NearestOptions,
): readonly string[] {
  const digest = parseDigest(`sha256:${hash('sha256', machine)}`)
  const chosen: string[] = []
  let left = candidates
  while (chosen.length < most && left.length > 0) {
    const near = new Set(nearness.near(left, loose).map(({ id }) => id))
    const next =
      before.find((id) => near.has(id)) ??
      createHomes(nearness.near(left)).home({ digest })?.id ??
      ''
    chosen.push(next)
    left = left.filter(({ id }) => id !== next)
  }
  return chosen
}

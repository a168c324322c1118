import { covers } from '../../shared/replication/events.ts'
import { leaseMs } from '../../shared/replication/lease.ts'
import type { Preheat, PreheatEnd, PreheatingEdge } from '../store/preheats.ts'
import type { PreheatOutcome } from '../store/schema.ts'

/** As long without a word is away. */
const awayMs = 3 * leaseMs

/** How a preheat stands at an edge. */
export interface EdgeStanding extends PreheatOutcome {
  /** Whether that may still change by itself. */
  readonly isOver: boolean
}

/**
 * How a preheat stands at one of its edges.
 * @param edge undefined: it is gone
 * @param now epoch ms
 */
export function standingOf(
  { id, projectId }: Pick<Preheat, 'id' | 'projectId'>,
  edge: PreheatingEdge | undefined,
  now: number,
): EdgeStanding {
  const lacking = (reason: string, isOver = false) => ({ isHeld: false, isOver, reason })
  if (edge === undefined) return lacking('the edge was revoked', true)
  const { scope, suspended, seenAt, reports } = edge
  if (!covers(scope, projectId)) return lacking("the project is not in the edge's scope", true)
  const report = reports?.find((one) => one.id === id)
  if (report?.isHeld === true) return { isHeld: true, isOver: true, reason: '', missing: [] }
  const missing = report?.missing === undefined ? {} : { missing: report.missing }
  return { ...lacking(reasonOf()), ...missing }

  function reasonOf(): string {
    if (suspended) return 'the edge is suspended'
    if (seenAt === undefined) return 'the edge was never heard of'
    if (now - seenAt.getTime() > awayMs)
      return `the edge is away: it was last heard of at ${seenAt.toISOString()}`
    if (reports === undefined) return 'the edge is too old to preheat'
    if (report === undefined) return 'the edge has not heard of it yet'
    return report.reason === '' ? 'it is on its way' : report.reason
  }
}

/**
 * How a preheat ends; undefined while it goes on. It is over when each edge holds all of it, when nothing can change
 * any more, or at its deadline.
 * @param now epoch ms
 */
export function endOf(
  { deadline }: Pick<Preheat, 'deadline'>,
  standings: readonly EdgeStanding[],
  now: number,
): PreheatEnd | undefined {
  if (now < deadline.getTime() && standings.some(({ isOver }) => !isOver)) return undefined
  const status = standings.every(({ isHeld }) => isHeld) ? 'Succeed' : 'Failed'
  return { status, outcome: outcomeOf(standings) }
}

/** What is written down of how it stands. */
export function outcomeOf(standings: readonly EdgeStanding[]): readonly PreheatOutcome[] {
  return standings.map(({ isOver: _, ...outcome }) => outcome)
}

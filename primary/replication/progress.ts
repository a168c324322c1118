import type { LogPlace } from '../../shared/replication/chain.ts'
import { eventsBetween } from '../edges/status.ts'
import type { Execution, TaskCounts, TaskRow } from '../store/executions.ts'
import type { RosterMember } from '../store/roster.ts'

/** How an execution stands at one edge. */
export interface TaskProgress {
  readonly edge: RosterMember
  readonly status: 'InProgress' | 'Succeed' | 'Failed' | 'Stopped'
  readonly reason: string
  readonly endedAt: Date | undefined
  /** Events from what it holds to the end of the execution; undefined before that is known. */
  readonly lagEvents: number | undefined
}

/** Which execution brought last what edges could not get, by `ruleId repositoryId digest`. */
export type BroughtBy = ReadonlyMap<string, number>

/** What tells how an execution stands at its edges. */
export interface Standing {
  /** What was written of tasks, by edge number. */
  readonly rows: ReadonlyMap<number, TaskRow>
  readonly broughtBy: BroughtBy
}

/** Whether an edge has a task in an execution: it was there, and may read some of what it brought. */
export function hasTask(
  { startedAt, projectIds }: Execution,
  { createdAt, scope }: RosterMember,
): boolean {
  return createdAt <= startedAt && (scope === '*' || projectIds.some((id) => scope.includes(id)))
}

/** How an execution stands at an edge that has a task in it. */
export function taskStatusOf(
  execution: Execution,
  edge: RosterMember,
  { rows, broughtBy }: Standing,
): TaskProgress['status'] {
  const row = rows.get(edge.number)
  if (row !== undefined) return row.status
  if (execution.status !== 'InProgress') return 'Succeed'
  if (lagOf(execution.place, edge.state?.held) !== 0) return 'InProgress'
  return failureOf(execution, edge, broughtBy) === undefined ? 'Succeed' : 'Failed'
}

/** The same, with what is shown of it. */
export function progressOf(
  execution: Execution,
  edge: RosterMember,
  standing: Standing,
): TaskProgress {
  const status = taskStatusOf(execution, edge, standing)
  const row = standing.rows.get(edge.number)
  const failure = status === 'Failed' ? failureOf(execution, edge, standing.broughtBy) : undefined
  const hasEnded = status !== 'InProgress'
  return {
    edge,
    status,
    reason: row?.reason ?? (failure === undefined ? '' : `${failure.digest}: ${failure.reason}`),
    endedAt: hasEnded ? (row?.endedAt ?? execution.endedAt ?? edge.state?.seenAt) : undefined,
    lagEvents: hasEnded ? 0 : lagOf(execution.place, edge.state?.held),
  }
}

/** How many tasks stand how. An execution may have one for each of ten thousand edges: nothing is made for any. */
export function countTasks(
  execution: Execution,
  members: readonly RosterMember[],
  standing: Standing,
): TaskCounts {
  const counts = { total: 0, succeeded: 0, failed: 0, stopped: 0 }
  for (const edge of members) {
    if (!hasTask(execution, edge)) continue
    counts.total++
    const status = taskStatusOf(execution, edge, standing)
    if (status === 'Succeed') counts.succeeded++
    else if (status === 'Failed') counts.failed++
    else if (status === 'Stopped') counts.stopped++
  }
  return counts
}

/** Edges in the order of how far they have come, the last first. */
export function byProgress(one: RosterMember, other: RosterMember): number {
  const [a, b] = [one.state?.held, other.state?.held]
  return (a?.epoch ?? 0) - (b?.epoch ?? 0) || (a?.seq ?? -1) - (b?.seq ?? -1)
}

function failureOf({ id, policyId }: Execution, { state }: RosterMember, broughtBy: BroughtBy) {
  return state?.failures.find(
    ({ ruleId, repositoryId, digest }) =>
      ruleId === policyId && broughtBy.get(`${ruleId} ${repositoryId} ${digest}`) === id,
  )
}

/** How an execution stands by its tasks; one that nobody has worked out, or whose facts have no number, runs. */
export function statusOf(execution: Execution, counts: TaskCounts): Execution['status'] {
  const { status, place } = execution
  if (status !== 'InProgress') return status
  const { total, succeeded, failed, stopped } = counts
  if (place === undefined || succeeded + failed + stopped < total) return 'InProgress'
  if (failed > 0) return 'Failed'
  return stopped > 0 ? 'Stopped' : 'Succeed'
}

/** Undefined before it is known where the execution ends; an edge that was never heard of has everything before it. */
function lagOf(place: LogPlace | undefined, held: LogPlace | undefined): number | undefined {
  if (place === undefined) return undefined
  return held === undefined ? place.seq : eventsBetween(held, place)
}

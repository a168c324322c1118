import { ApiError } from '../../shared/api/errors.ts'
import type { Jobs } from '../jobs/jobs.ts'
import type { Deed } from '../store/audit.ts'
import type { Execution, ExecutionEnd, Executions, LogLine } from '../store/executions.ts'
import type { Policies } from '../store/policies.ts'
import type { Registries } from '../store/registries.ts'
import type { Roster, RosterMember } from '../store/roster.ts'
import type { PlannerOf } from '../store/rule-planner.ts'
import type { Selections } from '../store/selections.ts'
import { membersOf } from './edge-group.ts'
import { createPlanner } from './plan.ts'
import {
  byProgress,
  countTasks,
  hasTask,
  progressOf,
  statusOf,
  taskStatusOf,
  type Standing,
  type TaskProgress,
} from './progress.ts'

export interface ExecutionDeps {
  readonly executions: Executions
  readonly selections: Selections
  readonly policies: Pick<Policies, 'get' | 'getAll'>
  readonly registries: Pick<Registries, 'get' | 'getAll'>
  readonly roster: Roster
  readonly jobs: Pick<Jobs, 'send' | 'work'>
  readonly plannerOf: PlannerOf
  /** Called when blobs are to be listed piece by piece for what a run brings. */
  readonly onListsWanted: () => void
  /** Epoch ms. */
  readonly now: () => number
}

/** What a run would change, and where. */
export interface DryRun {
  readonly artifacts: readonly DryRunArtifact[]
  /** Of all, also of those that are not listed. */
  readonly total: number
  readonly skipped: readonly string[]
  readonly edges: readonly {
    readonly edge: RosterMember
    readonly artifacts: number
    readonly bytes: number
  }[]
}

export interface DryRunArtifact {
  readonly repository: string
  readonly digest: string
  readonly tags: readonly string[]
  /** Bytes, with all that it names. */
  readonly size: number
  /** `new` comes, `selected` is there already or on its way, `removed` goes. */
  readonly state: 'new' | 'selected' | 'removed'
}

/** Artifacts that a dry run lists. */
const maxListed = 1000
/** A run that waits for so long has lost its job. Milliseconds. */
const lostAfterMs = 10_000

export type ExecutionService = ReturnType<typeof createExecutionService>

/** What rules did, and do now, at each edge. */
export function createExecutionService(deps: ExecutionDeps) {
  const { executions, selections, policies, registries, roster, jobs, plannerOf } = deps
  const { onListsWanted, now } = deps

  /** What tells how executions of these rules stand. */
  async function look(policyIds: readonly number[]) {
    const edges = [...(await roster.list())].sort(byProgress)
    const known = await policies.getAll([...new Set(policyIds)])
    const groups = await registries.getAll([
      ...new Set([...known.values()].map(({ registryId }) => registryId)),
    ])
    const failures = edges.flatMap(({ state }) => state?.failures ?? [])
    const broughtBy = await selections.broughtBy(failures)
    const members = new Map<number, readonly RosterMember[]>()
    return {
      broughtBy,
      /** The edges of an execution's rule, those that are furthest behind first. */
      membersOf({ policyId }: Execution): readonly RosterMember[] {
        const registry = groups.get(known.get(policyId)?.registryId ?? 0)
        if (registry === undefined) return []
        const found = members.get(registry.id) ?? membersOf(registry.selector, edges)
        members.set(registry.id, found)
        return found
      },
    }
  }

  /** Runs that have not ended, with how they stand now. */
  async function lookAt(some: readonly Execution[]): Promise<readonly Execution[]> {
    if (some.every(({ status }) => status !== 'InProgress')) return some
    const seen = await look(some.map(({ policyId }) => policyId))
    const standing = { rows: noRows, broughtBy: seen.broughtBy }
    return some.map((execution) => {
      if (execution.status !== 'InProgress') return execution
      const counts = countTasks(execution, seen.membersOf(execution), standing)
      return { ...execution, counts, status: statusOf(execution, counts) }
    })
  }

  /** How an execution is to end when it is stopped now. */
  async function stopTasks(execution: Execution): Promise<ExecutionEnd> {
    const seen = await look([execution.policyId])
    const members = seen.membersOf(execution)
    const standing = { rows: noRows, broughtBy: seen.broughtBy }
    const { total, succeeded, failed } = countTasks(execution, members, standing)
    const counts = { total, succeeded, failed, stopped: total - succeeded - failed }
    return { status: 'Stopped', counts, tasks: rowsOf(execution, members, standing) }
  }

  return {
    lookAt,

    /** @throws ApiError NOT_FOUND */
    async get(id: number): Promise<Execution> {
      const execution = await executions.get(id)
      const [shown] = execution === undefined ? [] : await lookAt([execution])
      if (shown === undefined) throw noSuchExecution()
      return shown
    },

    /** The tasks of an execution, by edge number. @throws ApiError NOT_FOUND */
    async tasks(id: number): Promise<{
      readonly execution: Execution
      readonly tasks: readonly TaskProgress[]
    }> {
      const execution = await executions.get(id)
      if (execution === undefined) throw noSuchExecution()
      const seen = await look([execution.policyId])
      const rows = new Map((await executions.tasks(id)).map((row) => [row.number, row]))
      const standing = { rows, broughtBy: seen.broughtBy }
      const tasks = seen
        .membersOf(execution)
        .filter((edge) => hasTask(execution, edge))
        .map((edge) => progressOf(execution, edge, standing))
        .sort((one, other) => one.edge.number - other.edge.number)
      return { execution, tasks }
    },

    log: (id: number, number: number): Promise<readonly LogLine[]> => executions.log(id, number),

    /**
     * Starts a run of a rule.
     * @returns its id
     * @throws ApiError NOT_FOUND, PRECONDITION
     */
    async start(policyId: number, deed: Deed): Promise<number> {
      const { id, waits } = await executions.start(policyId, deed)
      // Should this fail, `settle` sends it again.
      if (waits) await jobs.send('replication.run', { executionId: id }, String(id))
      return id
    },

    /** What a run would do; nothing is written. @throws ApiError NOT_FOUND */
    async dryRun(policyId: number): Promise<DryRun> {
      const policy = await policies.get(policyId)
      const registry = policy && (await registries.get(policy.registryId))
      if (policy === undefined || registry === undefined) throw noSuchRule()
      const members = membersOf(registry.selector, await roster.list())
      const sums = members.map((edge) => ({ edge, artifacts: 0, bytes: 0 }))
      const artifacts: DryRunArtifact[] = []
      const skipped: string[] = []
      let total = 0
      const found = selections.preview(policy, createPlanner(policy), new Date(now()))
      for await (const repository of found) {
        const { content } = repository
        const rows = previewRows(repository)
        total += rows.length
        artifacts.push(...rows.slice(0, maxListed - artifacts.length))
        skipped.push(...repository.skipped.slice(0, maxListed - skipped.length))
        const coming = rows.filter(({ state }) => state === 'new')
        for (const sum of sums) {
          const { scope } = sum.edge
          if (scope !== '*' && !scope.includes(content.projectId)) continue
          sum.artifacts += coming.length
          sum.bytes += coming.reduce((bytes, { size }) => bytes + size, 0)
        }
      }
      return { artifacts, total, skipped, edges: sums }
    },

    /** Stops an execution; one that has ended stays as it is. @throws ApiError NOT_FOUND */
    async stop(id: number, deed: Deed): Promise<void> {
      const execution = await executions.get(id)
      const end = execution && (await stopTasks(execution))
      if (end === undefined || !(await selections.stop(id, end, deed))) throw noSuchExecution()
    },

    /** Ends the executions of a rule that was disabled; what it selects is kept for when it is enabled. */
    async endOf(policyId: number): Promise<void> {
      for (const execution of await executions.running(policyId)) {
        const end = { ...(await stopTasks(execution)), statusText: 'the rule was disabled' }
        await executions.end(execution.id, end, new Date(now()))
      }
    },

    /** Gives those whose facts have been numbered their place in the log. */
    place: (): Promise<void> => executions.place(),

    /** Writes down how those have ended that have. Call it now and again. */
    async settle(policyId?: number): Promise<void> {
      await executions.place()
      const running = await executions.running(policyId)
      if (running.length === 0) return
      const seen = await look(running.map((execution) => execution.policyId))
      const standing = { rows: noRows, broughtBy: seen.broughtBy }
      for (const execution of running) {
        const members = seen.membersOf(execution)
        // Who is furthest behind is first: an edge that is away for weeks is not a reason to count thousands.
        const isRunning = (edge: RosterMember) =>
          hasTask(execution, edge) && taskStatusOf(execution, edge, standing) === 'InProgress'
        if (execution.place === undefined || members.some(isRunning)) continue
        const counts = countTasks(execution, members, standing)
        const status = statusOf(execution, counts)
        if (status === 'InProgress') continue
        const end = { status, counts, tasks: rowsOf(execution, members, standing) }
        await executions.end(execution.id, end, new Date(now()))
      }
    },

    /** Sends the jobs again that were lost: a primary may die between a run and its job. */
    async sendLost(): Promise<void> {
      for (const id of await executions.waitingSince(new Date(now() - lostAfterMs))) {
        await jobs.send('replication.run', { executionId: id }, String(id))
      }
    },

    /** Takes runs that were started by hand, until the jobs are stopped. */
    work(): Promise<void> {
      return jobs.work('replication.run', async ({ executionId }) => {
        if (await selections.run(executionId, plannerOf, new Date(now()))) onListsWanted()
      })
    },
  }
}

const noRows: Standing['rows'] = new Map()

/** What is written of the tasks of an execution that ends now: who is not done is stopped. */
function rowsOf(
  execution: Execution,
  members: readonly RosterMember[],
  standing: Standing,
): ExecutionEnd['tasks'] {
  return members
    .filter((edge) => hasTask(execution, edge))
    .map((edge) => progressOf(execution, edge, standing))
    .filter(({ status }) => status !== 'Succeed')
    .map(({ edge, status, reason }) => ({
      number: edge.number,
      status: status === 'Failed' ? status : 'Stopped',
      reason,
    }))
}

function previewRows({
  content,
  wanted,
  current,
}: {
  readonly content: {
    readonly name: string
    readonly manifests: ReadonlyMap<string, { readonly size: number }>
  }
  readonly wanted: readonly { readonly digest: string; readonly tags: readonly string[] }[]
  readonly current: readonly {
    readonly digest: string
    readonly tags: readonly string[]
    readonly stopped: boolean
  }[]
}): readonly DryRunArtifact[] {
  const held = new Set(current.filter(({ stopped }) => !stopped).map(({ digest }) => digest))
  const isWanted = new Set(wanted.map(({ digest }) => digest))
  const row = (
    { digest, tags }: { readonly digest: string; readonly tags: readonly string[] },
    state: DryRunArtifact['state'],
  ): DryRunArtifact => {
    const size = content.manifests.get(digest)?.size ?? 0
    return { repository: content.name, digest, tags, size, state }
  }
  return [
    ...wanted.map((one) => row(one, held.has(one.digest) ? 'selected' : 'new')),
    ...current
      .filter(({ digest, stopped }) => !stopped && !isWanted.has(digest))
      .map((one) => row(one, 'removed')),
  ]
}

function noSuchExecution(): ApiError {
  return new ApiError('NOT_FOUND', 'there is no such execution')
}

function noSuchRule(): ApiError {
  return new ApiError('NOT_FOUND', 'there is no such rule')
}

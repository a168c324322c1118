import { ApiError } from '../../shared/api/errors.ts'
import { listParameters, never, text, timestamp } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import type { Filter } from '../../shared/api/query.ts'
import { Type } from '../../shared/schema/type.ts'
import { apiPrefix, type AdminApi } from '../accounts/admin-api.ts'
import type { Admitted } from '../accounts/guard.ts'
import { executionFields, type Execution, type Executions } from '../store/executions.ts'
import type { DryRun, ExecutionService } from './executions.ts'
import { pickTasks, showTask, stateLine, taskFields, taskIdOf, taskModel } from './task-model.ts'

export interface ExecutionRouteDeps {
  readonly executions: ExecutionService
  readonly executionList: Pick<Executions, 'list'>
  /** Epoch ms. */
  readonly now: () => number
}

const tag = 'replication'
const byId = Type.Object({ id: text(20) })
const executionModel = Type.Object({
  id: Type.Integer(),
  policy_id: Type.Integer(),
  status: Type.String({ description: '`InProgress`, `Succeed`, `Failed` or `Stopped`' }),
  trigger: Type.String(),
  start_time: timestamp,
  end_time: timestamp,
  status_text: Type.String(),
  total: Type.Integer({ description: 'Tasks: one for each edge.' }),
  failed: Type.Integer(),
  succeed: Type.Integer(),
  in_progress: Type.Integer(),
  stopped: Type.Integer(),
})

const dryRunModel = Type.Object({
  policy_id: Type.Integer(),
  total: Type.Integer({ description: 'Artifacts; at most 1000 are listed.' }),
  artifacts: Type.Array(
    Type.Object({
      repository: Type.String(),
      digest: Type.String(),
      tags: Type.Array(Type.String()),
      size: Type.Integer({ description: 'Bytes, with all that it names.' }),
      state: Type.String({ description: '`new`, `selected` or `removed`' }),
    }),
  ),
  skipped: Type.Array(Type.String()),
  edges: Type.Array(
    Type.Object({
      id: Type.String(),
      name: Type.String(),
      site: Type.String(),
      region: Type.String(),
      artifacts: Type.Integer({ description: 'New ones, of the projects that it may read.' }),
      bytes: Type.Integer({ description: 'Of them, at most: it fetches what it lacks.' }),
    }),
  ),
})

/** What rules did: `/replication/executions`. [harbor api/v2.0/swagger.yaml, replication] */
export function executionRoutes(api: AdminApi, deps: ExecutionRouteDeps): void {
  const { executions, executionList, now } = deps
  const deedOf = ({ actor }: Admitted) => ({ actor, now: new Date(now()) })

  api.route({
    method: 'GET',
    path: '/replication/executions',
    tag,
    summary: 'List what replication rules did',
    permission: { of: 'system', permission: 'replication:list' },
    query: Type.Object({
      ...listParameters,
      policy_id: Type.Optional(Type.Integer()),
      status: Type.Optional(text(32)),
      trigger: Type.Optional(text(32)),
    }),
    responses: { 200: Type.Array(executionModel) },
    handle: async ({ query, url }) => {
      const listing = parseListing(query, executionFields)
      const filters = [
        ...listing.filters,
        ...exact('vendor_id', query.policy_id),
        ...exact('status', query.status),
        ...exact('trigger', query.trigger),
      ]
      // Status is filtered by what is written down.
      const byStatus = filters.some(({ column }) => column === 'status')
      if (byStatus) await executions.settle()
      const { rows, total } = await executionList.list({ ...listing, filters })
      const shown = (await executions.lookAt(rows)).map(showExecution)
      return listAnswer(shown, { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'POST',
    path: '/replication/executions',
    tag,
    summary: 'Run a replication rule, or see what a run would do (dry_run)',
    permission: { of: 'system', permission: 'replication:create' },
    body: Type.Object({ policy_id: Type.Integer(), dry_run: Type.Optional(Type.Boolean()) }),
    responses: { 200: dryRunModel, 201: undefined },
    handle: async ({ body, admitted }) => {
      const policyId = body.policy_id
      if (policyId < 1 || policyId > 2_147_483_647) {
        throw new ApiError('NOT_FOUND', 'there is no such rule')
      }
      if (body.dry_run === true) {
        return { status: 200, body: showDryRun(policyId, await executions.dryRun(policyId)) }
      }
      const id = await executions.start(policyId, deedOf(admitted))
      return { status: 201, headers: { Location: `${apiPrefix}/replication/executions/${id}` } }
    },
  })

  api.route({
    method: 'GET',
    path: '/replication/executions/:id',
    tag,
    summary: 'Get an execution',
    permission: { of: 'system', permission: 'replication:read' },
    params: byId,
    responses: { 200: executionModel },
    handle: async ({ params }) => ({
      status: 200,
      body: showExecution(await executions.get(readId(params.id))),
    }),
  })

  api.route({
    method: 'PUT',
    path: '/replication/executions/:id',
    tag,
    summary: 'Stop an execution: what it brought is taken back from the edges',
    permission: { of: 'system', permission: 'replication:create' },
    params: byId,
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      await executions.stop(readId(params.id), deedOf(admitted))
      return { status: 200 }
    },
  })

  api.route({
    method: 'GET',
    path: '/replication/executions/:id/tasks',
    tag,
    summary: 'List the tasks of an execution: one for each edge',
    permission: { of: 'system', permission: 'replication:list' },
    params: byId,
    query: Type.Object({
      ...listParameters,
      status: Type.Optional(text(32)),
      resource_type: Type.Optional(text(32)),
    }),
    responses: { 200: Type.Array(taskModel) },
    handle: async ({ params, query, url }) => {
      const listing = parseListing(query, taskFields)
      const { execution, tasks } = await executions.tasks(readId(params.id))
      const filters = [
        ...listing.filters,
        ...exact('status', query.status),
        ...exact('resource_type', query.resource_type),
      ]
      const shown = pickTasks(
        tasks.map((task) => showTask(task, execution, now())),
        { ...listing, filters },
      )
      const { page } = listing
      const rows = shown.slice(page.offset, page.offset + page.size)
      return listAnswer(rows, { url, page, total: shown.length })
    },
  })

  api.route({
    method: 'GET',
    path: '/replication/executions/:id/tasks/:task_id/log',
    tag,
    summary: "Get a task's log, as text",
    permission: { of: 'system', permission: 'replication:read' },
    params: Type.Object({ id: text(20), task_id: text(20) }),
    responses: { 200: Type.String() },
    handle: async ({ params }) => {
      const id = readId(params.id)
      const { execution, tasks } = await executions.tasks(id)
      const taskId = readId(params.task_id)
      const task = tasks.find(({ edge }) => taskIdOf(execution, edge) === taskId)
      if (task === undefined) throw new ApiError('NOT_FOUND', 'there is no such task')
      const lines = await executions.log(id, task.edge.number)
      return {
        status: 200,
        headers: { 'Content-Type': 'text/plain; charset=utf-8' },
        body: [
          ...lines.map(({ at, line }) => `${at.toISOString()} ${line}`),
          `${new Date(now()).toISOString()} ${stateLine(task, execution)}`,
          '',
        ].join('\n'),
      }
    },
  })
}

function exact(column: string, value: string | number | undefined): readonly Filter[] {
  return value === undefined || value === '' ? [] : [{ kind: 'exact', column, value }]
}

/** Ids of executions and tasks are larger than others. @throws ApiError NOT_FOUND for what none can have */
function readId(given: string): number {
  const id = /^[0-9]{1,16}$/.test(given) ? Number(given) : 0
  if (id >= 1 && Number.isSafeInteger(id)) return id
  throw new ApiError('NOT_FOUND', 'there is no such execution')
}

function showExecution(execution: Execution) {
  const { total, failed, succeeded, stopped } = execution.counts
  return {
    id: execution.id,
    policy_id: execution.policyId,
    status: execution.status,
    trigger: execution.trigger,
    start_time: execution.startedAt.toISOString(),
    end_time: execution.endedAt?.toISOString() ?? never,
    status_text: execution.statusText,
    total,
    failed,
    succeed: succeeded,
    in_progress: total - failed - succeeded - stopped,
    stopped,
  }
}

function showDryRun(policyId: number, { artifacts, total, skipped, edges }: DryRun) {
  return {
    policy_id: policyId,
    total,
    artifacts,
    skipped,
    edges: edges.map(({ edge, ...sums }) => ({
      id: edge.edgeId,
      name: edge.name,
      site: edge.site,
      region: edge.region,
      ...sums,
    })),
  }
}

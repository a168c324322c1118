import { never, timestamp } from '../../shared/api/fields.ts'
import type { Listing } from '../../shared/api/listing.ts'
import type { Fields, Filter } from '../../shared/api/query.ts'
import { Type } from '../../shared/schema/type.ts'
import type { Execution } from '../store/executions.ts'
import type { TaskProgress } from './progress.ts'

/** Edges' numbers are below: a task's id is its execution's, with the edge's number after it. */
const edgeNumbers = 2 ** 20

/** A task as the API shows it. [harbor api/v2.0/swagger.yaml, ReplicationTask] */
export const taskModel = Type.Object({
  id: Type.Integer(),
  execution_id: Type.Integer(),
  status: Type.String(),
  status_text: Type.String({ description: 'Why it failed.' }),
  job_id: Type.String(),
  operation: Type.String(),
  resource_type: Type.String(),
  src_resource: Type.String(),
  dst_resource: Type.String(),
  start_time: timestamp,
  end_time: timestamp,
  edge: Type.Object({ id: Type.String(), name: Type.String() }),
  lag_events: Type.Integer({
    description: 'Of the log, from what the edge holds to what this is.',
  }),
  lag_seconds: Type.Integer({ description: 'Since it was worked out, until the edge holds it.' }),
  waiting_bytes: Type.Integer({ description: 'All that the edge has still to fetch.' }),
})

/** What tasks may be filtered and sorted by. */
export const taskFields: Fields = {
  id: { column: 'id', type: 'integer' },
  status: { column: 'status', type: 'text' },
  resource_type: { column: 'resource_type', type: 'text' },
  edge: { column: 'edge', type: 'text' },
}

/** The id of an edge's task in an execution: the same at each request. */
export function taskIdOf(execution: Execution, edge: TaskProgress['edge']): number {
  return execution.id * edgeNumbers + edge.number
}

type ShownTask = ReturnType<typeof showTask>

/** A task in the form of `taskModel`. @param now epoch ms */
export function showTask(task: TaskProgress, execution: Execution, now: number) {
  const { edge, status, reason, endedAt, lagEvents } = task
  const id = taskIdOf(execution, edge)
  const isRunning = status === 'InProgress'
  const items = `${execution.selected + execution.unselected} item(s) in total`
  return {
    id,
    execution_id: execution.id,
    status,
    status_text: reason,
    job_id: String(id),
    operation: 'copy',
    resource_type: 'image',
    src_resource: `[${items}]`,
    dst_resource: `${edge.name} [${items}]`,
    start_time: execution.startedAt.toISOString(),
    end_time: endedAt?.toISOString() ?? never,
    edge: { id: edge.edgeId, name: edge.name },
    lag_events: isRunning ? (lagEvents ?? 0) : 0,
    lag_seconds: isRunning
      ? Math.max(
          0,
          Math.round((now - (execution.decidedAt ?? execution.startedAt).getTime()) / 1000),
        )
      : 0,
    waiting_bytes: isRunning ? (edge.state?.waitingBytes ?? 0) : 0,
  }
}

/** Filters and sorts what no table has. */
export function pickTasks(tasks: readonly ShownTask[], { filters, sorts }: Omit<Listing, 'page'>) {
  const valueOf = (task: ShownTask, column: string): string | number => {
    if (column === 'edge') return task.edge.name
    return column === 'id' ? task.id : column === 'status' ? task.status : task.resource_type
  }
  const passes = (value: string | number, filter: Filter): boolean => {
    switch (filter.kind) {
      case 'exact':
        return value === filter.value
      case 'fuzzy':
        return String(value).toLowerCase().includes(filter.value.toLowerCase())
      case 'any':
        return filter.values.includes(value)
      case 'all':
        return filter.values.every((wanted) => wanted === value)
      case 'range':
        return (
          (filter.min === undefined || value >= filter.min) &&
          (filter.max === undefined || value <= filter.max)
        )
    }
  }
  return tasks
    .filter((task) => filters.every((filter) => passes(valueOf(task, filter.column), filter)))
    .sort((one, other) => {
      for (const { column, descending } of sorts) {
        const [a, b] = [valueOf(one, column), valueOf(other, column)]
        if (a !== b) return a < b === descending ? 1 : -1
      }
      return one.id - other.id
    })
}

/** How a task stands now, as its log says it. */
export function stateLine({ edge, status, reason, lagEvents }: TaskProgress, execution: Execution) {
  switch (status) {
    case 'Succeed':
      return `${edge.name} holds all of it`
    case 'Failed':
      return `${edge.name} could not get ${reason}`
    case 'Stopped':
      return `${edge.name} had not got all of it when it was stopped`
    case 'InProgress':
      if (execution.place === undefined) return 'it is being worked out'
      if (edge.state === undefined) return `${edge.name} has not been heard of yet`
      return `${edge.name} is ${lagEvents ?? 0} events behind, with ${edge.state.waitingBytes} bytes to fetch; it was heard of at ${edge.state.seenAt.toISOString()}`
  }
}

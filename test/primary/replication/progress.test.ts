import assert from 'node:assert/strict'
import { test } from 'node:test'
import {
  byProgress,
  countTasks,
  hasTask,
  progressOf,
  statusOf,
} from '../../../primary/replication/progress.ts'
import type { Execution, TaskRow } from '../../../primary/store/executions.ts'
import type { RosterMember } from '../../../primary/store/roster.ts'

const at = new Date('2026-01-01T00:00:00Z')

const execution: Execution = {
  id: 5,
  policyId: 3,
  trigger: 'event_based',
  status: 'InProgress',
  statusText: '',
  startedAt: at,
  endedAt: undefined,
  decidedAt: at,
  place: { epoch: 2, seq: 100 },
  projectIds: [7],
  selected: 1,
  unselected: 0,
  counts: { total: 0, succeeded: 0, failed: 0, stopped: 0 },
}

type State = NonNullable<RosterMember['state']>

function edgeAt(held?: State['held'], rest: Partial<RosterMember> = {}): RosterMember {
  const place = { site: '', region: '', labels: {}, scope: '*' as const, suspended: false }
  const state = held && { held, waitingBytes: 0, seenAt: at, failures: [] }
  return { edgeId: 'e', name: 'e', ...place, number: 1, createdAt: at, state, ...rest }
}

function look(edge: RosterMember, rest: Partial<Execution> = {}, row?: TaskRow) {
  const broughtBy = new Map([['3 9 sha256:a', 5]])
  const rows = new Map(row && [[row.number, row]])
  const { status, lagEvents } = progressOf({ ...execution, ...rest }, edge, { rows, broughtBy })
  return [status, lagEvents]
}

test('an edge is done once it holds the log up to the execution, in the order of epochs', () => {
  assert.deepEqual(look(edgeAt({ epoch: 2, seq: 99 })), ['InProgress', 1])
  assert.deepEqual(look(edgeAt({ epoch: 2, seq: 100 })), ['Succeed', 0])
  assert.deepEqual(look(edgeAt({ epoch: 3, seq: 1 })), ['Succeed', 0])
  assert.deepEqual(look(edgeAt({ epoch: 1, seq: 900 })), ['InProgress', 100])
  assert.deepEqual(look(edgeAt()), ['InProgress', 100])
  assert.deepEqual(look(edgeAt({ epoch: 2, seq: 100 }), { place: undefined }), [
    'InProgress',
    undefined,
  ])
})

test('a task fails by what its execution brought, and only once the edge has come so far', () => {
  const failure = { ruleId: 3, repositoryId: 9, digest: 'sha256:a', reason: 'NO_SPACE' }
  const edge = (seq: number, failures: State['failures']) =>
    edgeAt(undefined, { state: { held: { epoch: 2, seq }, waitingBytes: 0, seenAt: at, failures } })
  assert.deepEqual(look(edge(100, [failure])), ['Failed', 0])
  assert.deepEqual(look(edge(99, [failure])), ['InProgress', 1])
  for (const other of [{ ruleId: 4 }, { repositoryId: 8 }, { digest: 'sha256:b' }]) {
    assert.deepEqual(look(edge(100, [{ ...failure, ...other }])), ['Succeed', 0])
  }
  assert.deepEqual(look(edge(100, [failure]), { id: 6 }), ['Succeed', 0])
})

test('an execution that has ended stays as it was written, whatever edges say later', () => {
  const row: TaskRow = { number: 1, status: 'Stopped', reason: '', endedAt: at }
  assert.equal(look(edgeAt({ epoch: 2, seq: 500 }), { status: 'Stopped' }, row)[0], 'Stopped')
  assert.equal(look(edgeAt(), { status: 'Stopped' })[0], 'Succeed')
})

test('edges that came later, or may read none of it, have no task', () => {
  const later = edgeAt(undefined, { createdAt: new Date(at.getTime() + 1) })
  const scopes = [[7], [8], [], '*'] as const
  const members = [later, ...scopes.map((scope) => edgeAt(undefined, { scope }))]
  assert.deepEqual(
    members.filter((edge) => hasTask(execution, edge)).map(({ scope }) => scope),
    [[7], '*'],
  )
})

test('an execution runs until every task has ended, and the worst of them decides', () => {
  const counts = (succeeded: number, failed: number, stopped: number, running = 0) => ({
    total: succeeded + failed + stopped + running,
    succeeded,
    failed,
    stopped,
  })
  assert.equal(statusOf(execution, counts(1, 1, 0, 1)), 'InProgress')
  assert.equal(statusOf(execution, counts(1, 1, 1)), 'Failed')
  assert.equal(statusOf(execution, counts(1, 0, 1)), 'Stopped')
  assert.equal(statusOf(execution, counts(1, 0, 0)), 'Succeed')
  assert.equal(statusOf(execution, counts(0, 0, 0)), 'Succeed')
  assert.equal(statusOf({ ...execution, place: undefined }, counts(0, 0, 0)), 'InProgress')
})

test('tasks are counted as they stand, and who is furthest behind is first', () => {
  const row: TaskRow = { number: 4, status: 'Stopped', reason: '', endedAt: at }
  const members = [
    edgeAt({ epoch: 2, seq: 100 }),
    edgeAt({ epoch: 1, seq: 900 }),
    edgeAt(undefined),
    edgeAt(undefined, { number: 4 }),
    edgeAt(undefined, { scope: [8] }),
  ]
  const standing = { rows: new Map([[4, row]]), broughtBy: new Map() }
  assert.deepEqual(countTasks(execution, members, standing), {
    total: 4,
    succeeded: 1,
    failed: 0,
    stopped: 1,
  })
  const order = [...members].sort(byProgress).map(({ state }) => state?.held.seq)
  assert.deepEqual(order, [undefined, undefined, undefined, 900, 100])
})

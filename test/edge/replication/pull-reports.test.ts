import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { openPullLog } from '../../../edge/cache/pull-log.ts'
import { LinkRefusedError } from '../../../edge/replication/link.ts'
import { createPullReports } from '../../../edge/replication/pull-reports.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { parseRepositoryName, type Tag } from '../../../shared/oci/reference.ts'
import type { PullReport } from '../../../shared/replication/pulls.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { createTestClock, waitFor } from '../../kit/clock.ts'

const app = parseRepositoryName('library/app')
const digest = digestOf(Buffer.from('a manifest'))
const cursor = { epoch: 1, seq: 1, hash: Buffer.alloc(32) }

/** Reports of an edge that knows one repository, number 7, or none yet, to a primary that answers as a test wants. */
async function createStand(
  t: TestContext,
  { answers = () => undefined as Error | undefined } = {},
) {
  const clock = createTestClock()
  const disk = new Map<string, unknown>()
  const state = { knows: true, lost: 0, said: [] as PullReport[], faults: [] as unknown[] }
  const pulls = await openPullLog({
    records: {
      list: async () => [...disk],
      async write(changes) {
        for (const [key, value] of changes)
          if (value === undefined) disk.delete(key)
          else disk.set(key, value)
      },
    },
    batchPulls: 10,
    mostWaiting: 10,
    onLost: (count) => void (state.lost += count),
  })
  const reports = createPullReports({
    pulls,
    statements: {
      cursor,
      projectIdOf: (name) => (name === 'library' ? 3 : undefined),
      repositoryId: (project, name) =>
        state.knows && project === 3 && name === app ? 7 : undefined,
    },
    onLost: (count) => void (state.lost += count),
    onDiskFailed: (error) => state.faults.push(error),
    log: createLogger({ level: 'error', write: () => undefined }),
    now: clock.now,
    recordMs: 1,
    pauseMs: 1,
  })
  const over = new AbortController()
  t.after(async () => {
    over.abort()
    await reports.close()
    assert.deepEqual(state.faults, [])
  })
  const link = {
    async reportPulls(report: PullReport) {
      state.said.push(report)
      const error = answers()
      if (error !== undefined) throw error
      return { n: report.n }
    },
  }
  return { clock, state, pulls, reports, sendOver: () => reports.sendOver(link, over.signal) }
}

test('pulls go by the repository that the log knows, told again until they are taken', async (t) => {
  let away = 3
  const answers = () => (away-- > 0 ? new LinkRefusedError(429, 'too often') : undefined)
  const { clock, state, pulls, reports, sendOver } = await createStand(t, { answers })
  const pull = { project: 3, repository: app, digest }
  reports.count({ ...pull, tag: 'v1' as Tag })
  reports.count({ ...pull, tag: 'v1' as Tag })
  // Of a primary whose content everybody may read no project is known.
  reports.count({ ...pull, project: undefined, tag: undefined })
  await waitFor('the record', () => pulls.waiting === 3)
  clock.advance(5000)
  sendOver()
  await waitFor('the last', () => pulls.waiting === 0)
  assert.equal(state.said.length, 4)
  for (const said of state.said) assert.deepEqual(said, state.said[0])
  assert.deepEqual(state.said[0]?.pulls, [
    { repositoryId: 7, digest, tag: 'v1', count: 2, agoMs: 5000 },
    { repositoryId: 7, digest, count: 1, agoMs: 5000 },
  ])
  assert.equal(state.lost, 0)
})

test('pulls of a repository that is too new for the log wait for it, and not for ever', async (t) => {
  const { clock, state, pulls, reports, sendOver } = await createStand(t)
  state.knows = false
  const pull = { project: 3, repository: app, digest, tag: undefined }
  reports.count(pull)
  sendOver()
  // The project that had this name before.
  reports.count({ ...pull, project: 4 })
  clock.advance(30_000)
  state.knows = true
  await waitFor('the known one', () => state.said.length === 1 && pulls.waiting === 0)
  assert.equal(state.lost, 0)
  clock.advance(31_000)
  await waitFor('the other', () => state.lost === 1)
  assert.equal(state.said.length, 1)
})

test('what a primary does not take holds nothing up', async (t) => {
  let refused = 1
  const answers = () => (refused-- > 0 ? new LinkRefusedError(400, 'nonsense') : undefined)
  const { state, pulls, reports, sendOver } = await createStand(t, { answers })
  sendOver()
  const pull = { project: 3, repository: app, digest, tag: undefined }
  reports.count(pull)
  await waitFor('the first', () => state.lost === 1)
  reports.count(pull)
  await waitFor('the second', () => state.said.length === 2 && pulls.waiting === 0)
  assert.deepEqual([state.said[1]?.n, state.lost], [2, 1])
})

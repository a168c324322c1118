import assert from 'node:assert/strict'
import { test } from 'node:test'
import { startJobs } from '../../../primary/jobs/jobs.ts'
import { openDatabase } from '../../../primary/store/database.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { waitFor } from '../../kit/clock.ts'
import { createTestDatabase } from '../../kit/postgres.ts'

test('a job is done by one of several primaries, and again when it failed', async (t) => {
  const lines: string[] = []
  const log = createLogger({ level: 'info', write: (line) => void lines.push(line) })
  const one = await createTestDatabase(t)
  const two = await openDatabase({ address: one.address, poolSize: 2 })
  const queues = [
    await startJobs({ database: one, log, pollSeconds: 0.5 }),
    await startJobs({ database: two, log, pollSeconds: 0.5 }),
  ] as const
  const done: number[] = []
  let failed = false
  const handle = ({ executionId }: { readonly executionId: number }) => {
    if (executionId === 2 && !failed) {
      failed = true
      return Promise.reject(new Error('not now'))
    }
    done.push(executionId)
    return Promise.resolve()
  }
  await queues[0].work('replication.run', handle)
  await queues[1].work('replication.run', handle)
  await queues[0].send('replication.run', { executionId: 1 }, '1')
  await waitFor('the first job', () => done.includes(1))
  await queues[0].send('replication.run', { executionId: 2 }, '2')
  await waitFor('the second job, again', () => done.includes(2))
  for (const queue of queues) await queue.stop()
  await two.close()
  assert.deepEqual(done, [1, 2])
  assert.deepEqual(lines, [])
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { retryDeadlock } from '../../../primary/store/retry.ts'
import { createTestDatabase } from '../../kit/postgres.ts'

test('transactions that lock each other out both succeed', async (t) => {
  const { records } = await createTestDatabase(t)
  for (const name of ['a', 'b'])
    await records.insertInto('settings').values({ name, value: '' }).execute()
  let runs = 0
  const write = (first: string, second: string) =>
    retryDeadlock(() =>
      records.transaction().execute(async (trx) => {
        runs++
        await trx.updateTable('settings').set({ value: first }).where('name', '=', first).execute()
        // Long enough for the other to hold its first row.
        await delay(100)
        await trx.updateTable('settings').set({ value: first }).where('name', '=', second).execute()
        return first
      }),
    )
  const results = await Promise.all([write('a', 'b'), write('b', 'a')])
  assert.deepEqual(results, ['a', 'b'])
  assert.ok(runs > 2, 'one of them was given up and run again')
})

test('any other failure is thrown at once', async () => {
  let runs = 0
  const broken = Object.assign(new Error('a unique index'), { code: '23505' })
  const run = retryDeadlock(async () => {
    runs++
    throw broken
  })
  await assert.rejects(run, broken)
  assert.equal(runs, 1)
})

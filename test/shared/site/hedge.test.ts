import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createHedge, type Attempt } from '../../../shared/site/hedge.ts'
import { createTestPace } from '../../kit/pace.ts'

function createStand() {
  const pace = createTestPace()
  const hedge = createHedge(pace)
  const asked: string[] = []
  const signals = new Map<string, AbortSignal>()
  /** Answers with its name after so long, or fails. */
  const attempt =
    (name: string, ms: number, isFailure = false): Attempt<string> =>
    async (signal) => {
      asked.push(name)
      signals.set(name, signal)
      await pace.delay(ms, signal)
      signal.throwIfAborted()
      if (isFailure) throw new Error(name)
      return name
    }
  const settle = async <T>(promise: Promise<T>, ms = 10_000) => {
    promise.catch(() => undefined)
    await pace.pass(ms)
    return promise
  }
  return { pace, hedge, asked, signals, attempt, settle }
}

test('a first that is soon enough is the only one that is asked', async () => {
  const { hedge, asked, attempt, settle } = createStand()
  assert.equal(await settle(hedge.race([attempt('a', 99), attempt('b', 1)])), 'a')
  assert.deepEqual(asked, ['a'])
})

test('a second is asked beside a slow first, and what comes first counts; the other is called off', async () => {
  const { hedge, asked, signals, attempt, settle } = createStand()
  assert.equal(await settle(hedge.race([attempt('a', 5000), attempt('b', 50)])), 'b')
  assert.deepEqual(asked, ['a', 'b'])
  assert.ok(signals.get('a')?.aborted)
  assert.equal(await settle(hedge.race([attempt('c', 200), attempt('d', 5000)])), 'c')
  assert.ok(signals.get('d')?.aborted)
})

test('the second is asked at once when the first fails, and its failure is the last word', async () => {
  const { pace, hedge, attempt, settle } = createStand()
  const startedAt = pace.now()
  const racing = hedge.race([attempt('a', 10, true), attempt('b', 10)])
  let ms = 0
  void racing.then(() => {
    ms = pace.now() - startedAt
  })
  assert.equal(await settle(racing), 'b')
  assert.equal(ms, 20)
  await assert.rejects(settle(hedge.race([attempt('a', 1, true), attempt('b', 1, true)])), {
    message: 'b',
  })
  await assert.rejects(settle(hedge.race([attempt('a', 500, true), attempt('b', 900, true)])))
  await assert.rejects(settle(hedge.race([attempt('a', 1, true)])), { message: 'a' })
})

test('the wait follows what 95 of 100 took, within its bounds', async () => {
  const { hedge, attempt, settle } = createStand()
  assert.equal(hedge.afterMs, 100)
  for (let ms = 1; ms <= 100; ms++) await settle(hedge.race([attempt('a', ms)]), 200)
  assert.equal(hedge.afterMs, 95)
  for (let count = 0; count < 128; count++) await settle(hedge.race([attempt('a', 1)]), 10)
  assert.equal(hedge.afterMs, 5)
  for (let count = 0; count < 128; count++) await settle(hedge.race([attempt('a', 60_000)]), 60_000)
  assert.equal(hedge.afterMs, 2000)
})

test('when all are slow, one in ten is asked twice and no more', async () => {
  const { pace, hedge, asked, attempt } = createStand()
  const races = Array.from({ length: 200 }, () =>
    hedge.race([attempt('a', 9000), attempt('b', 9000)]),
  )
  await pace.pass(30_000)
  await Promise.all(races)
  const second = asked.filter((name) => name === 'b').length
  assert.ok(second >= 10 && second <= 31, String(second))
})

test('who calls it off gets its own reason', async () => {
  const { pace, hedge, attempt, asked } = createStand()
  const controller = new AbortController()
  const racing = hedge.race([attempt('a', 5000), attempt('b', 5000)], { signal: controller.signal })
  await pace.pass(10)
  controller.abort(new Error('enough'))
  await assert.rejects(racing, { message: 'enough' })
  assert.deepEqual(asked, ['a'])
  await assert.rejects(hedge.race([attempt('c', 1)], { signal: controller.signal }), {
    message: 'enough',
  })
})

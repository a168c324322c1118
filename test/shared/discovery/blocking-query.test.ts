import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import fc from 'fast-check'
import {
  nextIndex,
  startBlockingQuery,
  type BlockingQueryOptions,
  type BlockingRequest,
} from '../../../shared/discovery/blocking-query.ts'
import type { ConsulAnswer } from '../../../shared/discovery/consul-client.ts'
import { createRandom } from '../../kit/random.ts'
import { createTestPace } from '../../kit/pace.ts'

type Reply = Partial<ConsulAnswer> | Error | 'never'

/** A query whose answers come at once, one after another; the last one is given again and again. */
function startQuery(
  t: Pick<TestContext, 'after'>,
  replies: Reply[],
  options: Partial<BlockingQueryOptions<unknown>> = {},
) {
  const pace = createTestPace()
  const asked: (BlockingRequest & { readonly at: number })[] = []
  const values: unknown[] = []
  const states: (string | undefined)[] = []
  const query = startBlockingQuery<unknown>({
    read: async (request) => {
      asked.push({ ...request, at: pace.now() })
      const reply = replies.length > 1 ? replies.shift() : replies[0]
      if (reply === 'never' || reply === undefined)
        return new Promise((_resolve, reject) => {
          request.signal.addEventListener('abort', () => reject(request.signal.reason as Error))
        })
      if (reply instanceof Error) throw reply
      return { body: [], index: 1, lastContactMs: 0, hasLeader: true, ...reply }
    },
    select: (body) => body,
    onValue: (value) => values.push(value),
    onState: (error) => states.push(error?.message),
    pace,
    ...options,
  })
  t.after(() => query.close())
  const indexes = () => asked.map(({ query }) => query['index'])
  return { pace, query, asked, values, states, indexes }
}

test('an index that goes back begins anew, and one that is no index still blocks', () => {
  assert.equal(nextIndex(0, 7), 7)
  assert.equal(nextIndex(7, 9), 9)
  assert.equal(nextIndex(9, 9), 9)
  assert.equal(nextIndex(9, 8), 0)
  assert.equal(nextIndex(0, 0), 1)
  assert.equal(nextIndex(0, undefined), 1)
  assert.equal(nextIndex(5, 0), 0)
})

test('a query begins without an index, and goes on with the last one', async (t) => {
  const { pace, asked, indexes } = startQuery(t, [
    { index: 5 },
    { index: 8 },
    { index: 8 },
    'never',
  ])
  await pace.pass(10_000)
  assert.deepEqual(indexes(), [undefined, '5', '8', '8'])
  assert.equal(asked[0]?.query['wait'], undefined)
  assert.equal(asked[1]?.query['wait'], '60000ms')
})

test('what is said while the index goes back is asked for again from the start', async (t) => {
  const { pace, values, indexes } = startQuery(t, [
    { index: 50, body: ['a'] },
    { index: 3, body: ['old'] },
    { index: 3, body: ['b'] },
    'never',
  ])
  await pace.pass(10_000)
  assert.deepEqual(values, [['a'], ['b']])
  assert.deepEqual(indexes(), [undefined, '50', undefined, '3'])
})

test('fifty changes a second wake it once a second, and it tells only of what matters', async (t) => {
  const pace = createTestPace()
  const flapping = { count: 0 }
  const wakes: number[] = []
  const values: unknown[] = []
  const query = startBlockingQuery<unknown>({
    read: async () => {
      wakes.push(pace.now())
      flapping.count = Math.floor(pace.now() / 20) + 1
      // What is watched changes once, in the sixth second.
      const body = pace.now() < 5500 ? ['a'] : ['a', 'b']
      return { body, index: flapping.count, lastContactMs: 0, hasLeader: true }
    },
    select: (body) => body,
    onValue: (value) => values.push(value),
    pace,
  })
  t.after(() => query.close())
  await pace.pass(10_500)
  assert.equal(wakes.length, 11)
  wakes.forEach((at, index) => assert.ok(index === 0 || at - (wakes[index - 1] ?? 0) >= 1000))
  assert.deepEqual(values, [['a'], ['a', 'b']])
})

test('Consul away: the last list stays, and it is asked less and less often, at random', async (t) => {
  const random = createRandom(1)
  const pace = createTestPace({ random: () => random.next() })
  const { query, states, values, asked } = startQuery(t, [{ body: ['a'] }, new Error('away')], {
    pace,
  })
  await pace.pass(3_600_000)
  assert.deepEqual(query.latest(), ['a'])
  assert.deepEqual(values, [['a']])
  assert.deepEqual(states, ['away'])
  const waits = pace.waits.filter((ms) => ms <= 30_000).slice(1)
  assert.ok((waits[0] ?? 0) >= 1000 && (waits[0] ?? 0) <= 2000)
  assert.ok((waits[2] ?? 0) >= 4000 && (waits[2] ?? 0) <= 8000)
  const late = waits.slice(5)
  assert.ok(late.every((ms) => ms >= 15_000 && ms <= 30_000))
  assert.ok(new Set(late).size > late.length / 2, 'they differ')
  assert.ok(asked.length > 100)
})

test('it tells when Consul is back, once', async (t) => {
  const { pace, states } = startQuery(t, [
    { index: 4 },
    new Error('400'),
    new Error('400'),
    { index: 5 },
    'never',
  ])
  await pace.pass(30_000)
  assert.deepEqual(states, ['400', undefined])
})

test('a body that is none counts as a failure, and changes nothing', async (t) => {
  const { pace, query, states } = startQuery(
    t,
    [
      { body: ['a'], index: 2 },
      { body: 'x', index: 3 },
    ],
    {
      select(body) {
        if (!Array.isArray(body)) throw new RangeError('no list')
        return body as unknown
      },
    },
  )
  await pace.pass(10_000)
  assert.deepEqual(query.latest(), ['a'])
  assert.deepEqual(states, ['no list'])
})

test('an answer that never comes is given up a while after the wait', async (t) => {
  const { pace, states, asked } = startQuery(t, [{ index: 2 }, 'never'])
  await pace.pass(1000 + 60_000 / 16 + 60_000 + 9999)
  assert.deepEqual(states, [])
  await pace.pass(2)
  assert.deepEqual(states, ['no answer came in 73750 ms'])
  assert.equal(asked[1]?.timeoutMs, 73_750)
})

test('a server that lost its leader is believed only when nothing is known; else the leader is asked', async (t) => {
  const { pace, values, asked } = startQuery(t, [
    { body: ['old'], index: 5, lastContactMs: 60_000 },
    { body: ['a'], index: 6 },
    { body: ['older'], index: 7, hasLeader: false },
    { body: ['b'], index: 7 },
    'never',
  ])
  await pace.pass(10_000)
  assert.deepEqual(values, [['old'], ['a'], ['b']])
  const isStale = asked.map(({ query }) => 'stale' in query)
  assert.deepEqual(isStale, [true, false, true, false, true])
  // What was not believed is not waited past.
  assert.equal(asked[3]?.query['index'], '6')
})

test('closing ends the request that is on its way', async (t) => {
  const { pace, query, asked } = startQuery(t, ['never'])
  await pace.pass(1)
  await query.close()
  await query.first
  assert.ok(asked[0]?.signal.aborted)
  assert.equal(query.latest(), undefined)
})

test('whatever comes, no second has two requests, and the last good value is the latest', async () => {
  const reply = fc.oneof(
    fc.record({
      index: fc.integer({ min: 0, max: 9 }),
      body: fc.array(fc.nat(3), { maxLength: 2 }),
      lastContactMs: fc.constantFrom(0, 20_000),
      hasLeader: fc.boolean(),
    }),
    fc.constant(new Error('away')),
  )
  await fc.assert(
    fc.asyncProperty(fc.array(reply, { minLength: 1, maxLength: 20 }), async (replies) => {
      const ends: (() => unknown)[] = []
      const test = { after: (end: () => unknown) => ends.push(end) } as unknown as TestContext
      const { pace, asked, values, query } = startQuery(test, [...replies, 'never'])
      await pace.pass(600_000)
      asked.forEach(({ at }, index) =>
        assert.ok(index === 0 || at - (asked[index - 1]?.at ?? 0) >= 1000),
      )
      assert.deepEqual(query.latest(), values.at(-1))
      for (const end of ends) await end()
    }),
    { numRuns: 50 },
  )
})

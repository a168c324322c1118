import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createNearness, distanceMs, type Coordinate } from '../../../shared/site/nearness.ts'
import { createTestClock } from '../../kit/clock.ts'
import { createRandom } from '../../kit/random.ts'

function coordinate(part: Partial<Coordinate>): Coordinate {
  return { vec: [0, 0], height: 0, adjustment: 0, error: 0.1, ...part }
}

const idle = () => 0

test('the distance is what Consul says: vector, heights, and adjustments that leave something', () => {
  const cases: [Partial<Coordinate>, Partial<Coordinate>, number | undefined][] = [
    [{}, {}, 0],
    [{ vec: [0.003, 0.004] }, {}, 5],
    [{ vec: [0.003, 0.004], height: 0.001 }, { height: 0.002 }, 8],
    [{ vec: [0.003, 0.004], adjustment: 0.001 }, { adjustment: -0.002 }, 4],
    // They would make it negative.
    [{ vec: [0.003, 0.004], adjustment: -0.01 }, {}, 5],
    // One that has just begun is nowhere.
    [{ error: 1.5 }, {}, undefined],
    [{ vec: [0, 0, 0] }, {}, undefined],
    [{ vec: [Infinity, 0] }, {}, undefined],
  ]
  for (const [one, other, ms] of cases) {
    const found = distanceMs(coordinate(one), coordinate(other))
    if (ms === undefined || found === undefined) assert.equal(found, ms)
    else assert.ok(Math.abs(found - ms) < 1e-9, `${found} is ${ms}`)
    assert.equal(distanceMs(coordinate(other), coordinate(one)), found)
  }
})

test('what was measured outweighs the coordinates by and by, and is forgotten in time', () => {
  const clock = createTestClock()
  const nearness = createNearness({ now: clock.now })
  const candidate = { id: 'a', estimateMs: 10 }
  assert.equal(nearness.expectedMs({ id: 'a' }), undefined)
  assert.equal(nearness.expectedMs(candidate), 10)
  nearness.measured('a', 40)
  assert.equal(nearness.expectedMs(candidate), 15)
  assert.equal(nearness.expectedMs({ id: 'a' }), 40)
  for (let count = 0; count < 4; count++) nearness.measured('a', 40)
  assert.equal(nearness.expectedMs(candidate), 25)
  for (let count = 0; count < 200; count++) nearness.measured('a', 40)
  assert.ok((nearness.expectedMs(candidate) ?? 0) > 37)
  clock.advance(6 * 3_600_000)
  assert.ok((nearness.expectedMs(candidate) ?? 99) < 10.1)
  nearness.measured('a', NaN)
  nearness.measured('a', -1)
  assert.ok((nearness.expectedMs(candidate) ?? 99) < 10.1)
})

test('the nearest come first, those of the own site before all, and unknown ones last', () => {
  const nearness = createNearness({ site: 'berlin', now: () => 0 })
  const ids = nearness
    .order([
      { id: 'unknown' },
      { id: 'far', estimateMs: 80 },
      { id: 'also-unknown' },
      { id: 'near', estimateMs: 8 },
      { id: 'here', estimateMs: 9, site: 'berlin' },
      { id: 'here-unknown', site: 'berlin' },
      { id: 'elsewhere', estimateMs: 7, site: 'paris' },
    ])
    .map(({ id }) => id)
  assert.deepEqual(ids, [
    'here',
    'here-unknown',
    'elsewhere',
    'near',
    'far',
    'unknown',
    'also-unknown',
  ])
})

test('requests go to all that are about as near, and to nobody farther', () => {
  const nearness = createNearness({ now: () => 0, random: createRandom(1).next })
  const candidates = [10, 12, 14.9, 15.1, 80].map((estimateMs) => ({
    id: `at-${estimateMs}`,
    estimateMs,
  }))
  const chosen = new Map<string, number>()
  for (let count = 0; count < 3000; count++) {
    const { id } = nearness.choose(candidates, (busy) => chosen.get(busy) ?? 0) ?? { id: '' }
    chosen.set(id, (chosen.get(id) ?? 0) + 1)
  }
  assert.deepEqual([...chosen.keys()].sort(), ['at-10', 'at-12', 'at-14.9'])
  for (const count of chosen.values()) assert.ok(Math.abs(count - 1000) < 20, String(count))
})

test('of two, the one with less to do is asked; of one, that one; of none, nobody', () => {
  const nearness = createNearness({ now: () => 0 })
  const [a, b] = [
    { id: 'a', estimateMs: 1 },
    { id: 'b', estimateMs: 1.2 },
  ] as const
  for (let count = 0; count < 50; count++)
    assert.equal(
      nearness.choose([a, b], (id) => (id === 'a' ? 3 : 1)),
      b,
    )
  assert.equal(nearness.choose([a, b], idle), a, 'the nearer one')
  assert.equal(nearness.choose([b], idle), b)
  assert.equal(nearness.choose([], idle), undefined)
  assert.equal(nearness.choose([{ id: 'unknown' }], idle)?.id, 'unknown')
})

test('whoever is chosen is in the band, whatever luck says', () => {
  const candidate = fc.record({
    id: fc.uuid(),
    estimateMs: fc.option(fc.double({ min: 0, max: 500, noNaN: true }), { nil: undefined }),
  })
  fc.assert(
    fc.property(
      fc.array(candidate, { minLength: 1, maxLength: 12 }),
      fc.double({ min: 0, max: 0.999999, noNaN: true }),
      (candidates, luck) => {
        const nearness = createNearness({ now: () => 0, random: () => luck })
        const chosen = nearness.choose(candidates, idle)
        const best = Math.min(...candidates.map(({ estimateMs }) => estimateMs ?? Infinity))
        assert.ok(chosen !== undefined)
        assert.ok((chosen.estimateMs ?? Infinity) <= Math.max(best * 1.5, best + 1))
      },
    ),
  )
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createOutliers } from '../../../shared/site/outliers.ts'
import { createTestClock } from '../../kit/clock.ts'

const members = ['a', 'b', 'c', 'd'].map((id) => ({ id }))

function createStand() {
  const clock = createTestClock()
  const outliers = createOutliers({ now: clock.now })
  const fail = (id: string, times = 3) => {
    for (let count = 0; count < times; count++) outliers.failed(id)
  }
  const left = () =>
    outliers
      .sift(members)
      .map(({ id }) => id)
      .join('')
  return { clock, outliers, fail, left }
}

test('three errors in a row leave one alone for half a minute; a success between them does not', () => {
  const { clock, outliers, fail, left } = createStand()
  fail('b', 2)
  outliers.succeeded('b')
  fail('b', 2)
  assert.equal(left(), 'abcd')
  fail('b', 1)
  assert.equal(left(), 'acd')
  clock.advance(29_999)
  assert.equal(left(), 'acd')
  clock.advance(1)
  assert.equal(left(), 'abcd')
})

test('one that fails more than half of the time is left alone too', () => {
  const { outliers, left } = createStand()
  for (let count = 0; count < 10; count++) {
    outliers.failed('a')
    outliers.failed('a')
    outliers.succeeded('a')
  }
  assert.equal(left(), 'bcd')
  for (let count = 0; count < 30; count++) {
    outliers.failed('b')
    outliers.succeeded('b')
  }
  assert.equal(left(), 'bcd')
})

test('each time is longer than the one before, up to five minutes, until it did well for a while', () => {
  const { clock, outliers, fail, left } = createStand()
  const ejectedMs = () => {
    fail('a')
    let ms = 0
    for (; left() === 'bcd'; ms += 1000) clock.advance(1000)
    return ms
  }
  assert.deepEqual(
    Array.from({ length: 12 }, ejectedMs).map((ms) => ms / 1000),
    [30, 60, 90, 120, 150, 180, 210, 240, 270, 300, 300, 300],
  )
  clock.advance(3_600_000)
  outliers.succeeded('a')
  assert.equal(ejectedMs(), 30_000)
})

test('what was asked of it before counts for nothing once it is left alone', () => {
  const { clock, fail, left } = createStand()
  fail('a', 10)
  clock.advance(30_000)
  assert.equal(left(), 'abcd')
  fail('a', 2)
  assert.equal(left(), 'abcd')
})

test('at most half are left alone: those that would come back soonest stay', () => {
  const { clock, fail, left } = createStand()
  for (const id of ['a', 'b', 'c', 'd']) {
    fail(id)
    clock.advance(1000)
  }
  assert.equal(left(), 'ab')
  assert.equal(createStand().outliers.sift([{ id: 'x' }]).length, 1)
})

test('whatever happens, at least half are left, and all are back within five minutes', () => {
  const step = fc.record({
    id: fc.constantFrom('a', 'b', 'c', 'd', 'e'),
    isFailure: fc.boolean(),
    advance: fc.nat(20_000),
  })
  fc.assert(
    fc.property(
      fc.array(step, { maxLength: 200 }),
      fc.subarray(['a', 'b', 'c', 'd', 'e']),
      (steps, ids) => {
        const { clock, outliers } = createStand()
        const candidates = ids.map((id) => ({ id }))
        for (const { id, isFailure, advance } of steps) {
          if (isFailure) outliers.failed(id)
          else outliers.succeeded(id)
          clock.advance(advance)
          assert.ok(outliers.sift(candidates).length >= candidates.length / 2)
        }
        clock.advance(300_000)
        assert.deepEqual(outliers.sift(candidates), candidates)
      },
    ),
  )
})

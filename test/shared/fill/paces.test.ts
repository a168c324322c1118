import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createPaces } from '../../../shared/fill/paces.ts'

const mib = 2 ** 20
const usual = { fromMs: 3000, factor: 4, overtakenBy: 0 }

/** Requests that each bring so many bytes a second from when they begin. */
function requests() {
  let at = 0
  const paces = createPaces(() => at)
  return {
    begin(bytesPerSecond: number) {
      const since = at
      return paces.began(() => ((at - since) * bytesPerSecond) / 1000)
    },
    pass: (ms: number) => void (at += ms),
  }
}

test('when all are slow, or send nothing for a while, none is too slow', () => {
  const { begin, pass } = requests()
  for (let n = 0; n < 4; n++) {
    const earlier = begin(mib)
    pass(1000)
    earlier.ended(true)
  }
  const starved = [0, 0, 5000, 0].map(begin)
  pass(20_000)
  for (const pace of starved) assert.equal(pace.isSlow(usual), false)
})

test('one of less than a quarter of what the others give is too slow, but not before a usual one is over', () => {
  const { begin, pass } = requests()
  const slow = begin(mib / 100)
  const [fair, ...others] = [mib / 3, mib, mib].map(begin)
  pass(2900)
  assert.equal(slow.isSlow(usual), false)
  pass(200)
  assert.equal(slow.isSlow(usual), true)
  assert.equal(fair?.isSlow(usual), false)
  pass(3000)
  for (const other of others) other.ended(true)
  const next = begin(0)
  const besides = [mib, mib].map(begin)
  pass(5000)
  assert.equal(next.isSlow(usual), false, 'usual ones take six seconds')
  pass(1200)
  assert.equal(next.isSlow(usual), true)
  assert.equal(besides[0]?.isSlow(usual), false)
})

test('who is judged by those that overtook it is not while nobody does', () => {
  const { begin, pass } = requests()
  const overtaken = { fromMs: 1500, factor: 16, overtakenBy: 4 }
  for (let n = 0; n < 4; n++) {
    const earlier = begin(mib)
    pass(1000)
    earlier.ended(true)
  }
  const still = begin(mib / 100)
  const besides = [mib, mib].map(begin)
  pass(9000)
  for (const other of besides) other.ended(true)
  for (let n = 0; n < 4; n++) {
    assert.equal(still.isSlow(overtaken), false, `${n} are not enough`)
    const later = begin(mib)
    pass(1000)
    later.ended(true)
  }
  assert.equal(still.isSlow(overtaken), true)
  assert.equal(begin(0).isSlow(overtaken), false, 'it has only begun')
})

test('the last one is measured by what was usual, and without that by what is of any use', () => {
  const { begin, pass } = requests()
  const alone = begin(mib / 100)
  pass(59_000)
  assert.equal(alone.isSlow(usual), false, 'nothing is known of any other')
  pass(2000)
  assert.equal(alone.isSlow(usual), true)
  alone.ended(false)
  for (let n = 0; n < 4; n++) {
    const each = begin(mib)
    pass(1000)
    each.ended(true)
  }
  const last = begin(mib / 5)
  pass(3500)
  assert.equal(last.isSlow(usual), true)
})

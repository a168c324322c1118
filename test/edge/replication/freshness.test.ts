import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { createFreshness } from '../../../edge/replication/freshness.ts'

const lastsMs = 60_000

function createStand() {
  const time = { wall: 1_000_000, steady: 5000 }
  const freshness = createFreshness({ wall: () => time.wall, steady: () => time.steady })
  const pass = (ms: number): void => {
    time.wall += ms
    time.steady += ms
  }
  /** Asks, and is answered so much later with this head. */
  const lease = (seq: number, tookMs = 0): void => {
    const asked = freshness.ask()
    pass(tookMs)
    freshness.grant(asked, { epoch: 1, seq }, lastsMs)
  }
  return { time, freshness, pass, lease }
}

describe('what is recorded counts', () => {
  test('once it reaches what there was when the lease was asked for', () => {
    const { freshness, lease } = createStand()
    freshness.reached({ epoch: 1, seq: 4 })
    lease(7)
    assert.equal(freshness.isFresh(), false)
    freshness.reached({ epoch: 1, seq: 6 })
    assert.equal(freshness.isFresh(), false)
    freshness.reached({ epoch: 1, seq: 7 })
    assert.equal(freshness.isFresh(), true)
  })

  test('for a minute from when it was asked, not from when the answer came', () => {
    const { freshness, pass, lease } = createStand()
    freshness.reached({ epoch: 1, seq: 1 })
    lease(1, 20_000)
    pass(lastsMs - 20_000 - 1)
    assert.equal(freshness.isFresh(), true)
    pass(1)
    assert.equal(freshness.isFresh(), false)
  })

  test('no longer than either clock says: one may stand still, and one may be set', () => {
    for (const { wall, steady } of [
      { wall: lastsMs, steady: 10 },
      { wall: 10, steady: lastsMs },
      // Set back: how long it has been is not known any more.
      { wall: -1, steady: 10 },
    ]) {
      const { time, freshness, lease } = createStand()
      freshness.reached({ epoch: 1, seq: 1 })
      lease(1)
      time.wall += wall
      time.steady += steady
      assert.equal(freshness.isFresh(), false, JSON.stringify({ wall, steady }))
    }
  })

  test('on by the lease before while a newer one names a head that has not come', () => {
    const { freshness, pass, lease } = createStand()
    freshness.reached({ epoch: 1, seq: 1 })
    lease(1)
    pass(20_000)
    lease(9)
    assert.equal(freshness.isFresh(), true)
    pass(lastsMs - 20_000)
    assert.equal(freshness.isFresh(), false, 'the first is over, the second never began')
    freshness.reached({ epoch: 1, seq: 9 })
    assert.equal(freshness.isFresh(), true)
  })

  test('not in another epoch, nor after the primary said that this edge may not read', () => {
    const { freshness, lease } = createStand()
    freshness.reached({ epoch: 1, seq: 1 })
    lease(1)
    freshness.reached({ epoch: 2, seq: 1 })
    assert.equal(freshness.isFresh(), false)
    freshness.reached({ epoch: 1, seq: 1 })
    lease(1)
    freshness.end()
    assert.equal(freshness.isFresh(), false)
  })
})

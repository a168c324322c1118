import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import {
  conditionOf,
  eventsBetween,
  statusOf,
  type EdgeStatus,
} from '../../../primary/edges/status.ts'
import type { EdgeState } from '../../../primary/store/edge-states.ts'

const now = Date.parse('2026-11-01T12:00:00.000Z')
const before = (seconds: number) => new Date(now - seconds * 1000)

const well: EdgeStatus = {
  version: '1.0.0',
  lastSeen: before(20),
  hasBegun: true,
  lagEvents: 0,
  lagSeconds: 0,
  heldLagEvents: 0,
  waitingBytes: 0,
  cacheBytes: 1,
  cacheSizeBytes: 2,
  hitRatio: 0.5,
  servedBytes: 3,
  clockSkewMs: 0,
  transfers: undefined,
  isLeaving: false,
  lastError: '',
  lastErrorAt: undefined,
  isFailing: false,
  failures: 0,
  prune: undefined,
}

describe('the state of an edge', () => {
  const lags = { lagEvents: 1, lagSeconds: 181 }
  const away = { lastSeen: before(181) }
  const left = { isLeaving: true, transfers: 0 }
  for (const [state, what, changes, draining] of [
    ['ready', 'that follows', {}, 'draining'],
    ['ready', 'that was heard of three leases ago', { lastSeen: before(180) }, 'draining'],
    ['away', 'that was not for longer', { lastSeen: before(180.001) }, 'away'],
    ['away', 'that is away and lags', { ...away, ...lags }, 'away'],
    ['away', 'that was away before it said what is wrong', { ...away, isFailing: true }, 'away'],
    ['ready', 'that lags by three leases', { lagEvents: 9, lagSeconds: 180 }, 'draining'],
    ['degraded', 'that lags by more', lags, 'draining'],
    [
      'ready',
      'that holds less than it knows',
      { heldLagEvents: 900, waitingBytes: 1e9 },
      'draining',
    ],
    ['degraded', 'that says what is wrong', { lastError: 'x', isFailing: true }, 'draining'],
    ['ready', 'that says what was wrong', { lastError: 'x' }, 'draining'],
    ['degraded', 'that could not get a manifest', { failures: 1 }, 'draining'],
    ['ready', 'whose clock is a minute off', { clockSkewMs: 60_000 }, 'draining'],
    ['degraded', 'whose clock is ahead', { clockSkewMs: 60_001 }, 'draining'],
    ['degraded', 'whose clock is behind', { clockSkewMs: -60_001 }, 'draining'],
    ['joining', 'that takes its first snapshots', { hasBegun: false, lagSeconds: 1e6 }, 'draining'],
    ['degraded', 'that does, and cannot', { hasBegun: false, isFailing: true }, 'draining'],
    ['ready', 'whose clock makes it heard of in future', { lastSeen: before(-9) }, 'draining'],
    ['ready', 'that still sends', { isLeaving: true, transfers: 1 }, 'draining'],
    [
      'ready',
      'that heard of its drain and does not say what it sends',
      { isLeaving: true },
      'draining',
    ],
    ['ready', 'that sends nothing, and has not heard', { transfers: 0 }, 'draining'],
    ['ready', 'that sends nothing more', left, 'drained'],
    ['away', 'that has left', { ...left, ...away }, 'drained'],
  ] as const) {
    test(`of one ${what} is ${state}`, () => {
      const status = { ...well, ...changes }
      assert.equal(conditionOf({ standing: 'ready', status }, now), state)
      assert.equal(conditionOf({ standing: 'draining', status }, now), draining)
      for (const standing of ['suspended', 'revoked'] as const)
        assert.equal(conditionOf({ standing, status }, now), standing)
    })
  }

  test('of one that was never heard of is joining, or what was made of it', () => {
    for (const [standing, state] of [
      ['ready', 'joining'],
      ['draining', 'joining'],
      ['suspended', 'suspended'],
      ['revoked', 'revoked'],
    ] as const)
      assert.equal(conditionOf({ standing, status: undefined }, now), state)
  })
})

test('events between two places go by epoch, then number', () => {
  const at = (epoch: number, seq: number) => ({ epoch, seq })
  for (const [from, to, events] of [
    [at(1, 4), at(1, 9), 5],
    [at(1, 9), at(1, 4), 0],
    [at(1, 90), at(2, 7), 7],
    [at(3, 1), at(2, 7), 0],
  ] as const)
    assert.equal(eventsBetween(from, to), events)
})

describe('the status of an edge', () => {
  const said: EdgeState = {
    edgeId: 'one',
    applied: { epoch: 2, seq: 10 },
    heldSeq: 7,
    waitingBytes: 5,
    seenAt: before(10),
    report: {
      version: '1.0.0',
      clock: before(12).getTime(),
      cacheBytes: 1,
      cacheSizeBytes: 2,
      hits: 3,
      misses: 1,
      servedBytes: 4,
      url: '',
      lastError: '',
      failures: [],
    },
  }
  const head = { epoch: 2, seq: 12 }
  const of = (state: Partial<EdgeState>, behindSince: Date | undefined) =>
    statusOf({ ...said, ...state }, { head, behindSince, now })

  test('is measured against the end of the log', () => {
    assert.deepEqual(of({}, before(4.5)), {
      ...well,
      lastSeen: said.seenAt,
      lagEvents: 2,
      lagSeconds: 4,
      heldLagEvents: 5,
      waitingBytes: 5,
      hitRatio: 0.75,
      servedBytes: 4,
      clockSkewMs: -2000,
    })
  })

  test('has no lag at the end, whatever comes after', () => {
    const { lagEvents, lagSeconds } = of({ applied: head }, undefined)
    assert.deepEqual([lagEvents, lagSeconds], [0, 0])
  })

  test('lags since it was last seen, at least, when the log does not reach back that far', () => {
    assert.equal(of({}, undefined).lagSeconds, 10)
  })

  test('begins with the first event, unless there is none', () => {
    assert.equal(of({ applied: { epoch: 2, seq: 0 } }, before(9)).hasBegun, false)
    const none = { epoch: 1, seq: 0 }
    const status = statusOf({ ...said, applied: none }, { head: none, behindSince: undefined, now })
    assert.equal(status.hasBegun, true)
  })

  test('is failing by an older edge’s word of an error, and by a newer one’s until that is over', () => {
    const says = (report: Partial<EdgeState['report']>) => {
      const { isFailing, lastError, lastErrorAt } = of(
        { report: { ...said.report, ...report } },
        undefined,
      )
      return [isFailing, lastError, lastErrorAt?.getTime()]
    }
    assert.deepEqual(says({ lastError: 'x' }), [true, 'x', undefined])
    assert.deepEqual(says({ lastError: 'x', lastErrorAt: 7 }), [true, 'x', 7])
    const over = { lastError: 'x', lastErrorAt: 7, lastErrorIsOver: true }
    assert.deepEqual(says(over), [false, 'x', 7])
  })

  test('has no hit ratio before it served anything', () => {
    assert.equal(
      of({ report: { ...said.report, hits: 0, misses: 0 } }, undefined).hitRatio,
      undefined,
    )
  })
})

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
  lastError: '',
  failures: 0,
}

describe('the state of an edge', () => {
  const lags = { lagEvents: 1, lagSeconds: 181 }
  for (const [state, what, changes] of [
    ['ready', 'that follows', {}],
    ['ready', 'that was heard of three leases ago', { lastSeen: before(180) }],
    ['away', 'that was not for longer', { lastSeen: before(180.001) }],
    ['away', 'that is away and lags', { lastSeen: before(181), ...lags }],
    [
      'away',
      'that was away before it said what is wrong',
      { lastSeen: before(181), lastError: 'x' },
    ],
    ['ready', 'that lags by three leases', { lagEvents: 9, lagSeconds: 180 }],
    ['degraded', 'that lags by more', lags],
    ['ready', 'that holds less than it knows', { heldLagEvents: 900, waitingBytes: 1e9 }],
    ['degraded', 'that says what is wrong', { lastError: 'the disk is full' }],
    ['degraded', 'that could not get a manifest', { failures: 1 }],
    ['ready', 'whose clock is a minute off', { clockSkewMs: 60_000 }],
    ['degraded', 'whose clock is ahead', { clockSkewMs: 60_001 }],
    ['degraded', 'whose clock is behind', { clockSkewMs: -60_001 }],
    ['joining', 'that takes its first snapshots', { hasBegun: false, lagSeconds: 1e6 }],
    ['degraded', 'that does, and cannot', { hasBegun: false, lastError: 'x' }],
    ['ready', 'whose clock makes it heard of in future', { lastSeen: before(-9) }],
  ] as const) {
    test(`of one ${what} is ${state}`, () => {
      const status = { ...well, ...changes }
      assert.equal(conditionOf({ isSuspended: false, status }, now), state)
      assert.equal(conditionOf({ isSuspended: true, status }, now), 'suspended')
    })
  }

  test('of one that was never heard of is joining, or suspended', () => {
    assert.equal(conditionOf({ isSuspended: false, status: undefined }, now), 'joining')
    assert.equal(conditionOf({ isSuspended: true, status: undefined }, now), 'suspended')
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

  test('has no hit ratio before it served anything', () => {
    assert.equal(
      of({ report: { ...said.report, hits: 0, misses: 0 } }, undefined).hitRatio,
      undefined,
    )
  })
})

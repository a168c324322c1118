import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createLogInLimit, type LogInLimit } from '../../../shared/auth/log-in-limit.ts'

function createLimit(maxEntries = 100) {
  let now = 1_000_000
  const limit = createLogInLimit({ failures: 3, windowMs: 60_000, maxEntries, now: () => now })
  return { limit, pass: (ms: number) => (now += ms) }
}

function fail(limit: LogInLimit, account: string): void {
  const tried = limit.take(account, { address: '10.0.0.1' })
  assert.ok(tried.allowed)
  tried.settle({ failed: true })
}

test('after so many failures the account must wait, at this address only, and it is told once', () => {
  const { limit, pass } = createLimit()
  for (let tries = 0; tries < 3; tries++)
    assert.ok(limit.take('alice', { address: '10.0.0.1' }).allowed)
  pass(20_000)
  assert.deepEqual(limit.take('alice', { address: '10.0.0.1' }), {
    allowed: false,
    retryAfterSeconds: 40,
    first: true,
  })
  const again = limit.take('alice', { address: '10.0.0.1' })
  assert.ok(!again.allowed && !again.first)
  assert.ok(limit.take('alice', { address: '10.0.0.2' }).allowed)
  assert.ok(limit.take('bob', { address: '10.0.0.1' }).allowed)
  pass(40_000)
  assert.ok(limit.take('alice', { address: '10.0.0.1' }).allowed)
})

test('a try that did not fail does not count', () => {
  const { limit } = createLimit()
  for (let tries = 0; tries < 10; tries++) {
    const tried = limit.take('alice', { address: '10.0.0.1' })
    assert.ok(tried.allowed)
    tried.settle({ failed: false })
  }
})

test('tries count before they are decided, so that a burst is no way around', () => {
  const { limit } = createLimit()
  const burst = Array.from({ length: 10 }, () => limit.take('alice', { address: '10.0.0.1' }))
  assert.equal(burst.filter((tried) => tried.allowed).length, 3)
})

test('the addresses of one IPv6 network count as one', () => {
  const { limit } = createLimit()
  for (const host of ['1', '2', '3'])
    assert.ok(limit.take('alice', { address: `2001:db8:1:2::${host}` }).allowed)
  assert.ok(!limit.take('alice', { address: '2001:db8:1:2:aaaa:bbbb:cccc:dddd' }).allowed)
  assert.ok(limit.take('alice', { address: '2001:db8:1:3::1' }).allowed)
  assert.ok(limit.take('alice', { address: '::1' }).allowed)
})

test('memory is bounded by the number of entries', () => {
  const { limit } = createLimit(10)
  for (let tries = 0; tries < 3; tries++) fail(limit, 'alice')
  for (let other = 0; other < 9; other++) fail(limit, `user${other}`)
  assert.ok(!limit.take('alice', { address: '10.0.0.1' }).allowed)
  for (let other = 0; other < 10; other++) fail(limit, `user${other}`)
  assert.ok(limit.take('alice', { address: '10.0.0.1' }).allowed, 'the oldest was forgotten')
})

test('tries that do not fail push nobody out, so that a locked account stays locked', () => {
  const { limit } = createLimit(10)
  for (let tries = 0; tries < 3; tries++) fail(limit, 'alice')
  for (let other = 0; other < 100; other++) {
    const tried = limit.take(`user${other}`, { address: '10.0.0.1' })
    assert.ok(tried.allowed)
    tried.settle({ failed: false })
  }
  assert.ok(!limit.take('alice', { address: '10.0.0.1' }).allowed)
})

test('a try that is settled late does not touch the next window', () => {
  const { limit, pass } = createLimit()
  const late = limit.take('alice', { address: '10.0.0.1' })
  pass(60_000)
  for (let tries = 0; tries < 3; tries++) limit.take('alice', { address: '10.0.0.1' })
  assert.ok(late.allowed)
  late.settle({ failed: false })
  assert.ok(!limit.take('alice', { address: '10.0.0.1' }).allowed)
})

test('an edge that names ever other addresses must wait too, after ten times as many failures', () => {
  const { limit, pass } = createLimit()
  const from = (host: number, edge?: string) =>
    limit.take('alice', { address: `10.0.0.${host}`, ...(edge === undefined ? {} : { edge }) })
  for (let host = 0; host < 30; host++) assert.ok(from(host, 'e1').allowed, String(host))
  pass(20_000)
  assert.deepEqual(from(31, 'e1'), { allowed: false, retryAfterSeconds: 40, first: true })
  const again = from(31, 'e1')
  assert.ok(!again.allowed && !again.first)
  assert.ok(from(31, 'e2').allowed)
  assert.ok(from(31).allowed)
  pass(40_000)
  const tried = from(31, 'e1')
  assert.ok(tried.allowed)
})

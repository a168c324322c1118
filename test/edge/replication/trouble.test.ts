import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createTrouble } from '../../../edge/replication/trouble.ts'
import { createTestClock } from '../../kit/clock.ts'

test('what lasts is told before what is over, and the newest of each', () => {
  const clock = createTestClock(1000)
  const trouble = createTrouble(clock.now)
  assert.deepEqual(trouble.last(), { lastError: '' })
  trouble.note('disk', new Error('ENOSPC: no space left on device, write'))
  clock.advance(1)
  trouble.note('rules', new Error('its repository is gone'), { isOver: true })
  const full = 'disk: ENOSPC: no space left on device, write'
  assert.deepEqual(trouble.last(), { lastError: full, lastErrorAt: 1000, lastErrorIsOver: false })
  clock.advance(1)
  trouble.note('log', 'the primary answers 403')
  assert.deepEqual(trouble.last(), {
    lastError: 'events of the primary: the primary answers 403',
    lastErrorAt: 1002,
    lastErrorIsOver: false,
  })
  trouble.over('log')
  assert.equal(trouble.last().lastError, full)
  trouble.over('disk')
  assert.deepEqual(
    [trouble.last().lastErrorAt, trouble.last().lastErrorIsOver],
    [1002, true],
    'when it was, not when it ended',
  )
})

test('what is told is one line, bounded, and holds no secret of a URL', () => {
  const trouble = createTrouble(() => 0)
  trouble.note(
    'log',
    new Error(
      'GET https://robot:Planted@Secret@s3.example.com/b/x?X-Amz-Signature=planted2#planted3\nproxy socks5://me:planted4@[::1]:1/ \u001b[2J',
    ),
  )
  assert.equal(
    trouble.last().lastError,
    'events of the primary: GET https://…@s3.example.com/b/x?… proxy socks5://…@[::1]:1/  [2J',
  )
  trouble.note('log', 'x'.repeat(10_000))
  assert.ok(trouble.last().lastError.length < 512)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { checkInTime } from '../../../shared/http/readiness.ts'

test('a check that works, fails or hangs is answered in time', async () => {
  const answers = await Promise.all([
    checkInTime('works', () => Promise.resolve()),
    checkInTime('fails', () => Promise.reject(new Error('the disk is gone'))),
    checkInTime('hangs', () => new Promise(() => undefined), 10),
  ])
  assert.deepEqual(answers, [
    { name: 'works', ok: true },
    { name: 'fails', ok: false, reason: 'the disk is gone' },
    { name: 'hangs', ok: false, reason: 'no answer in time' },
  ])
})

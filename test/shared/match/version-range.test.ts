import assert from 'node:assert/strict'
import { test } from 'node:test'
import { isInRange, parseVersionRange } from '../../../shared/match/version-range.ts'

function inRange(range: string, tags: readonly string[]): readonly string[] {
  const parsed = parseVersionRange(range)
  return tags.filter((tag) => isInRange(parsed, tag))
}

test('a tag is in a range if it is a version of it, with a v before it or without', () => {
  const tags = ['1.2.3', 'v1.2.3', '1.3.0', '2.0.0', 'v2.1.0']
  assert.deepEqual(inRange('^1.2', tags), ['1.2.3', 'v1.2.3', '1.3.0'])
  assert.deepEqual(inRange('~1.2.0', tags), ['1.2.3', 'v1.2.3'])
  assert.deepEqual(inRange('>=1.3.0 <2.1', tags), ['1.3.0', '2.0.0'])
  assert.deepEqual(inRange('1.2.x || 2.1', tags), ['1.2.3', 'v1.2.3', 'v2.1.0'])
  assert.deepEqual(inRange('1.3.0 - 2', tags), ['1.3.0', '2.0.0', 'v2.1.0'])
  assert.deepEqual(inRange('*', tags), tags)
})

test('what is no whole version is in no range', () => {
  const none = ['', '1', '1.2', 'v1.2', 'V1.2.3', 'vv1.2.3', '1.2.3.4', '01.2.3', 'latest', '1.2.x']
  assert.deepEqual(inRange('*', none), [])
})

test('a pre-release is in a range only if the range names one of its version', () => {
  const tags = ['1.2.3-rc.1', '1.2.3-alpine', '1.3.0-rc.1', '1.2.3']
  assert.deepEqual(inRange('*', tags), ['1.2.3'])
  assert.deepEqual(inRange('^1.2.0', tags), ['1.2.3'])
  assert.deepEqual(inRange('>=1.2.3-rc.0', tags), ['1.2.3-rc.1', '1.2.3'])
})

test('a range that cannot be read is refused, and the message says how one is written', () => {
  const refusals: [string, RegExp][] = [
    ['', /is empty.*write \*/],
    ['  ', /is empty.*write \*/],
    ['1.x ||', /is empty, or a part of it/],
    ['latest', /must be like \^1\.2/],
    ['>=', /must be like/],
    ['1.2.3.4', /must be like/],
    ['1 '.repeat(129), /more than 256 characters/],
  ]
  for (const [range, message] of refusals)
    assert.throws(() => parseVersionRange(range), { name: 'RangeError', message }, range)
})

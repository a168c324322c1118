import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readRateLimit } from '../../../shared/upstream/rate-limit.ts'

test("Docker Hub's headers are read, and what is none of theirs says nothing", () => {
  const hours = 3_600_000
  const cases: readonly (readonly [Record<string, string>, unknown])[] = [
    [
      { 'ratelimit-limit': '100;w=21600', 'ratelimit-remaining': '76;w=21600' },
      { remaining: 76, limit: 100, windowMs: 6 * hours, seenAt: 5 },
    ],
    [
      { 'ratelimit-remaining': ' 0 ; w=3600' },
      { remaining: 0, limit: undefined, windowMs: hours, seenAt: 5 },
    ],
    [
      { 'ratelimit-remaining': '9' },
      { remaining: 9, limit: undefined, windowMs: 6 * hours, seenAt: 5 },
    ],
    [{ 'ratelimit-remaining': '-1;w=5' }, undefined],
    [{ 'ratelimit-remaining': 'many' }, undefined],
    [{ 'ratelimit-limit': '100;w=21600' }, undefined],
    [{}, undefined],
  ]
  for (const [headers, expected] of cases) assert.deepEqual(readRateLimit(headers, 5), expected)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { freeChunk } from '../../../shared/stream/free-chunk.ts'

test('a chunk that is all of its memory is freed, and twice is no harm', () => {
  const chunk = Buffer.alloc(64 * 1024)
  freeChunk(chunk)
  assert.equal(chunk.length, 0)
  freeChunk(chunk)
})

test('a chunk that shares its memory is left alone', () => {
  const all = Buffer.alloc(64 * 1024, 1)
  const pooled = Buffer.from('a small buffer of the pool')
  const shared = Buffer.from(new SharedArrayBuffer(64))
  for (const chunk of [all.subarray(1), all.subarray(0, 5), pooled, shared]) {
    const { length } = chunk
    freeChunk(chunk)
    assert.equal(chunk.length, length)
  }
  assert.equal(all[9], 1)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createSendPool, fittingSize } from '../../../shared/http/send-pool.ts'

const kib = 1024

test('a buffer that came back is given out again', () => {
  const pool = createSendPool(4096 * kib)
  const buffer = pool.take(256 * kib)
  assert.ok(buffer)
  pool.give(buffer)
  assert.equal(pool.take(256 * kib), buffer)
  assert.deepEqual(pool.stats(), { aliveBytes: 256 * kib, freeBytes: 0 })
})

test('the limit holds for large buffers, and small ones are given beyond it but not kept', () => {
  const pool = createSendPool(1024 * kib)
  const large = pool.take(1024 * kib)
  assert.ok(large)
  assert.equal(pool.take(1024 * kib), undefined)
  assert.equal(pool.take(256 * kib), undefined)
  const small = pool.take(64 * kib)
  pool.give(small)
  assert.deepEqual(pool.stats(), { aliveBytes: 1024 * kib, freeBytes: 0 })
})

test('free buffers of another size make room', () => {
  const pool = createSendPool(1024 * kib)
  const four = Array.from({ length: 4 }, () => pool.take(256 * kib))
  assert.equal(pool.take(1024 * kib), undefined)
  for (const buffer of four) pool.give(buffer ?? assert.fail())
  assert.equal(pool.take(1024 * kib)?.length, 1024 * kib)
  assert.deepEqual(pool.stats(), { aliveBytes: 1024 * kib, freeBytes: 0 })
})

test('a lost buffer no longer counts', () => {
  const pool = createSendPool(1024 * kib)
  pool.lose(pool.take(64 * kib))
  assert.deepEqual(pool.stats(), { aliveBytes: 0, freeBytes: 0 })
})

test('the fitting size is the smallest that holds the bytes, up to the largest', () => {
  const sizes = [1, 64 * kib, 64 * kib + 1, 300 * kib, 9000 * kib]
  assert.deepEqual(
    sizes.map((size) => fittingSize(size, 1024 * kib) / kib),
    [64, 64, 256, 1024, 1024],
  )
  assert.equal(fittingSize(300 * kib, 256 * kib), 256 * kib)
})

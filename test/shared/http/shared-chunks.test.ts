import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createSendPool } from '../../../shared/http/send-pool.ts'
import { createSharedChunks } from '../../../shared/http/shared-chunks.ts'

const mib = 1024 * 1024

/** Chunks in a pool, and how much is asked of each file at once. */
function createStand(maxBytes = 64 * mib) {
  const pool = createSendPool(maxBytes, () => chunks.reclaim())
  const chunks = createSharedChunks(pool)
  const join = (size: number) => {
    const asked: number[] = []
    const read = async (buffer: Buffer): Promise<number> => {
      asked.push(buffer.length)
      return buffer.length
    }
    return { asked, reader: chunks.join({ identity: {}, size, read }) }
  }
  return { pool, chunks, join }
}

test('who is served alone has a large file read in large chunks, and nobody after it while it lasts', async () => {
  const { pool, chunks, join } = createStand()
  const first = join(100 * mib)
  const pieces = [await first.reader.take(0), await first.reader.take(16 * mib)]
  assert.deepEqual(first.asked, [16 * mib, 16 * mib])
  const second = join(100 * mib)
  const other = await second.reader.take(2 * mib)
  assert.deepEqual(second.asked, [2 * mib])
  for (const piece of [...pieces, other]) piece?.release()
  for (const { reader } of [first, second]) reader.leave()
  const third = join(100 * mib)
  const again = await third.reader.take(0)
  assert.deepEqual(third.asked, [16 * mib])
  again?.release()
  third.reader.leave()
  const { aliveBytes, freeBytes } = pool.stats()
  assert.equal(aliveBytes, freeBytes + chunks.idleBytes(), 'all buffers are back')
})

test('a pool that large chunks would fill has none', async () => {
  const { join } = createStand(6 * mib)
  const { asked, reader } = join(100 * mib)
  const piece = await reader.take(0)
  assert.deepEqual(asked, [2 * mib])
  piece?.release()
  reader.leave()
})

test('a chunk is at most a quarter of its file', async () => {
  const { join } = createStand()
  const { asked, reader } = join(63 * mib)
  const piece = await reader.take(0)
  assert.deepEqual(asked, [8 * mib])
  piece?.release()
  reader.leave()
})

test('a file of a few chunks is read in chunks of the usual size', async () => {
  const { join } = createStand()
  const { asked, reader } = join(31 * mib)
  const piece = await reader.take(0)
  assert.deepEqual(asked, [2 * mib])
  assert.equal(piece?.bytes.length, 2 * mib)
  piece?.release()
  reader.leave()
})

test('a chunk that two send is read once, and counted once until both have let it go', async () => {
  const { pool, chunks } = createStand()
  const identity = {}
  let reads = 0
  const read = async (buffer: Buffer): Promise<number> => {
    reads++
    return buffer.length
  }
  const readers = [1, 2].map(() => chunks.join({ identity, size: 40 * mib, read }))
  const pieces = await Promise.all(readers.map((reader) => reader.take(0)))
  assert.equal(reads, 1)
  pieces[0]?.release()
  assert.equal(chunks.idleBytes(), 0)
  pieces[1]?.release()
  assert.equal(chunks.idleBytes(), 8 * mib)
  for (const reader of readers) reader.leave()
  assert.equal(pool.stats().aliveBytes, 8 * mib)
})

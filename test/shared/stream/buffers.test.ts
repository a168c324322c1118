import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { bufferBytes, createBufferPool, type PooledBuffer } from '../../../shared/stream/buffers.ts'

const fourBuffers = { bytes: 4 * bufferBytes }

test('a full pool makes the next taker wait until a buffer is released', async () => {
  const pool = createBufferPool(fourBuffers)
  const taken = await Promise.all([pool.take(), pool.take(), pool.take(), pool.take()])
  const next = pool.take()
  assert.deepEqual({ ...pool.stats }, { ...pool.stats, allocated: 4, inUse: 4, waiting: 1 })
  taken[1].retain()
  taken[1].release()
  assert.equal(pool.stats.waiting, 1)
  taken[1].release()
  assert.equal(await next, taken[1])
})

test('a taker that gives up does not swallow a buffer', async () => {
  const pool = createBufferPool(fourBuffers)
  const taken = await Promise.all([pool.take(), pool.take(), pool.take(), pool.take()])
  const controller = new AbortController()
  const gone = pool.take(controller.signal)
  const patient = pool.take()
  controller.abort(new Error('gone'))
  await assert.rejects(gone, /gone/)
  taken[0].release()
  assert.equal(await patient, taken[0])
  await assert.rejects(pool.take(AbortSignal.abort(new Error('before'))), /before/)
})

test('a cached buffer stays readable until the room is needed, the oldest goes first', async () => {
  const pool = createBufferPool(fourBuffers)
  const reclaimed: number[] = []
  const buffers = await Promise.all([pool.take(), pool.take(), pool.take(), pool.take()])
  buffers.forEach((buffer, index) => {
    buffer.cache(() => reclaimed.push(index))
    buffer.release()
  })
  assert.equal(pool.stats.cached, 4)
  buffers[0].retain()
  buffers[0].release()
  await pool.take()
  await pool.take()
  assert.deepEqual(reclaimed, [1, 2])
  buffers[3].uncache()
  await pool.take()
  await pool.take()
  assert.deepEqual(reclaimed, [1, 2, 0])
})

test('readers together hold at most a quarter of the buffers', async () => {
  const pool = createBufferPool({ bytes: 8 * bufferBytes })
  const buffers = await Promise.all([pool.take(), pool.take(), pool.take()])
  const [first, second] = [buffers[0].lend(), buffers[1].lend()]
  assert.ok(first !== undefined && second !== undefined)
  assert.equal(buffers[2].lend(), undefined)
  const again = buffers[0].lend()
  assert.ok(again !== undefined, 'a buffer that is lent already costs nothing more')
  first()
  first()
  assert.equal(buffers[2].lend(), undefined)
  again()
  assert.ok(buffers[2].lend() !== undefined)
})

test('one release too many is a bug that shows', async () => {
  const pool = createBufferPool(fourBuffers)
  const buffer = await pool.take()
  buffer.release()
  assert.throws(() => buffer.release(), /more often/)
})

test('trim gives back what nothing refers to', async () => {
  const pool = createBufferPool(fourBuffers)
  const [kept, cached] = await Promise.all([pool.take(), pool.take()])
  cached.cache(() => undefined)
  cached.release()
  pool.trim()
  assert.deepEqual({ ...pool.stats }, { ...pool.stats, allocated: 1, inUse: 1, cached: 0 })
  kept.release()
})

test('whatever is done, no buffer is given to two owners and none is lost', async () => {
  const step = fc.record({
    kind: fc.constantFrom('take', 'retain', 'release', 'cache', 'uncache', 'lend', 'unlend'),
    pick: fc.nat(),
  })
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
      const pool = createBufferPool(fourBuffers)
      const owned: PooledBuffer[] = []
      const loans: (() => void)[] = []
      const taking: Promise<unknown>[] = []
      for (const { kind, pick } of steps) {
        const buffer = owned[pick % Math.max(owned.length, 1)]
        if (kind === 'take') {
          taking.push(
            pool.take().then((given) => {
              assert.ok(!owned.includes(given), 'given to two owners')
              owned.push(given)
            }),
          )
          await Promise.resolve()
        }
        if (kind === 'unlend') loans.shift()?.()
        if (buffer === undefined) continue
        if (kind === 'retain') {
          buffer.retain()
          owned.push(buffer)
        }
        if (kind === 'release') {
          owned.splice(owned.indexOf(buffer), 1)
          const shared = owned.includes(buffer)
          if (!shared) buffer.uncache()
          buffer.release()
        }
        if (kind === 'cache') buffer.cache(() => undefined)
        if (kind === 'uncache') buffer.uncache()
        if (kind === 'lend') {
          const unlend = buffer.lend()
          if (unlend !== undefined) loans.push(unlend)
        }
        const { allocated, lent, capacity } = pool.stats
        assert.ok(allocated <= capacity && lent <= 1)
      }
      for (const unlend of loans) unlend()
      while (pool.stats.waiting > 0 || owned.length > 0) {
        owned.pop()?.release()
        await Promise.resolve()
      }
      await Promise.all(taking)
      while (owned.length > 0) owned.pop()?.release()
      assert.equal(pool.stats.inUse, 0)
    }),
    { numRuns: 200 },
  )
})

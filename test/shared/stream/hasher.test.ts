import assert from 'node:assert/strict'
import { test } from 'node:test'
import { digestOf } from '../../../shared/oci/digest.ts'
import { createBufferPool } from '../../../shared/stream/buffers.ts'
import { createHasher } from '../../../shared/stream/hasher.ts'

const onWorker = { workerFromBytes: 0 }

for (const [place, options] of [
  ['on the worker', onWorker],
  ['in place', { workerFromBytes: Infinity }],
] as const) {
  test(`many hashes run side by side ${place}, each in its own order`, async () => {
    const hasher = createHasher(options)
    try {
      const pool = createBufferPool()
      const jobs = (['sha256', 'sha512'] as const).flatMap((algorithm) =>
        [1, 2, 3].map((seed) => ({ algorithm, seed, hash: hasher.start(algorithm, 10) })),
      )
      const wanted = new Map<object, Buffer[]>()
      for (let round = 0; round < 4; round++) {
        for (const job of jobs) {
          const buffer = await pool.take()
          const bytes = buffer.bytes.subarray(0, 1000 + round).fill(job.seed * 16 + round)
          wanted.set(job, [...(wanted.get(job) ?? []), Buffer.from(bytes)])
          void job.hash.update(bytes).then(() => {
            bytes.fill(0)
            buffer.release()
          })
        }
      }
      for (const job of jobs) {
        const bytes = Buffer.concat(wanted.get(job) ?? [])
        assert.equal(await job.hash.digest(), digestOf(bytes, job.algorithm))
      }
      assert.equal(pool.stats.inUse, 0)
    } finally {
      await hasher.close()
    }
  })
}

test('a dropped hash is forgotten and disturbs no other', async () => {
  const hasher = createHasher(onWorker)
  try {
    const [dropped, kept] = [hasher.start('sha256', 1), hasher.start('sha256', 1)]
    const bytes = Buffer.from('content')
    await Promise.all([dropped.update(bytes), kept.update(bytes)])
    dropped.drop()
    assert.equal(await kept.digest(), digestOf(bytes))
  } finally {
    await hasher.close()
  }
})

test('a closed thread fails what waits for it, and a new one is started when needed', async () => {
  const hasher = createHasher(onWorker)
  const orphan = hasher.start('sha256', 1)
  await hasher.close()
  await assert.rejects(orphan.digest(), /hash thread ended/)
  const hash = hasher.start('sha256', 1)
  assert.equal(await hash.digest(), digestOf(Buffer.alloc(0)))
  await hasher.close()
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PullCounts } from '../../../primary/registry/pull-counts.ts'
import type { CountedPulls } from '../../../primary/store/pulls.ts'
import { digestOf } from '../../../shared/oci/digest.ts'

const manifest = (id: number) => ({ id, digest: digestOf(Buffer.from(String(id))) })

function open({ fail = () => false }: { fail?: () => boolean } = {}) {
  const written: (readonly CountedPulls[])[] = []
  const errors: unknown[] = []
  const counts = new PullCounts({
    add: async (counted) => {
      if (fail()) throw new Error('the database is away')
      written.push(counted)
    },
    onError: (error) => errors.push(error),
    now: () => new Date(),
    intervalMs: 5,
  })
  return { counts, written, errors }
}

test('GETs of a second are written once, by manifest', async () => {
  const { counts, written } = open()
  counts.count(1, manifest(7), 'latest')
  counts.count(1, manifest(7), 'v1')
  counts.count(1, manifest(7), 'v1')
  counts.count(1, manifest(7), undefined)
  counts.count(2, manifest(8), undefined)
  await counts.flush()
  assert.equal(written.length, 1)
  const [first, second] = written[0] ?? []
  assert.deepEqual([first?.byTag, first?.byDigest, first?.tags], [3, 1, ['latest', 'v1']])
  assert.deepEqual([second?.repositoryId, second?.byTag, second?.byDigest], [2, 0, 1])
  await counts.flush()
  assert.equal(written.length, 1, 'nothing to write, nothing written')
})

test('counts are written by themselves after the interval', async () => {
  const { counts, written } = open()
  counts.count(1, manifest(1), undefined)
  while (written.length === 0) await new Promise((resolve) => setTimeout(resolve, 5))
  assert.equal(written[0]?.[0]?.byDigest, 1)
})

test('what could not be written is reported, kept, and written later', async () => {
  let away = true
  const { counts, written, errors } = open({ fail: () => away })
  counts.count(1, manifest(1), 'a')
  await counts.flush()
  assert.equal(errors.length, 1)
  counts.count(1, manifest(1), undefined)
  away = false
  await counts.close()
  assert.deepEqual([written[0]?.[0]?.byTag, written[0]?.[0]?.byDigest], [1, 1])
})

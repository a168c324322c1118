import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { createGdsf } from '../../../edge/cache/gdsf.ts'
import type { Digest } from '../../../shared/oci/digest.ts'

const digestOf = (n: number): Digest => `sha256:${n.toString(16).padStart(64, '0')}` as Digest
const nobody = (): boolean => false

test('of blobs that are asked for alike the larger one goes, but not in proportion to its size', () => {
  const gdsf = createGdsf()
  const [small, large] = [digestOf(1), digestOf(2)]
  gdsf.add(small, { bytes: 100, now: 0 })
  gdsf.add(large, { bytes: 400, now: 0 })
  // Four times the size is made good by little more than twice the uses.
  gdsf.use(large, 1)
  gdsf.use(large, 2)
  assert.equal(gdsf.giveUp(3, nobody)?.digest, small)
})

test('what was used often, long ago, goes in the end', () => {
  const gdsf = createGdsf()
  const old = digestOf(0)
  gdsf.add(old, { bytes: 100, now: 0 })
  for (let i = 0; i < 5; i++) gdsf.use(old, i)
  const gone: (Digest | undefined)[] = []
  for (let n = 1; n <= 20 && !gone.includes(old); n++) {
    gdsf.add(digestOf(n), { bytes: 100, now: n })
    gone.push(gdsf.giveUp(n, nobody)?.digest)
  }
  assert.equal(gone.indexOf(old), 5)
})

test('what comes back soon begins with the uses it had, and says when it went', () => {
  const gdsf = createGdsf()
  const [back, other] = [digestOf(1), digestOf(2)]
  gdsf.add(back, { bytes: 100, now: 0 })
  gdsf.use(back, 1)
  assert.equal(gdsf.giveUp(7, nobody)?.digest, back)
  assert.equal(gdsf.add(back, { bytes: 100, now: 8 }), 7)
  assert.equal(gdsf.add(other, { bytes: 100, now: 9 }), undefined)
  assert.equal(gdsf.recordOf(back)?.uses, 3)
  assert.equal(gdsf.giveUp(10, nobody)?.digest, other)
})

test('what is dear to fetch again stays longer; what is dead goes first', () => {
  const gdsf = createGdsf()
  const [dear, usual, dead] = [digestOf(1), digestOf(2), digestOf(3)]
  for (const digest of [dear, usual, dead]) gdsf.add(digest, { bytes: 100, now: 0 })
  gdsf.setCost(dear, 4)
  gdsf.use(dead, 1)
  gdsf.demote(dead)
  const order = [1, 2, 3].map((now) => gdsf.giveUp(now, nobody)?.digest)
  assert.deepEqual(order, [dead, usual, dear])
})

test('after a restart the order is as before, and blobs without a record go first', () => {
  const before = createGdsf()
  for (const n of [1, 2, 3]) before.add(digestOf(n), { bytes: 100 * n, now: n })
  before.use(digestOf(3), 5)
  before.use(digestOf(3), 6)
  const after = createGdsf()
  after.restore([
    ...[1, 2, 3].map((n) => ({
      digest: digestOf(n),
      bytes: 100 * n,
      record: before.recordOf(digestOf(n)),
    })),
    { digest: digestOf(4), bytes: 1, record: undefined },
  ])
  assert.equal(after.count, 4)
  const order = [1, 2, 3, 4].map(() => after.giveUp(9, nobody)?.digest)
  assert.equal(order[0], digestOf(4))
  assert.deepEqual(
    order.slice(1),
    [1, 2, 3].map(() => before.giveUp(9, nobody)?.digest),
  )
})

/** The definition, read off at every step. */
interface Model {
  readonly blobs: Map<Digest, { bytes: number; uses: number; cost: number; priority: number }>
  readonly ghosts: Map<Digest, { uses: number; cost: number }>
  age: number
}

const steps = fc.array(
  fc.oneof(
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('add' as const),
        n: fc.nat(12),
        bytes: fc.integer({ min: 0, max: 1_000_000 }),
      }),
    },
    { weight: 5, arbitrary: fc.record({ kind: fc.constant('use' as const), n: fc.nat(12) }) },
    fc.record({ kind: fc.constant('demote' as const), n: fc.nat(12) }),
    fc.record({ kind: fc.constant('remove' as const), n: fc.nat(12) }),
    fc.record({
      kind: fc.constant('cost' as const),
      n: fc.nat(12),
      cost: fc.integer({ min: 1, max: 8 }),
    }),
    {
      weight: 4,
      arbitrary: fc.record({
        kind: fc.constant('giveUp' as const),
        kept: fc.uniqueArray(fc.nat(12)),
      }),
    },
  ),
  { maxLength: 200 },
)

test('for any order of calls the blob that goes is one of the lowest priority that need not stay', () => {
  fc.assert(
    fc.property(steps, (all) => {
      const gdsf = createGdsf()
      const model: Model = { blobs: new Map(), ghosts: new Map(), age: 0 }
      const priorityOf = (blob: { bytes: number; uses: number; cost: number }): number =>
        model.age + (blob.uses * blob.cost) / Math.sqrt(Math.max(blob.bytes, 1))
      for (const [now, step] of all.entries()) {
        if (step.kind === 'giveUp') {
          const kept = new Set(step.kept.map(digestOf))
          const free = [...model.blobs].filter(([digest]) => !kept.has(digest))
          const lowest = Math.min(...free.map(([, { priority }]) => priority))
          const given = gdsf.giveUp(now, (digest) => kept.has(digest))
          assert.equal(given === undefined, free.length === 0)
          if (given === undefined) continue
          const blob = model.blobs.get(given.digest)
          assert.ok(blob !== undefined && !kept.has(given.digest))
          assert.equal(blob.priority, lowest)
          assert.equal(given.bytes, blob.bytes)
          model.age = Math.max(model.age, blob.priority)
          model.blobs.delete(given.digest)
          model.ghosts.set(given.digest, blob)
          continue
        }
        const digest = digestOf(step.n)
        const blob = model.blobs.get(digest)
        if (step.kind === 'add') {
          gdsf.add(digest, { bytes: step.bytes, now })
          const uses = ((blob ?? model.ghosts.get(digest))?.uses ?? 0) + 1
          const next = {
            bytes: step.bytes,
            uses,
            cost: (blob ?? model.ghosts.get(digest))?.cost ?? 1,
          }
          model.blobs.set(digest, { ...next, priority: priorityOf(next) })
          model.ghosts.delete(digest)
        } else if (step.kind === 'remove') {
          gdsf.remove(digest)
          model.blobs.delete(digest)
        } else if (step.kind === 'use') {
          gdsf.use(digest, now)
          if (blob !== undefined) blob.priority = priorityOf({ ...blob, uses: ++blob.uses })
        } else if (step.kind === 'cost') {
          gdsf.setCost(digest, step.cost)
          if (blob !== undefined) {
            blob.cost = step.cost
            blob.priority = priorityOf(blob)
          }
        } else {
          gdsf.demote(digest)
          if (blob !== undefined) {
            blob.priority = model.age
          }
        }
        assert.equal(gdsf.count, model.blobs.size)
      }
    }),
    { numRuns: 500 },
  )
})

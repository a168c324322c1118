import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import fc from 'fast-check'
import { createSharedGdsf, ownerOf, type Share } from '../../../edge/cache/shares.ts'
import { digestOf, type Digest } from '../../../shared/oci/digest.ts'
import { openTestCache } from '../../kit/cache.ts'
import { waitFor } from '../../kit/clock.ts'
import { tempFolder } from '../../kit/temp.ts'

const nameOf = (n: number): Digest => `sha256:${n.toString(16).padStart(64, '0')}` as Digest
const nobody = (): boolean => false

test('who is above its share loses its own, however much it is used', () => {
  const gdsf = createSharedGdsf([{ owner: 'hub', part: 0.2 }])
  gdsf.add(nameOf(1), { bytes: 100, owner: 'other', now: 0 })
  for (const n of [2, 3, 4]) {
    gdsf.add(nameOf(n), { bytes: 100, owner: 'hub', now: 0 })
    for (let uses = 0; uses < n; uses++) gdsf.use(nameOf(n), 1)
  }
  const gone: (Digest | undefined)[] = []
  while (gdsf.isOver(1000))
    gone.push(gdsf.giveUp(2, nobody, { capacityBytes: 1000, only: 'shares' })?.digest)
  assert.deepEqual(gone, [nameOf(2)])
  assert.equal(gdsf.count, 3)
  // Nobody is above its share now: the lowest of all goes.
  const next = gdsf.giveUp(2, nobody, { capacityBytes: 1000, only: undefined })
  assert.equal(next?.digest, nameOf(1))
})

test('a project has a share of its own, and its upstream one of the rest', () => {
  const gdsf = createSharedGdsf([
    { owner: ownerOf({ upstream: 'primary', project: 7 }), part: 0.1 },
    { owner: 'primary', part: 0.5 },
  ])
  gdsf.add(nameOf(1), { bytes: 400, owner: ownerOf({ upstream: 'primary', project: 8 }), now: 0 })
  gdsf.add(nameOf(2), { bytes: 90, owner: ownerOf({ upstream: 'primary', project: 7 }), now: 0 })
  assert.equal(gdsf.isOver(1000), false)
  gdsf.add(nameOf(3), { bytes: 20, owner: ownerOf({ upstream: 'primary', project: 7 }), now: 0 })
  assert.ok(gdsf.isOver(1000))
  const from = { capacityBytes: 1000, only: 'shares' } as const
  assert.equal(gdsf.giveUp(1, nobody, from)?.digest, nameOf(2))
  assert.equal(gdsf.giveUp(1, nobody, from), undefined)
})

test('shares or none, the blobs that are here are those that came and did not go', () => {
  const step = fc.record({
    kind: fc.constantFrom('add', 'use', 'remove', 'giveUp', 'shares'),
    n: fc.nat(20),
    bytes: fc.integer({ min: 1, max: 300 }),
    owner: fc.constantFrom('hub', 'primary!7', 'primary!8', 'other', undefined),
  })
  const shares: readonly Share[] = [
    { owner: 'hub', part: 0.2 },
    { owner: 'primary!7', part: 0.1 },
  ]
  fc.assert(
    fc.property(fc.array(step, { maxLength: 100 }), fc.boolean(), (steps, isShared) => {
      const gdsf = createSharedGdsf(isShared ? shares : [])
      const here = new Map<Digest, { bytes: number; owner: string | undefined }>()
      const bytesOf = (owner: string) =>
        [...here.values()].reduce((sum, one) => sum + (one.owner === owner ? one.bytes : 0), 0)
      const overs = () =>
        isShared ? shares.filter(({ owner, part }) => bytesOf(owner) > part * 1000) : []
      steps.forEach(({ kind, n, bytes, owner }, now) => {
        const digest = nameOf(n)
        if (kind === 'add') {
          gdsf.add(digest, { bytes, owner, now })
          here.set(digest, { bytes, owner })
        } else if (kind === 'use') gdsf.use(digest, now)
        else if (kind === 'remove') {
          gdsf.remove(digest)
          here.delete(digest)
        } else {
          const only = kind === 'shares' ? kind : undefined
          const above = overs().map(({ owner: who }) => who)
          const given = gdsf.giveUp(now, nobody, { capacityBytes: 1000, only })
          if (only === undefined) assert.equal(given === undefined, here.size === 0)
          else assert.equal(given === undefined, above.length === 0)
          if (given === undefined) return
          if (above.length > 0) assert.ok(above.includes(here.get(given.digest)?.owner ?? ''))
          assert.ok(here.delete(given.digest))
        }
        assert.equal(gdsf.count, here.size)
        assert.equal(gdsf.isOver(1000), overs().length > 0)
      })
    }),
  )
})

test('what an upstream brings beyond its share goes from the disk, and its share is known after a restart', async (t) => {
  const root = await tempFolder(t)
  const options = {
    capacity: () => Promise.resolve(100_000),
    shares: [{ owner: 'hub', part: 0.3 }],
  }
  const first = await openTestCache(root, options)
  const put = async (cache: typeof first, owner: string): Promise<Digest> => {
    const bytes = randomBytes(10_000)
    await cache.blobs.put(digestOf(bytes), bytes, owner)
    return digestOf(bytes)
  }
  const others = [await put(first, 'quay'), await put(first, 'quay')]
  for (let n = 0; n < 5; n++) await put(first, 'hub')
  await waitFor('its own to go', () => first.blobs.total.bytes === 50_000)
  await first.close()
  const second = await openTestCache(root, options)
  t.after(() => second.close())
  await put(second, 'hub')
  await waitFor('another of its own to go', () => second.blobs.total.count === 5)
  for (const digest of others) assert.equal(second.blobs.size(digest), 10_000)
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { openPullLog, type PullLog, type PullRecords } from '../../../edge/cache/pull-log.ts'
import type { Digest } from '../../../shared/oci/digest.ts'

// A model: whatever happens between a pull and its count (lost requests and answers, disks that refuse, crashes at any
// moment), what was recorded counts once.

const digestOf = (manifest: number) => `sha256:${manifest.toString(16).padStart(64, '0')}` as Digest
const manifests = [0, 1, 2, 3, 4] as const

/** A disk that a crash takes back to what was synced, or to a little later, and that may refuse, or only say so. */
function createDisk() {
  let synced = new Map<string, unknown>()
  let later: ReadonlyMap<string, unknown>[] = []
  let fault: 'refuses' | 'lies' | undefined
  const apply = (to: Map<string, unknown>, changes: ReadonlyMap<string, unknown>) => {
    for (const [key, value] of changes)
      if (value === undefined) to.delete(key)
      else to.set(key, structuredClone(value))
  }
  const now = () => {
    const all = new Map(synced)
    for (const changes of later) apply(all, changes)
    return all
  }
  const records: PullRecords = {
    list: async () => [...now()],
    async write(changes, { sync }) {
      await Promise.resolve()
      const failing = fault
      fault = undefined
      if (failing !== 'refuses') {
        later.push(structuredClone(changes))
        if (sync) {
          synced = now()
          later = []
        }
      }
      if (failing !== undefined) throw new Error('the disk fails')
    },
  }
  return {
    records,
    failOnce(how: 'refuses' | 'lies') {
      fault = how
    },
    mend() {
      fault = undefined
    },
    crash(kept: number) {
      later = later.slice(0, kept)
      synced = now()
      later = []
      fault = undefined
    },
    get size() {
      return now().size
    },
  }
}

/** What the primary has counted, by manifest. */
function createCounter() {
  const last = new Map<string, number>()
  const counts = new Map<Digest, number>()
  return {
    counts,
    apply({ log, n, pulls }: NonNullable<Awaited<ReturnType<PullLog['next']>>>): number {
      const before = last.get(log) ?? 0
      if (n <= before) return before
      last.set(log, n)
      for (const { digest, count } of pulls) counts.set(digest, (counts.get(digest) ?? 0) + count)
      return n
    },
  }
}

const step = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant('record' as const),
      pulled: fc.array(fc.constantFrom(...manifests), { minLength: 1, maxLength: 4 }),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({
      kind: fc.constant('tell' as const),
      lost: fc.constantFrom('nothing', 'nothing', 'request', 'answer'),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({ kind: fc.constant('crash' as const), kept: fc.nat(2) }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant('fault' as const),
      how: fc.constantFrom('refuses' as const, 'lies' as const),
    }),
  },
)

const options = {
  batchPulls: 2,
  mostWaiting: 100,
  onLost: () => assert.fail('nothing is too much'),
}

test('what is recorded counts once, whatever is lost, refused or killed', async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const disk = createDisk()
      const primary = createCounter()
      const open = () => openPullLog({ ...options, records: disk.records })
      let log = await open()
      /** Recorded for certain, perhaps, and perhaps if nothing crashes before the next write. */
      const [sure, perhaps, atRisk] = [createSums(), createSums(), createSums()]
      const written = () => atRisk.moveTo(sure)
      const tell = async (lost = 'nothing') => {
        const batch = await log.next()
        if (batch === undefined || lost === 'request') return batch !== undefined
        const counted = primary.apply(batch)
        if (lost !== 'answer') await log.acknowledge(counted).catch(() => undefined)
        return true
      }
      for (const one of steps) {
        if (one.kind === 'fault') disk.failOnce(one.how)
        if (one.kind === 'crash') {
          disk.crash(one.kept)
          atRisk.moveTo(perhaps)
          log = await open()
        }
        if (one.kind === 'record') {
          for (const manifest of one.pulled) atRisk.add(digestOf(manifest), 1)
          const pulls = one.pulled.map((manifest) => ({
            repositoryId: 1,
            digest: digestOf(manifest),
            tag: undefined,
            count: 1,
            lastAt: 1,
          }))
          await log.record(pulls).then(written, () => undefined)
        }
        if (one.kind === 'tell') await tell(one.lost).catch(() => undefined)
      }
      disk.mend()
      await log.record([])
      written()
      while (await tell());
      assert.equal(log.waiting, 0)
      for (const manifest of manifests) {
        const digest = digestOf(manifest)
        const count = primary.counts.get(digest) ?? 0
        const [least, most] = [sure.of(digest), sure.of(digest) + perhaps.of(digest)]
        assert.ok(least <= count && count <= most, `${count} of ${least} to ${most}`)
      }
    }),
    { numRuns: 300 },
  )
})

function createSums() {
  const sums = new Map<Digest, number>()
  const add = (digest: Digest, count: number) =>
    void sums.set(digest, (sums.get(digest) ?? 0) + count)
  return {
    add,
    of: (digest: Digest) => sums.get(digest) ?? 0,
    moveTo(other: { readonly add: typeof add }) {
      for (const [digest, count] of sums) other.add(digest, count)
      sums.clear()
    },
  }
}

test('an outage takes a line for each manifest and tag, and the oldest go when they are too many', async () => {
  const disk = createDisk()
  let lost = 0
  const onLost = (count: number) => void (lost += count)
  const records = disk.records
  const log = await openPullLog({ records, batchPulls: 2, mostWaiting: 3, onLost })
  const pull = (manifest: number, at: number) => ({
    repositoryId: 1,
    digest: digestOf(manifest),
    tag: undefined,
    count: 1,
    lastAt: at,
  })
  await log.record([pull(0, 0)])
  for (let at = 1; at <= 100; at++) await log.record([pull(1, at), pull(2, at)])
  // The log's record, the batch on its way, and two lines.
  assert.equal(disk.size, 4)
  assert.equal(log.waiting, 201)
  await log.record([pull(3, 101), pull(4, 102)])
  assert.equal(lost, 100)
  await log.record([pull(2, 103)])
  const again = await openPullLog({ records, batchPulls: 2, mostWaiting: 3, onLost })
  assert.equal(again.waiting, log.waiting)
  const batch = await again.next()
  assert.deepEqual(batch?.pulls, [pull(0, 0)])
  await again.acknowledge(1)
  const next = await again.next()
  assert.deepEqual([next?.n, next?.pulls], [2, [pull(3, 101), pull(4, 102)]])
})

test('a folder that was put back from a copy goes on behind what was counted since', async () => {
  const { records } = createDisk()
  const log = await openPullLog({ ...options, records })
  const pull = { repositoryId: 1, digest: digestOf(1), tag: undefined, count: 1, lastAt: 1 }
  await log.record([pull])
  await log.acknowledge(7)
  await log.record([pull])
  const batch = await log.next()
  assert.equal(batch?.n, 8)
})

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { setImmediate as turn, setTimeout as delay } from 'node:timers/promises'
import { test } from 'node:test'
import type { BorrowedBytes, FillReader } from '../../../shared/fill/fills.ts'
import type { BlobSource } from '../../../shared/stream/blob-source.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { waitFor } from '../../kit/clock.ts'
import { only, readFrom, withFills, type FillRig } from '../../kit/fill.ts'
import { createScriptedSource } from '../../kit/source.ts'

const mib = 1024 * 1024
const kib = 1024
const blob = randomBytes(5 * mib + 4321)
const digest = digestOf(blob)
const big = randomBytes(40 * mib + 11)
const bigDigest = digestOf(big)

/** A source whose first request stops after so many bytes until it is let go on. */
function gated(content: Buffer, waitAfter: number) {
  const gate = Promise.withResolvers<void>()
  const source = createScriptedSource(content, {
    script: (request) => (request === 0 ? { waitAfter, waitFor: gate.promise } : undefined),
  })
  return { source, open: gate.resolve }
}

test('readers at any offset get the right bytes from one request', () =>
  withFills({}, async ({ join }) => {
    const source = createScriptedSource(blob)
    const starts = [0, 1, mib - 1, mib, 2 * mib + 77, blob.length - 1, blob.length - 70_000]
    const bodies = await Promise.all(
      starts.map(async (start, index) =>
        readFrom(await join(digest, only(source)), {
          start,
          borrow: index % 2 === 0,
          chunk: 99_991,
        }),
      ),
    )
    bodies.forEach((body, index) => assert.ok(body.equals(blob.subarray(starts[index]))))
    assert.equal(source.requests.length, 1)
  }))

test('a read gives what is here at once, and does not wait for the rest of its buffer', () =>
  withFills({}, async ({ join }) => {
    const { source, open } = gated(blob, 300 * kib)
    const reader = await join(digest, only(source))
    const seen = await readFrom(await join(digest, only(source)), { end: 300 * kib })
    assert.ok(seen.equals(blob.subarray(0, 300 * kib)))
    const waiting = reader.read(Buffer.alloc(mib), 300 * kib)
    open()
    assert.ok((await waiting) > 0)
    await reader.close()
  }))

test('what has still to come is told apart from what is here, and from what somebody else may give', () =>
  withFills({}, async ({ join }) => {
    const { source, open } = gated(blob, 2 * mib)
    const reader = await join(digest, only(source))
    await readFrom(await join(digest, only(source)), { end: 2 * mib })
    const areComing = () => [0, mib + 1, 2 * mib, 3 * mib].map((at) => reader.isComing(at))
    assert.deepEqual(areComing(), [false, false, true, true])
    reader.expect({ start: blob.length - 10, end: blob.length - 1 })
    assert.equal(reader.isComing(blob.length - 10), false)
    open()
    await reader.whole()
    assert.deepEqual(areComing(), [false, false, false, false])
    await reader.close()
  }))

test('the last 64 KiB are given to nobody before the digest is proved', () =>
  withFills({}, async ({ join }) => {
    const { source, open } = gated(blob, blob.length - 1)
    const withheld = blob.length - 64 * kib
    const [whole, tail, borrower] = await Promise.all(
      [1, 2, 3].map(() => join(digest, only(source))),
    )
    assert.ok(whole && tail && borrower)
    const given = await readFrom(await join(digest, only(source)), { end: withheld })
    assert.equal(given.length, withheld)
    let early = 0
    const waiting = [
      whole.read(Buffer.alloc(mib), withheld).then(() => early++),
      tail.read(Buffer.alloc(1), blob.length - 5).then(() => early++),
      borrower.borrow(withheld, 10).then(() => early++),
    ]
    await delay(50)
    assert.equal(early, 0)
    const over = await whole.read(Buffer.alloc(mib), withheld - 10)
    assert.equal(over, 10)
    open()
    await Promise.all(waiting)
    await Promise.all([whole, tail, borrower].map((reader) => reader.close()))
  }))

test('a blob that is smaller than what is withheld is given as a whole or not at all', () =>
  withFills({}, async ({ join, ended }) => {
    const small = randomBytes(50 * kib)
    const { source, open } = gated(small, small.length - 1)
    const reader = await join(digestOf(small), only(source))
    let early = 0
    const reading = reader.read(Buffer.alloc(10), 0).then(() => early++)
    await delay(30)
    assert.equal(early, 0)
    open()
    await reading
    await reader.close()
    await ended()
  }))

test('a range far beyond the front has a request of its own, and its bytes are kept', () =>
  withFills({}, async ({ join, ended }) => {
    const { source, open } = gated(big, 2 * mib)
    const far = await readFrom(await join(bigDigest, only(source)), {
      start: 24 * mib,
      end: 25 * mib,
    })
    assert.ok(far.equals(big.subarray(24 * mib, 25 * mib)))
    assert.deepEqual(
      source.requests.map(({ offset, end }) => [offset, end]),
      [
        [0, undefined],
        [24 * mib, 32 * mib],
      ],
    )
    open()
    assert.equal((await ended()).kind, 'stored')
    assert.equal(source.deliveredBytes, big.length)
    // The front stops where the segment begins and goes on behind it.
    assert.equal(source.requests[2]?.offset, 32 * mib)
    assert.equal(source.requests.length, 3)
  }))

test('a range near the front waits for it', () =>
  withFills({}, async ({ join }) => {
    const { source, open } = gated(big, mib)
    const near = join(bigDigest, only(source)).then((reader) =>
      readFrom(reader, { start: 16 * mib, end: 17 * mib }),
    )
    await delay(30)
    assert.equal(source.requests.length, 1)
    open()
    assert.ok((await near).equals(big.subarray(16 * mib, 17 * mib)))
    assert.equal(source.requests.length, 1)
  }))

test('clients that fetch open-ended chunks three at a time follow one request', () =>
  withFills({}, async ({ join, ended }) => {
    const source = createScriptedSource(big)
    const client = async () => {
      const chunks = [0, 8, 16, 24, 32, 40].map((at) => at * mib)
      const fetchNext = async (): Promise<void> => {
        const start = chunks.shift()
        if (start === undefined) return
        const end = Math.min(start + 8 * mib, big.length)
        const reader = await join(bigDigest, only(source))
        reader.expect({ start, end: big.length - 1 })
        assert.ok((await readFrom(reader, { start, end })).equals(big.subarray(start, end)))
        return fetchNext()
      }
      await Promise.all([fetchNext(), fetchNext(), fetchNext()])
    }
    await Promise.all(Array.from({ length: 6 }, client))
    assert.equal((await ended()).kind, 'stored')
    assert.equal(source.requests.length, 1)
    assert.equal(source.deliveredBytes, big.length)
  }))

test('an open-ended range that is abandoned costs at most the segment under way', () =>
  withFills({ unowned: { bytes: 0 } }, async ({ join, ended }) => {
    const { source } = gated(big, mib)
    const reader = await join(bigDigest, only(source))
    await reader.read(Buffer.alloc(10), 24 * mib + 5)
    await reader.close()
    await ended()
    assert.ok(source.deliveredBytes <= mib + 8 * mib)
  }))

test('two distant readers of one segment share its request', () =>
  withFills({}, async ({ join }) => {
    const { source, open } = gated(big, mib)
    const reads: { reader: FillReader; start: number }[] = []
    for (const at of [26, 27, 26.5, 30])
      reads.push({ reader: await join(bigDigest, only(source)), start: at * mib })
    await Promise.all(
      reads.map(async ({ reader, start }) => {
        const end = start + 100
        assert.ok((await readFrom(reader, { start, end })).equals(big.subarray(start, end)))
      }),
    )
    assert.equal(source.requests.length, 2)
    open()
  }))

test('a distant request that is cut is taken over, and if all fail the front still comes', () =>
  withFills({}, async ({ join }) => {
    const gate = Promise.withResolvers<void>()
    const source = createScriptedSource(big, {
      script: (request) => {
        if (request === 0) return { waitAfter: mib, waitFor: gate.promise }
        return request === 1 ? { cutAfter: 100 } : { fail: 'refused' }
      },
    })
    const other = createScriptedSource(big, { name: 'other', script: () => ({ cutAfter: 0 }) })
    const reading = join(bigDigest, [source, other]).then((reader) =>
      readFrom(reader, { start: 30 * mib, end: 31 * mib }),
    )
    await waitFor('both to fail', () => other.requests.length === 1)
    gate.resolve()
    assert.ok((await reading).equals(big.subarray(30 * mib, 31 * mib)))
  }))

test('a source without ranges is of no use to a distant reader, who then waits for the front', () =>
  withFills({}, async ({ join }) => {
    const gate = Promise.withResolvers<void>()
    const source = createScriptedSource(big, {
      script: (request) => ({
        ignoreRange: true,
        ...(request === 0 && { waitAfter: mib, waitFor: gate.promise }),
      }),
    })
    const reading = join(bigDigest, only(source)).then((reader) =>
      readFrom(reader, { start: 30 * mib, end: 31 * mib }),
    )
    await waitFor('the second request', () => source.requests.length === 2)
    gate.resolve()
    assert.ok((await reading).equals(big.subarray(30 * mib, 31 * mib)))
    assert.equal(source.requests.length, 2)
  }))

test('without a disk and without ranges a slow reader gets it all, by a request of its own', () =>
  withFills({ poolBuffers: 4 }, async ({ join, disk, ended }) => {
    disk.fail('write', 'ENOSPC', 0)
    const source = createScriptedSource(big, { script: () => ({ ignoreRange: true }) })
    const late = await join(bigDigest, only(source))
    await ended()
    assert.ok((await readFrom(late)).equals(big))
    // The fill's, one for the first piece, by which nothing shows, and one for all the others.
    assert.equal(source.requests.length, 3)
  }))

test('a closed range inside the withheld tail does not wait for the whole blob', () =>
  withFills({ tailBypassMs: 30 }, async ({ join, ended }) => {
    const { source, open } = gated(blob, mib)
    const start = blob.length - 20 * kib
    const closed = await join(digest, only(source))
    closed.expect({ start, end: blob.length - 1 })
    assert.ok((await readFrom(closed, { start })).equals(blob.subarray(start)))
    // Uncached: the fill fetches these bytes again in its turn.
    assert.equal(source.requests[1]?.offset, start)
    const whole = await join(digest, only(source))
    let early = 0
    const waiting = whole.read(Buffer.alloc(10), start).then(() => early++)
    await delay(60)
    assert.equal(early, 0, 'whoever reads the whole must wait')
    open()
    await waiting
    await whole.close()
    await ended()
  }))

test('nothing of the tail comes unproved from who only stands in for the upstream', async () => {
  const start = blob.length - 20 * kib
  const readTail = async (join: FillRig['join'], sources: readonly BlobSource[]) => {
    const reader = await join(digest, sources)
    reader.expect({ start, end: blob.length - 1 })
    return readFrom(reader, { start })
  }
  await withFills({ tailBypassMs: 30 }, async ({ join, ended }) => {
    const { source, open } = gated(blob, mib)
    const origin = createScriptedSource(blob, { name: 'upstream' })
    const tail = await readTail(join, [{ ...source, isStandIn: true }, origin])
    assert.ok(tail.equals(blob.subarray(start)))
    assert.equal(source.requests.length, 1)
    assert.equal(origin.requests[0]?.offset, start)
    open()
    await ended()
  })
  await withFills({ tailBypassMs: 30, attempts: 2 }, async ({ join, ended }) => {
    const { source, open } = gated(blob, mib)
    const origin = createScriptedSource(blob, {
      name: 'upstream',
      script: () => ({ fail: 'busy' }),
    })
    const reading = readTail(join, [{ ...source, isStandIn: true }, origin])
    await waitFor('the upstream to be asked', () => origin.requests.length > 0)
    open()
    assert.ok((await reading).equals(blob.subarray(start)), 'it waits for the proof')
    await ended()
  })
})

test('a reader that never reads does not slow the fill', () =>
  withFills({ poolBuffers: 6 }, async ({ join, ended }) => {
    const source = createScriptedSource(big)
    const idle = await join(bigDigest, only(source))
    const lent = await idle.borrow(0, mib)
    assert.ok(lent !== undefined)
    assert.equal((await ended()).kind, 'stored')
    assert.ok(lent.bytes.equals(big.subarray(0, lent.bytes.length)), 'lent bytes stay as they are')
    lent.release()
    assert.ok((await readFrom(idle)).equals(big))
  }))

test('readers hold at most a quarter of the pool, whatever they borrow', () =>
  withFills({ poolBuffers: 16, windowPieces: 16 }, async ({ join, ended, pool }) => {
    const { source, open } = gated(big, 12 * mib)
    const reader = await join(bigDigest, only(source))
    await readFrom(await join(bigDigest, only(source)), { end: 12 * mib })
    const loans: BorrowedBytes[] = []
    for (let piece = 0; piece < 12; piece++) {
      const lent = await reader.borrow(piece * mib, mib)
      if (lent !== undefined) loans.push(lent)
    }
    assert.ok(loans.length > 0 && pool.stats.lent <= 4, `${pool.stats.lent} are lent`)
    const buffer = Buffer.alloc(100)
    await reader.read(buffer, 11 * mib)
    assert.ok(buffer.equals(big.subarray(11 * mib, 11 * mib + 100)), 'the file serves the others')
    open()
    await ended()
    await reader.close()
  }))

test('a reader that was slow to write reads the file until it is quick again', () =>
  withFills({ slowReaderMs: 20 }, async ({ join }) => {
    const { source, open } = gated(big, 10 * mib)
    const reader = await join(bigDigest, only(source))
    await readFrom(await join(bigDigest, only(source)), { end: 10 * mib })
    const at = 9 * mib
    const first = await reader.borrow(at, 100)
    assert.ok(first !== undefined)
    await delay(40)
    first.release()
    assert.equal(await reader.borrow(at, 100), undefined)
    for (let reads = 0; reads < 8; reads++) await reader.read(Buffer.alloc(10), at)
    const again = await reader.borrow(at, 100)
    assert.ok(again !== undefined)
    again.release()
    await reader.close()
    open()
  }))

test('200 readers that abort with bytes in their hands leave no buffer behind', () =>
  withFills({ poolBuffers: 8 }, async ({ join, ended, pool }) => {
    const source = createScriptedSource(big)
    const good = join(bigDigest, only(source)).then((reader) => readFrom(reader))
    await Promise.all(
      Array.from({ length: 200 }, async (_, index) => {
        const reader = await join(bigDigest, only(source))
        const offset = (index * 191) % (30 * mib)
        // A write callback never comes after an abort: nothing is released but by the close.
        await Promise.race([reader.borrow(offset, mib), delay(index % 20)])
        await reader.close()
        await reader.close()
      }),
    )
    assert.ok((await good).equals(big))
    assert.equal((await ended()).kind, 'stored')
    assert.equal(pool.stats.lent, 0)
  }))

test('a closed reader wakes and fails what it was waiting for', () =>
  withFills({}, async ({ join }) => {
    const { source, open } = gated(blob, mib)
    const reader = await join(digest, only(source))
    const reading = reader.read(Buffer.alloc(10), 3 * mib)
    const borrowing = reader.borrow(3 * mib, 10)
    await turn()
    await reader.close()
    await assert.rejects(reading, /closed/)
    await assert.rejects(borrowing, /closed/)
    open()
  }))

test('bytes lent before a mismatch do not change under the writer', () =>
  withFills({}, async ({ join, ended }) => {
    const gate = Promise.withResolvers<void>()
    const liar = createScriptedSource(blob, {
      script: (request) =>
        request === 0 ? { flipAt: 10, waitAfter: 4 * mib, waitFor: gate.promise } : undefined,
    })
    const reader = await join(digest, only(liar))
    const lent = await reader.borrow(0, mib)
    assert.ok(lent !== undefined)
    const copy = Buffer.from(lent.bytes)
    gate.resolve()
    assert.equal((await ended()).kind, 'stored')
    assert.ok(copy.equals(lent.bytes))
    await assert.rejects(reader.read(Buffer.alloc(1), 0), { code: 'broken' })
    await reader.close()
  }))

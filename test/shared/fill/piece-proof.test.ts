import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { createSpread } from '../../../edge/sources/spread.ts'
import type { FillStart } from '../../../shared/fill/fills.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import type { SourceError } from '../../../shared/stream/blob-source.ts'
import { waitFor } from '../../kit/clock.ts'
import { only, proofOf, readFrom, withFills, type FillRig } from '../../kit/fill.ts'
import { createScriptedSource, type RequestScript } from '../../kit/source.ts'
import { createTestDisk } from '../../kit/sink.ts'

const mib = 1024 * 1024
const kib = 1024
const blob = randomBytes(12 * mib + 11)
const digest = digestOf(blob)
const proof = proofOf(blob)
const listed: Partial<FillStart> = { proof: async () => proof }

const source = (name: string, script?: (request: number, offset: number) => RequestScript) =>
  createScriptedSource(blob, { name, ...(script && { script }) })

/** One that has one byte wrong, whenever it is asked. */
const liar = (flipAt: number, name = 'liar') => source(name, () => ({ flipAt }))

async function stored({ ended, disk }: FillRig): Promise<void> {
  assert.equal((await ended()).kind, 'stored')
  assert.ok((await disk.content())?.equals(blob))
}

test('who flips one byte is named, and nobody sees it: the next source brings that piece at once', () =>
  withFills({}, async (rig) => {
    const [lying, origin] = [liar(5 * mib + 7), source('origin')]
    const reader = await rig.join(digest, [lying, origin], listed)
    assert.ok((await readFrom(reader)).equals(blob))
    await stored(rig)
    assert.deepEqual([rig.liars, rig.wrongPieces], [['liar'], ['liar']])
    assert.equal(origin.requests[0]?.offset, 5 * mib)
    assert.equal(lying.requests.length, 1)
  }))

test('without a list nobody is named, and who read it is cut', () =>
  withFills({}, async (rig) => {
    const [lying, origin] = [liar(5 * mib + 7), source('origin')]
    const reader = await rig.join(digest, [lying, origin])
    await assert.rejects(readFrom(reader), { code: 'broken' })
    await stored(rig)
  }))

test('no range has a wrong byte, whoever lies about which piece', async () => {
  for (let run = 0; run < 6; run++) {
    await withFills({ distantBytes: 2 * mib }, async (rig) => {
      const flips = [...randomBytes(3)].map((byte) => Math.floor((byte / 256) * blob.length))
      const sources = [...flips.map((at, index) => liar(at, `liar-${index}`)), source('origin')]
      const ranges = Array.from({ length: 5 }, () => {
        const [one = 0, other = 0] = [...randomBytes(2)].map((byte) =>
          Math.floor((byte / 255) * blob.length),
        )
        return { start: Math.min(one, other), end: Math.max(one, other) }
      })
      const whole = rig.join(digest, sources, listed).then((reader) => readFrom(reader))
      const parts = ranges.map(async ({ start, end }) => {
        const reader = await rig.join(digest, sources, listed)
        if (end > start) reader.expect({ start, end: end - 1 })
        return readFrom(reader, { start, end, chunk: 300 * kib })
      })
      assert.ok((await whole).equals(blob))
      for (const [index, part] of (await Promise.all(parts)).entries()) {
        const { start, end } = ranges[index] ?? { start: 0, end: 0 }
        assert.ok(part.equals(blob.subarray(start, end)), `${start} to ${end}, ${flips.join(' ')}`)
      }
      await stored(rig)
      assert.ok(!rig.wrongPieces.includes('origin'))
    })
  }
})

test('another edge has what is on its way, but the end of a piece only once that is proved', () =>
  withFills({}, async (rig) => {
    const gate = Promise.withResolvers<void>()
    const origin = source('origin', () => ({ waitFor: gate.promise, waitAfter: 2 * mib - 1 }))
    const follow = async (forEdge?: 'relay') => {
      const reader = await rig.join(digest, only(origin), { ...listed, forEdge })
      const follower = { at: 0, done: Promise.resolve() }
      const buffer = Buffer.alloc(mib)
      const read = async () => {
        while (follower.at < reader.size) follower.at += await reader.read(buffer, follower.at)
        await reader.close()
      }
      follower.done = read()
      return follower
    }
    const [edge, client] = [await follow('relay'), await follow()]
    await waitFor('some of the second piece', () => edge.at > mib + 100 * kib)
    assert.ok(edge.at <= 2 * mib - 64 * kib)
    await waitFor('the first piece', () => client.at > 0)
    assert.equal(client.at, mib)
    gate.resolve()
    await Promise.all([edge.done, client.done])
    await stored(rig)
  }))

test('another edge that got some of a wrong piece is cut before it has all of it', () =>
  withFills({}, async (rig) => {
    const [lying, origin] = [liar(mib + 7), source('origin')]
    const edge = await rig.join(digest, [lying, origin], { ...listed, forEdge: 'other' })
    const client = await rig.join(digest, [lying, origin], listed)
    const got: Buffer[] = []
    const buffer = Buffer.alloc(64 * kib)
    const reading = async () => {
      for (let at = 0; at < blob.length;) {
        const count = await edge.read(buffer, at)
        got.push(Buffer.from(buffer.subarray(0, count)))
        at += count
      }
    }
    const outcome = await reading().then(
      () => 'whole',
      (error: SourceError) => error.code,
    )
    const bytes = Buffer.concat(got)
    // It may have been too slow to get any of that piece before it was proved wrong.
    if (outcome === 'whole') assert.ok(bytes.equals(blob))
    else assert.ok(outcome === 'unavailable' && bytes.length <= 2 * mib - 64 * kib)
    assert.ok((await readFrom(client)).equals(blob))
    await edge.close()
    await stored(rig)
    assert.deepEqual(rig.liars, ['liar'])
  }))

test('a piece that several sent is nobody’s lie, and comes again whole', () =>
  withFills({}, async (rig) => {
    const lying = source('liar', (request) =>
      request === 0 ? { flipAt: 3 * mib + 5, cutAfter: 3 * mib + 500 * kib } : {},
    )
    const origin = source('origin')
    const reader = await rig.join(digest, [lying, origin], listed)
    assert.ok((await readFrom(reader)).equals(blob))
    await stored(rig)
    assert.deepEqual([rig.liars, rig.wrongPieces], [[], [undefined]])
  }))

test('an origin that was misheard once is asked again; one that lies again ends it, with no wrong byte given', async () => {
  await withFills({}, async (rig) => {
    const origin = source('origin', (request) => (request === 0 ? { flipAt: 4 * mib } : {}))
    assert.ok((await readFrom(await rig.join(digest, only(origin), listed))).equals(blob))
    await stored(rig)
    assert.deepEqual(rig.wrongPieces, ['origin'])
  })
  await withFills({}, async (rig) => {
    const reader = await rig.join(digest, only(liar(4 * mib, 'origin')), listed)
    const got = await readFrom(reader, { end: 4 * mib })
    assert.ok(got.equals(blob.subarray(0, 4 * mib)))
    assert.equal((await rig.ended()).kind, 'failed')
    assert.deepEqual(rig.wrongPieces, ['origin', 'origin'])
    assert.deepEqual(rig.disk.progress?.held, [{ start: 0, end: 4 * mib }], 'what is proved stays')
  })
})

test('a neighbour that flips one byte of what many share is named, and only that piece comes again', () =>
  withFills({}, async (rig) => {
    const origin = source('origin')
    const [one, two] = [source('one'), liar(2 * mib + 5, 'two')]
    // The third part is the second one's: by turns they are the homes of one part each.
    const spread = createSpread([undefined, one, two], blob.length)
    const parts = [...Array(13).keys()].filter((part) => spread.sourcesOf(part)[0] === two)
    assert.ok(parts.includes(2))
    const more = { spread, expectedSize: blob.length, priority: 'prefetch' } as const
    const reader = await rig.join(digest, only(origin), { ...listed, ...more })
    await reader.whole()
    await reader.close()
    await stored(rig)
    assert.deepEqual([rig.liars, rig.wrongPieces], [['two'], ['two']])
  }))

test('what an earlier run left is proved before anybody reads it, and what is wrong of it alone comes again', async () => {
  const disk = await createTestDisk()
  try {
    await withFills({ disk }, async (rig) => {
      const origin = source('origin', (request) =>
        request === 0 ? { cutAfter: 6 * mib } : { fail: 'refused' },
      )
      const reader = await rig.join(digest, only(origin), listed)
      await assert.rejects(readFrom(reader), { code: 'refused' })
      await rig.ended()
    })
    await disk.corrupt(4 * mib + 3)
    await withFills({ disk }, async (rig) => {
      const origin = source('origin')
      origin.holdAt(6 * mib)
      const reader = await rig.join(digest, only(origin), listed)
      reader.expect({ start: 4 * mib, end: 6 * mib - 1 })
      const range = await readFrom(reader, { start: 4 * mib, end: 6 * mib })
      assert.ok(range.equals(blob.subarray(4 * mib, 6 * mib)))
      origin.holdAt(undefined)
      assert.equal((await rig.ended()).receivedBytes, blob.length - 5 * mib)
      await stored(rig)
      assert.deepEqual([rig.liars, rig.wrongPieces], [[], [undefined]])
    })
  } finally {
    await disk.remove()
  }
})

test('a range at the end needs its own piece and no other', () =>
  withFills({ distantBytes: 2 * mib }, async (rig) => {
    const gate = Promise.withResolvers<void>()
    const origin = source('origin', (_, offset) =>
      offset < mib ? { waitFor: gate.promise, waitAfter: mib } : {},
    )
    const reader = await rig.join(digest, only(origin), listed)
    const start = blob.length - 8
    reader.expect({ start, end: blob.length - 1 })
    assert.ok((await readFrom(reader, { start })).equals(blob.subarray(start)))
    assert.ok(!origin.requests.some(({ offset }) => offset === start), 'not past the fill')
    gate.resolve()
    await stored(rig)
  }))

test('without a disk, too, a far range is proved', () =>
  withFills({ distantBytes: mib }, async (rig) => {
    rig.disk.fail('open', 'ENOSPC')
    const gate = Promise.withResolvers<void>()
    const origin = source('origin', (request) =>
      request === 0 ? { waitFor: gate.promise, waitAfter: mib } : {},
    )
    const wrong = source('liar', () => ({ flipAt: 9 * mib + 5 }))
    // The first request is the front's, at the origin, which is busy with it.
    const reader = await rig.join(digest, [origin, wrong], listed)
    reader.expect({ start: 9 * mib, end: 9 * mib + 9 })
    const range = await readFrom(reader, { start: 9 * mib, end: 9 * mib + 10 })
    assert.ok(range.equals(blob.subarray(9 * mib, 9 * mib + 10)))
    gate.resolve()
    assert.equal((await rig.ended()).kind, 'unstored')
  }))

test('a list that says other pieces than the digest has is no source’s fault', () =>
  withFills({}, async (rig) => {
    const other = randomBytes(blob.length)
    const origin = createScriptedSource(other)
    const reader = await rig.join(digest, only(origin), {
      proof: async () => proofOf(other, digest),
    })
    await assert.rejects(readFrom(reader), { code: 'broken' })
    assert.equal((await rig.ended()).kind, 'failed')
    assert.deepEqual([rig.liars, rig.wrongPieces], [[], []])
    assert.equal(await rig.disk.content(), undefined)
  }))

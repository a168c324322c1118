import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { digestOf } from '../../../shared/oci/digest.ts'
import { SourceError } from '../../../shared/stream/blob-source.ts'
import { waitFor } from '../../kit/clock.ts'
import { only, readFrom, withFills } from '../../kit/fill.ts'
import { createTestDisk } from '../../kit/sink.ts'
import { createScriptedSource, type RequestScript } from '../../kit/source.ts'

const mib = 1024 * 1024
const blob = randomBytes(5 * mib + 4321)
const digest = digestOf(blob)
const big = randomBytes(34 * mib + 11)
const bigDigest = digestOf(big)

/** Follows the script for the first requests, honest afterwards. */
function scripted(...scripts: RequestScript[]) {
  return (request: number) => scripts[request]
}

async function code(running: Promise<unknown>): Promise<string> {
  const error = await running.then(
    () => assert.fail('it should fail'),
    (reason: unknown) => reason,
  )
  return error instanceof SourceError ? error.code : String(error)
}

test('a blob is fetched once, proved, synced and then published', () =>
  withFills({}, async ({ join, ended, disk }) => {
    const source = createScriptedSource(blob)
    const read = await readFrom(await join(digest, only(source)))
    assert.equal(digestOf(read), digest)
    assert.equal((await ended()).kind, 'stored')
    assert.equal(source.requests.length, 1)
    assert.equal(source.deliveredBytes, blob.length)
    assert.deepEqual((await disk.content())?.equals(blob), true)
    const steps = disk.steps.filter((step) => step !== 'close')
    assert.deepEqual(steps.slice(-2), ['sync', 'commit'])
  }))

test('a big blob is hashed on the worker while it arrives, and a sha512 one as well', () =>
  withFills({ workerFromBytes: 0 }, async ({ join, ended }) => {
    const digest512 = digestOf(blob, 'sha512')
    const read = await readFrom(await join(digest512, only(createScriptedSource(blob))))
    assert.ok(read.equals(blob))
    assert.equal((await ended()).kind, 'stored')
  }))

test('an empty blob is complete once its digest is proved, and a false one never is', () =>
  withFills({}, async ({ join, ended }) => {
    const empty = createScriptedSource(Buffer.alloc(0))
    const reader = await join(digestOf(Buffer.alloc(0)), only(empty))
    assert.equal(reader.size, 0)
    assert.equal((await readFrom(reader)).length, 0)
    assert.equal((await ended()).kind, 'stored')
    assert.equal(await code(join(digest, only(createScriptedSource(Buffer.alloc(0))))), 'broken')
  }))

test('a source that is cut is continued at the same byte by the next one, and readers see nothing', () =>
  withFills({}, async ({ join, ended }) => {
    const first = createScriptedSource(blob, {
      name: 'a',
      script: scripted({ cutAfter: 1_500_000 }),
    })
    const second = createScriptedSource(blob, {
      name: 'b',
      script: scripted({ cutAfter: 700_000 }),
    })
    const read = await readFrom(await join(digest, [first, second]))
    assert.ok(read.equals(blob))
    assert.equal((await ended()).receivedBytes, blob.length)
    assert.deepEqual(
      [...first.requests, ...second.requests].map(({ offset }) => offset),
      [0, 2_200_000, 1_500_000],
    )
  }))

test('a source that stalls is replaced, before its headers and in its body', () =>
  withFills({ headersTimeoutMs: 300, stallMs: 300 }, async ({ join, failures }) => {
    const sources = [
      createScriptedSource(blob, { name: 'mute', script: () => ({ stallHeaders: true }) }),
      createScriptedSource(blob, { name: 'slow', script: () => ({ stallAfter: 2 * mib }) }),
      createScriptedSource(blob, { name: 'good' }),
    ]
    const read = await readFrom(await join(digest, sources))
    assert.ok(read.equals(blob))
    assert.deepEqual(failures, ['mute: mute sends no headers', 'slow: slow stalled for 300 ms'])
    assert.equal(sources[2]?.requests[0]?.offset, 2 * mib)
    assert.ok(sources.every((source) => source.requests.every(({ open }) => !open)))
  }))

test('a source with less patience than the fill is replaced sooner', () =>
  withFills({ headersTimeoutMs: 60_000, stallMs: 60_000 }, async ({ join, failures }) => {
    const impatient = (name: string, script: RequestScript) => ({
      ...createScriptedSource(blob, { name, script: () => script }),
      patienceMs: 60,
    })
    const good = createScriptedSource(blob, { name: 'good' })
    const sources = [
      impatient('mute', { stallHeaders: true }),
      impatient('slow', { stallAfter: 2 * mib }),
      good,
    ]
    assert.ok((await readFrom(await join(digest, sources))).equals(blob))
    assert.deepEqual(failures, ['mute: mute sends no headers', 'slow: slow stalled for 60 ms'])
    assert.equal(good.requests[0]?.offset, 2 * mib)
  }))

test('a body that ends early is continued like one that is cut', () =>
  withFills({}, async ({ join }) => {
    const source = createScriptedSource(blob, { script: scripted({ endAfter: 3 * mib }) })
    assert.ok((await readFrom(await join(digest, only(source)))).equals(blob))
    assert.equal(source.deliveredBytes, blob.length)
  }))

test('a source that says another length than the descriptor is passed over', () =>
  withFills({}, async ({ join, failures }) => {
    const liar = createScriptedSource(blob, { name: 'liar', script: () => ({ size: 77 }) })
    const honest = createScriptedSource(blob, { name: 'honest' })
    const reader = await join(digest, [liar, honest], { size: blob.length })
    assert.ok((await readFrom(reader)).equals(blob))
    assert.match(failures[0] ?? '', /says 77 bytes where/)
    const alone = createScriptedSource(blob, { script: () => ({ size: 77 }) })
    assert.equal(
      await code(join(digestOf(Buffer.from('x')), only(alone), { size: 5 }).then(readFrom)),
      'broken',
    )
  }))

for (const size of [77, blob.length - 1, blob.length + 1, 20 * mib]) {
  test(`a source that lies about the length (${size}) before it was known gives nobody a whole body`, () =>
    withFills({}, async ({ join, ended }) => {
      const liar = createScriptedSource(blob, { name: 'liar', script: () => ({ size }) })
      const honest = createScriptedSource(blob, { name: 'honest' })
      const reader = await join(digest, [liar, honest])
      assert.equal(reader.size, size)
      await assert.rejects(readFrom(reader))
      assert.equal((await ended()).kind, 'stored')
      const again = await readFrom(await join(digest, [liar, honest]))
      assert.ok(again.equals(blob))
    }))
}

test('what a source sent behind the end, when it said more than there is, is not published', () =>
  withFills({ stallMs: 60, distantBytes: 0 }, async ({ join, ended, disk }) => {
    const extra = 37 * mib
    const source = createScriptedSource(blob, {
      script: scripted({ extra, stallAfter: mib }, { extra }),
    })
    const whole = join(digest, only(source)).then((reader) => readFrom(reader))
    const cut = assert.rejects(whole, { code: 'broken' })
    await readFrom(await join(digest, only(source)), { start: 30 * mib, end: 31 * mib })
    await cut
    // From then on the source is honest.
    await waitFor('the honest copy', async () => {
      await ended()
      return join(digest, only(source))
        .then(readFrom, () => undefined)
        .catch(() => undefined)
    })
    await waitFor('the end', () => disk.steps.includes('commit'))
    assert.equal((await disk.content())?.length, blob.length)
    assert.ok((await disk.content())?.equals(blob))
    const steps = disk.steps.filter((step) => step !== 'close')
    assert.deepEqual(steps.slice(-3), ['cut', 'sync', 'commit'])
  }))

for (const extra of [-2 * mib, 9 * mib]) {
  test(`a size that a run which failed believed (${extra} off) is asked for before anybody hears it`, () =>
    withFills({ attempts: 1 }, async ({ join, ended, disk }) => {
      const shorter = blob.subarray(0, blob.length + Math.min(extra, 0))
      const liar = createScriptedSource(shorter, {
        script: () => ({ extra: Math.max(extra, 0), cutAfter: shorter.length - 1000 + extra }),
      })
      await assert.rejects(join(digest, only(liar)).then((reader) => readFrom(reader)))
      assert.equal((await ended()).kind, 'failed')
      assert.equal(disk.progress?.size, blob.length + extra)
      const honest = createScriptedSource(blob)
      assert.ok((await readFrom(await join(digest, only(honest)))).equals(blob))
      assert.equal((await ended(2)).kind, 'stored')
    }))
}

test('a size that nobody confirms is told to nobody, and what is here stays', () =>
  withFills({ attempts: 1 }, async ({ join, ended, disk }) => {
    const first = createScriptedSource(blob, { script: () => ({ cutAfter: 3 * mib }) })
    await assert.rejects(join(digest, only(first)).then((reader) => readFrom(reader)))
    await ended()
    const away = createScriptedSource(blob, { script: () => ({ fail: 'unavailable' }) })
    assert.equal(await code(join(digest, only(away))), 'unavailable')
    await ended(2)
    assert.deepEqual(disk.progress, { size: blob.length, held: [{ start: 0, end: 3 * mib }] })
  }))

test('a blob that is here as a whole needs no source to be proved', () =>
  withFills({}, async ({ join, ended, disk }) => {
    const opened = await disk.openSink()
    await opened.sink.write(blob, 0)
    await opened.sink.saveProgress?.({ size: blob.length, held: [{ start: 0, end: blob.length }] })
    await opened.sink.close()
    const away = createScriptedSource(blob, { script: () => ({ fail: 'unavailable' }) })
    assert.ok((await readFrom(await join(digest, only(away)))).equals(blob))
    assert.equal((await ended()).kind, 'stored')
    assert.equal(away.requests.length, 0)
  }))

test('a source that says another size in mid-fill makes the fill begin anew', () =>
  withFills({}, async ({ join, ended, disk }) => {
    const source = createScriptedSource(blob, {
      script: scripted({ extra: 9 * mib, cutAfter: mib }),
    })
    await assert.rejects(join(digest, only(source)).then((reader) => readFrom(reader)))
    assert.equal((await ended()).kind, 'stored')
    assert.ok((await disk.content())?.equals(blob))
  }))

test('what a source that ends up broken sent is not kept', () =>
  withFills({ attempts: 1 }, async ({ join, ended, disk }) => {
    const source = createScriptedSource(blob, {
      script: (request) => (request === 0 ? { cutAfter: 3 * mib } : { fail: 'broken' }),
    })
    await assert.rejects(
      join(digest, () => only(source)).then((reader) => readFrom(reader)),
      { code: 'broken' },
    )
    assert.equal((await ended()).kind, 'failed')
    assert.equal(disk.progress, undefined)
  }))

test('a flipped bit cuts every reader before the end, names the liar, and is healed by the other source', () =>
  withFills({}, async ({ join, ended, liars, disk }) => {
    const liar = createScriptedSource(blob, { name: 'liar', script: () => ({ flipAt: 3 * mib }) })
    const honest = createScriptedSource(blob, { name: 'honest' })
    const readers = await Promise.all([1, 2, 3].map(() => join(digest, [liar, honest])))
    for (const outcome of await Promise.allSettled(readers.map((reader) => readFrom(reader))))
      assert.equal(outcome.status, 'rejected')
    assert.equal((await ended()).kind, 'stored')
    assert.deepEqual(liars, ['liar'])
    assert.ok((await disk.content())?.equals(blob))
  }))

test('who joins while a fill begins anew gets nothing of what was wrong', () =>
  withFills({}, async ({ join, ended, disk }) => {
    // Beginning anew waits for the disk: long enough for somebody to come in.
    disk.delayMs = 100
    const source = createScriptedSource(blob, { script: scripted({ flipAt: 9 }) })
    await assert.rejects(join(digest, only(source)).then((reader) => readFrom(reader)))
    assert.ok((await readFrom(await join(digest, only(source)))).equals(blob))
    assert.equal((await ended()).kind, 'stored')
    assert.equal(source.requests.length, 2)
  }))

for (const extra of [-2 * mib, 3 * mib]) {
  test(`who joins while a size is forgotten (${extra} off) gets nothing of what was wrong`, () =>
    withFills({}, async ({ join, ended, disk }) => {
      disk.delayMs = 100
      const said = Buffer.concat([blob, randomBytes(3 * mib)]).subarray(0, blob.length + extra)
      const liar = createScriptedSource(said, { name: 'liar', script: () => ({ flipAt: 9 }) })
      const honest = createScriptedSource(blob, { name: 'honest' })
      await assert.rejects(join(digest, [liar, honest]).then((reader) => readFrom(reader)))
      assert.ok((await readFrom(await join(digest, [liar, honest]))).equals(blob))
      assert.equal((await ended()).kind, 'stored')
    }))
}

for (const readDelayMs of [0, 100])
  test(`of two sources that took turns, the one whose bytes differ is named and the other is kept, with a disk that takes ${readDelayMs} ms to read`, () =>
    withFills({}, async ({ join, ended, liars, disk }) => {
      disk.readDelayMs = readDelayMs
      const liar = createScriptedSource(blob, {
        name: 'liar',
        script: (_request, offset) => ({ flipAt: 100, ...(offset === 0 && { cutAfter: 2 * mib }) }),
      })
      const honest = createScriptedSource(blob, { name: 'honest' })
      await assert.rejects(join(digest, [liar, honest]).then((reader) => readFrom(reader)))
      assert.equal((await ended()).kind, 'stored')
      assert.deepEqual(liars, ['liar'])
      // Only what the liar had sent is fetched again.
      assert.equal(honest.deliveredBytes, blob.length)
    }))

test('the origin may be the liar: the other source is then trusted alone', () =>
  withFills({}, async ({ join, ended }) => {
    const honest = createScriptedSource(blob, {
      name: 'a',
      script: scripted({ cutAfter: 2 * mib }),
    })
    const liar = createScriptedSource(blob, { name: 'b', script: () => ({ flipAt: 4 * mib }) })
    await assert.rejects(join(digest, [honest, liar]).then((reader) => readFrom(reader)))
    assert.equal((await ended()).kind, 'stored')
  }))

test('a single source gets a second chance, and no third', () =>
  withFills({}, async ({ join, ended, disk }) => {
    const once = createScriptedSource(blob, { script: scripted({ flipAt: 9 }) })
    await assert.rejects(join(digest, only(once)).then((reader) => readFrom(reader)))
    assert.equal((await ended()).kind, 'stored')
    assert.equal(once.requests.length, 2)

    const always = createScriptedSource(big, { script: () => ({ flipAt: 9 }) })
    await assert.rejects(join(bigDigest, only(always)).then((reader) => readFrom(reader)))
    const outcome = await ended(2)
    assert.equal(outcome.kind, 'failed')
    assert.equal((outcome.error as SourceError).code, 'broken')
    assert.equal(always.requests.length, 2)
    assert.ok(disk.steps.includes('discard'))
  }))

test('absent, refused, busy and unavailable reach whoever joins, as the origin said it', () =>
  withFills({}, async ({ join, disk }) => {
    for (const fail of ['absent', 'refused', 'busy', 'unavailable'] as const) {
      const peer = createScriptedSource(blob, { name: 'peer', script: () => ({ fail: 'broken' }) })
      const origin = createScriptedSource(blob, { script: () => ({ fail, retryAfterMs: 1500 }) })
      const joining = join(digest, [peer, origin])
      await assert.rejects(joining, { code: fail, retryAfterMs: 1500 })
      assert.equal(origin.requests.length, 1)
    }
    assert.ok(disk.steps.includes('discard'), 'an empty part is not left behind')
  }))

test('what was fetched stays for the next fill when all sources are gone in the middle', () =>
  withFills({ attempts: 2, retryDelaysMs: [0] }, async ({ join, ended, disk }) => {
    const dying = createScriptedSource(blob, {
      script: (request) => (request === 0 ? { cutAfter: 3 * mib + 5 } : { fail: 'unavailable' }),
    })
    assert.equal(
      await code(join(digest, only(dying)).then((reader) => readFrom(reader))),
      'unavailable',
    )
    assert.equal((await ended()).kind, 'failed')
    assert.deepEqual(disk.progress, { size: blob.length, held: [{ start: 0, end: 3 * mib }] })
    const healthy = createScriptedSource(blob)
    assert.ok((await readFrom(await join(digest, only(healthy)))).equals(blob))
    assert.deepEqual(
      healthy.requests.map(({ offset }) => offset),
      [3 * mib],
    )
  }))

test('who comes back before a failed fill has let go of its file goes on there, too', () =>
  withFills({ attempts: 2, retryDelaysMs: [0] }, async ({ join, ended, disk }) => {
    const dying = createScriptedSource(blob, {
      script: (request) => (request === 0 ? { cutAfter: 3 * mib + 5 } : { fail: 'unavailable' }),
    })
    const letGo = Promise.withResolvers<void>()
    let closed = false
    const openSink = async () => {
      const opened = await disk.openSink()
      const close = async (): Promise<void> => {
        await letGo.promise
        closed = true
        await opened.sink.close()
      }
      return { ...opened, sink: { ...opened.sink, close } }
    }
    const first = await join(digest, only(dying), { openSink })
    await assert.rejects(readFrom(first), { code: 'unavailable' })
    await ended()
    await first.close()
    let closedBefore: boolean | undefined
    const openNext = () => {
      closedBefore = closed
      return disk.openSink()
    }
    const next = join(digest, only(createScriptedSource(blob)), { openSink: openNext })
    letGo.resolve()
    assert.ok((await readFrom(await next)).equals(blob))
    assert.equal(closedBefore, true)
  }))

test('a refusal in mid-fill is answered with what the source list brings when asked again', () =>
  withFills({}, async ({ join }) => {
    const expired = createScriptedSource(blob, {
      script: (request) => (request === 0 ? { cutAfter: 2 * mib } : { fail: 'refused' }),
    })
    const fresh = createScriptedSource(blob)
    let asked = 0
    const reader = await join(digest, () => (asked++ === 0 ? only(expired) : only(fresh)))
    assert.ok((await readFrom(reader)).equals(blob))
    assert.equal(fresh.requests[0]?.offset, 2 * mib)
  }))

test('a fill whose reader has gone finishes', () =>
  withFills({}, async ({ join, ended }) => {
    const gate = Promise.withResolvers<void>()
    const source = createScriptedSource(blob, {
      script: scripted({ waitAfter: mib, waitFor: gate.promise }),
    })
    const reader = await join(digest, only(source))
    await reader.read(Buffer.alloc(10), 0)
    await reader.close()
    gate.resolve()
    assert.equal((await ended()).kind, 'stored')
    assert.equal(source.requests.length, 1)
  }))

test('an unowned fill with a budget of bytes is parked, and the next one goes on where it stopped', () =>
  withFills({ unowned: { bytes: 10 * mib } }, async ({ join, ended, disk }) => {
    const source = createScriptedSource(big)
    const reader = await join(bigDigest, only(source))
    await reader.read(Buffer.alloc(10), 0)
    await reader.close()
    const parked = await ended()
    assert.equal(parked.kind, 'parked')
    assert.ok(parked.receivedBytes < 16 * mib)
    const held = disk.progress?.held[0]?.end ?? 0
    assert.ok(held >= 8 * mib, `${held}`)
    const second = createScriptedSource(big)
    assert.ok((await readFrom(await join(bigDigest, only(second)))).equals(big))
    assert.equal(second.requests[0]?.offset, held)
  }))

test('what was fetched ahead, or for a neighbour, is parked soon when it is let go, unless a client had come', async () => {
  const script = () => ({ stallAfter: mib })
  for (const lone of [{ priority: 'prefetch' }, { forEdge: 'other' }] as const)
    await withFills({ idleMs: 20, stallMs: 10_000 }, async ({ join, ended }) => {
      const reader = await join(digest, only(createScriptedSource(blob, { script })), lone)
      await reader.close()
      assert.equal((await ended()).kind, 'parked')
    })
  await withFills({ idleMs: 20 }, async ({ join, ended }) => {
    const origin = createScriptedSource(blob)
    const ahead = await join(digest, only(origin), { priority: 'prefetch' })
    const client = await join(digest, only(origin))
    await client.close()
    await ahead.close()
    assert.equal((await ended()).kind, 'stored')
  })
})

test('an unowned fill with a budget of time is parked when nobody came back in time', () =>
  withFills({ unowned: { ms: 30 }, stallMs: 10_000 }, async ({ join, ended }) => {
    const source = createScriptedSource(blob, { script: () => ({ stallAfter: mib }) })
    const first = await join(digest, only(source))
    const second = await join(digest, only(source))
    await first.close()
    await new Promise((resolve) => setTimeout(resolve, 60))
    await second.read(Buffer.alloc(10), 0)
    await second.close()
    assert.equal((await ended()).kind, 'parked')
  }))

test('what an earlier run left is hashed again, not fetched again', async () => {
  const disk = await createTestDisk()
  try {
    await withFills({ disk }, async ({ join, fills }) => {
      const gate = Promise.withResolvers<void>()
      const source = createScriptedSource(big, {
        script: () => ({ waitAfter: 17 * mib, waitFor: gate.promise }),
      })
      const reader = await join(bigDigest, only(source))
      await readFrom(reader, { end: 16 * mib })
      await waitFor('progress', () => (disk.progress?.held[0]?.end ?? 0) >= 16 * mib)
      await fills.close()
      gate.resolve()
    })
    await withFills({ disk }, async ({ join, ended }) => {
      const source = createScriptedSource(big)
      assert.ok((await readFrom(await join(bigDigest, only(source)))).equals(big))
      assert.equal((await ended()).kind, 'stored')
      assert.ok(source.deliveredBytes <= big.length - 16 * mib)
    })
  } finally {
    await disk.remove()
  }
})

test('a rotten byte in what an earlier run left is healed without blaming a source', async () => {
  const disk = await createTestDisk()
  try {
    await withFills({ disk, attempts: 1 }, async ({ join, ended }) => {
      const source = createScriptedSource(blob, { script: () => ({ cutAfter: 3 * mib }) })
      await assert.rejects(join(digest, only(source)).then((reader) => readFrom(reader)))
      await ended()
    })
    await disk.corrupt(mib + 5)
    await withFills({ disk }, async ({ join, ended, liars }) => {
      const source = createScriptedSource(blob)
      await assert.rejects(join(digest, only(source)).then((reader) => readFrom(reader)))
      assert.equal((await ended()).kind, 'stored')
      assert.deepEqual(liars, [])
      assert.ok((await disk.content())?.equals(blob))
    })
  } finally {
    await disk.remove()
  }
})

for (const step of ['open', 'write'] as const) {
  test(`a disk that is full (${step}) degrades to passing bytes on, still one request and still proved`, () =>
    withFills({}, async ({ join, ended, disk, diskErrors }) => {
      disk.fail(step, 'ENOSPC', step === 'write' ? 3 : 0)
      const source = createScriptedSource(blob)
      const readers = await Promise.all([1, 2, 3].map(() => join(digest, only(source))))
      const bodies = await Promise.all(readers.map((reader) => readFrom(reader)))
      assert.ok(bodies.every((body) => body.equals(blob)))
      assert.equal((await ended()).kind, 'unstored')
      assert.equal(diskErrors.length, 1)
      // The front begins again once when the disk fails; nothing is fetched twice.
      assert.ok(source.requests.length <= 2)
      assert.equal(source.deliveredBytes, blob.length)
      assert.equal(await disk.content(), undefined)
    }))
}

test('who waits for all of a blob is told once it is kept, not when it is proved', async () => {
  await withFills({}, async ({ join, disk }) => {
    disk.delayMs = 20
    const reader = await join(digest, only(createScriptedSource(blob)))
    await reader.whole()
    assert.ok(disk.steps.includes('commit'))
    await reader.close()
  })
  await withFills({}, async ({ join, disk }) => {
    disk.fail('commit', 'EIO')
    const reader = await join(digest, only(createScriptedSource(blob)))
    await assert.rejects(reader.whole(), { code: 'unavailable' })
    await reader.close()
  })
})

test('without a disk a wrong digest still cuts everybody, and the second source heals', () =>
  withFills({}, async ({ join, ended, disk }) => {
    disk.fail('write', 'EIO')
    const liar = createScriptedSource(blob, { name: 'liar', script: () => ({ flipAt: 3 * mib }) })
    const honest = createScriptedSource(blob, { name: 'honest' })
    await assert.rejects(join(digest, [liar, honest]).then((reader) => readFrom(reader)))
    assert.equal((await ended()).kind, 'unstored')
  }))

test('without a disk a laggard gets proved bytes from a source of its own', () =>
  withFills({ windowPieces: 2 }, async ({ join, ended, disk }) => {
    disk.fail('open', 'ENOSPC')
    let flips = 0
    const source = createScriptedSource(big, {
      // The laggard's own first request is answered by a lie.
      script: (request) => (request === 1 && flips++ === 0 ? { flipAt: 5 * mib + 3 } : undefined),
    })
    const [quick, laggard] = await Promise.all([
      join(bigDigest, only(source)),
      join(bigDigest, only(source)),
    ])
    await laggard.read(Buffer.alloc(100), 0)
    assert.ok((await readFrom(quick)).equals(big))
    await ended()
    assert.ok((await readFrom(laggard, { chunk: 300_000, borrow: false })).equals(big))
    assert.equal(flips, 1)
  }))

test('without a disk, readers that stand still hold no request at a source', () =>
  withFills({ windowPieces: 2, limit: 2 }, async ({ join, ended, disk, fills }) => {
    disk.fail('open', 'ENOSPC')
    const source = createScriptedSource(big)
    const laggards = await Promise.all([1, 2].map(() => join(bigDigest, only(source))))
    await ended()
    for (const laggard of laggards) await laggard.read(Buffer.alloc(64 * 1024), 0)
    assert.equal(fills.stats.requests, 0)
    // Nor one who reads what is not proved, far ahead of the front.
    const gate = Promise.withResolvers<void>()
    const other = createScriptedSource(Buffer.concat([big, blob]), {
      script: scripted({ waitAfter: mib, waitFor: gate.promise }),
    })
    const otherDigest = digestOf(Buffer.concat([big, blob]))
    const distant = await join(otherDigest, only(other))
    distant.expect({ start: 30 * mib, end: big.length - 1 })
    await distant.read(Buffer.alloc(64 * 1024), 30 * mib)
    assert.equal(fills.stats.requests, 1)
    const third = await join(digest, only(createScriptedSource(blob)))
    assert.ok((await readFrom(third)).equals(blob))
    gate.resolve()
    await Promise.all([...laggards, distant].map((reader) => reader.close()))
  }))

test('without a disk, more readers than there are buffers all come to the end', () =>
  withFills({ windowPieces: 1, limit: 1, poolBuffers: 6 }, async ({ join, ended, disk }) => {
    disk.fail('open', 'ENOSPC')
    const source = createScriptedSource(blob)
    const readers = await Promise.all(Array.from({ length: 12 }, () => join(digest, only(source))))
    await ended()
    let complete = 0
    for (const reader of readers) {
      void readFrom(reader, { chunk: 300_000, borrow: false }).then((body) => {
        if (body.equals(blob)) complete++
      })
    }
    await waitFor('all to come to the end', () => complete === readers.length)
  }))

test('fills that are cut in mid-piece and wait for their place again never starve those that have one', () =>
  withFills({ limit: 1, poolBuffers: 4 }, async ({ join, disk }) => {
    disk.fail('open', 'ENOSPC')
    const blobs = Array.from({ length: 8 }, () => randomBytes(mib + 1))
    const bodies = await Promise.all(
      blobs.map(async (content) => {
        const script = scripted({ cutAfter: 300_000 }, { cutAfter: 300_000 })
        const source = createScriptedSource(content, { script })
        return readFrom(await join(digestOf(content), only(source)))
      }),
    )
    for (const [index, body] of bodies.entries()) assert.ok(blobs[index]?.equals(body))
  }))

test('without a disk, a source that cuts every request is of use to a laggard all the same', () =>
  withFills({ windowPieces: 1 }, async ({ join, ended, disk }) => {
    disk.fail('open', 'ENOSPC')
    const source = createScriptedSource(blob, {
      script: (request) => (request === 0 ? {} : { cutAfter: 300_000 }),
    })
    const laggard = await join(digest, only(source))
    await ended()
    assert.ok((await readFrom(laggard, { borrow: false })).equals(blob))
  }))

test('a disk that fails at the very end costs the cache entry, not the readers', () =>
  withFills({}, async ({ join, ended, disk }) => {
    disk.fail('commit', 'EIO')
    const source = createScriptedSource(blob)
    assert.ok((await readFrom(await join(digest, only(source)))).equals(blob))
    assert.equal((await ended()).kind, 'unstored')
    assert.ok(disk.steps.includes('discard'))
  }))

test('a disk that no longer gives back what was written makes the fill fetch it again', () =>
  withFills({ windowPieces: 1, limit: 4 }, async ({ join, ended, disk }) => {
    const gate = Promise.withResolvers<void>()
    const source = createScriptedSource(big, {
      script: (request) => (request === 0 ? { waitAfter: mib, waitFor: gate.promise } : undefined),
    })
    const distant = await join(bigDigest, only(source))
    // Written far ahead of the front, so that the hash has to read it back.
    assert.ok(
      (await readFrom(distant, { start: 24 * mib, end: 32 * mib })).equals(
        big.subarray(24 * mib, 32 * mib),
      ),
    )
    disk.fail('read', 'EIO')
    const whole = await join(bigDigest, only(source))
    gate.resolve()
    assert.ok((await readFrom(whole)).equals(big))
    assert.equal((await ended()).kind, 'unstored')
  }))

test('a slow disk holds the network back instead of filling memory', () =>
  withFills({ maxUnwritten: 2, poolBuffers: 8 }, async ({ join, disk, pool }) => {
    disk.delayMs = 5
    const source = createScriptedSource(big)
    const reader = await join(bigDigest, only(source))
    assert.ok((await readFrom(reader)).equals(big))
    assert.ok(pool.stats.allocated <= 8)
  }))

test('readers never wait for the sync', () =>
  withFills({}, async ({ join, ended, disk }) => {
    const reader = await join(digest, only(createScriptedSource(blob)))
    disk.delayMs = 150
    const whole = readFrom(reader)
    await waitFor('the sync', () => disk.steps.includes('sync'))
    assert.ok((await whole).equals(blob))
    assert.ok(!disk.steps.includes('commit'), 'the body was complete before the sync was')
    await ended()
  }))

test('a source that ignores ranges can still go on where another stopped', () =>
  withFills({}, async ({ join, ended }) => {
    const first = createScriptedSource(blob, { name: 'a', script: () => ({ cutAfter: 2 * mib }) })
    const second = createScriptedSource(blob, { name: 'b', script: () => ({ ignoreRange: true }) })
    assert.ok((await readFrom(await join(digest, [first, second]))).equals(blob))
    assert.equal((await ended()).kind, 'stored')
  }))

test('many fills share a pool that is far too small for them', () =>
  withFills({ poolBuffers: 4, limit: 8 }, async ({ fills, pool }) => {
    const disks = await Promise.all(Array.from({ length: 8 }, createTestDisk))
    await Promise.all(
      disks.map(async (disk, index) => {
        const content = Buffer.concat([Buffer.from([index]), blob])
        const source = createScriptedSource(content)
        const reader = await fills.join(`fill ${index}`, {
          digest: digestOf(content),
          sources: only(source),
          openSink: () => disk.openSink(),
        })
        assert.ok((await readFrom(reader)).equals(content))
      }),
    )
    assert.ok(pool.stats.allocated <= 4)
    await fills.close()
    await Promise.all(disks.map((disk) => disk.remove()))
  }))

test('the requests that are open at one source stay within its limit', () =>
  withFills({ limit: 2, distantBytes: 0 }, async ({ join, fills }) => {
    const source = createScriptedSource(big)
    const offsets = [0, 8, 16, 24, 32].map((at) => at * mib)
    let most = 0
    const readers = await Promise.all(offsets.map(() => join(bigDigest, only(source))))
    await Promise.all(
      readers.map((reader, index) =>
        readFrom(reader, {
          start: offsets[index] ?? 0,
          end: Math.min((offsets[index] ?? 0) + 8 * mib, big.length),
          pause: async () => {
            most = Math.max(most, source.requests.filter(({ open }) => open).length)
            assert.ok(fills.stats.requests <= 2)
          },
        }),
      ),
    )
    assert.ok(most <= 2, `${most} requests were open`)
  }))

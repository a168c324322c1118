import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { test } from 'node:test'
import fc from 'fast-check'
import { digestOf } from '../../../shared/oci/digest.ts'
import { SourceError } from '../../../shared/stream/blob-source.ts'
import { waitFor } from '../../kit/clock.ts'
import { only, readFrom, withFills } from '../../kit/fill.ts'
import { createScriptedSource, type RequestScript } from '../../kit/source.ts'

const mib = 1024 * 1024
const blob = randomBytes(3 * mib + 777)
const digest = digestOf(blob)

test('joiners share one fill, and its end lets the next one begin anew', () =>
  withFills({}, async ({ join, fills, ended }) => {
    const source = createScriptedSource(blob)
    const readers = await Promise.all(Array.from({ length: 20 }, () => join(digest, only(source))))
    assert.ok(fills.has(digest))
    assert.equal(fills.stats.readers, 20)
    const bodies = await Promise.all(readers.map((reader) => readFrom(reader)))
    assert.ok(bodies.every((body) => body.equals(blob)))
    assert.equal(source.requests.length, 1)
    await ended()
    await waitFor('the table to be empty', () => !fills.has(digest))
    assert.deepEqual({ ...fills.stats }, { running: 0, readers: 0, requests: 0 })
    await readFrom(await join(digest, only(source)))
    assert.equal(source.requests.length, 2)
  }))

test('who comes just after the end still finds the finished fill', () =>
  withFills({ lingerMs: 10_000 }, async ({ join, ended }) => {
    const source = createScriptedSource(blob)
    await readFrom(await join(digest, only(source)))
    await ended()
    assert.ok((await readFrom(await join(digest, only(source)))).equals(blob))
    assert.equal(source.requests.length, 1)
  }))

test('a joiner that stops waiting for the headers disturbs nobody', () =>
  withFills({ headersTimeoutMs: 5000 }, async ({ join, ended }) => {
    const gate = Promise.withResolvers<void>()
    const source = createScriptedSource(blob)
    const late = {
      name: source.name,
      open: async (request: Parameters<typeof source.open>[0]) => {
        await gate.promise
        return source.open(request)
      },
    }
    const controller = new AbortController()
    const impatient = join(digest, only(late), { signal: controller.signal })
    const patient = join(digest, only(late))
    controller.abort(new Error('client gone'))
    await assert.rejects(impatient, /client gone/)
    gate.resolve()
    assert.ok((await readFrom(await patient)).equals(blob))
    await ended()
    await assert.rejects(
      join(digest, only(source), { signal: AbortSignal.abort(new Error('gone before')) }),
      /gone before/,
    )
  }))

test('who waits too long for a place at the source is told so, and the fill keeps its turn', () =>
  withFills({ limit: 1, openTimeoutMs: 50, stallMs: 10_000 }, async ({ join, outcomes, fills }) => {
    const gate = Promise.withResolvers<void>()
    const first = createScriptedSource(blob, {
      script: () => ({ waitAfter: mib, waitFor: gate.promise }),
    })
    const reading = join(digest, only(first)).then((reader) => readFrom(reader))
    await waitFor('the lane to be full', () => fills.stats.requests === 1)
    const other = randomBytes(mib)
    const second = createScriptedSource(other)
    for (let times = 0; times < 2; times++) {
      await assert.rejects(join(digestOf(other), only(second)), { code: 'busy', retryAfterMs: 50 })
    }
    assert.equal(fills.stats.running, 2)
    assert.equal(second.requests.length, 0)
    gate.resolve()
    assert.ok((await reading).equals(blob))
    await waitFor('both to end', () => outcomes.length === 2)
    assert.ok(outcomes.every(({ kind }) => kind !== 'failed'))
    assert.equal(second.requests.length, 1)
  }))

test('a source that is slow with its headers has until its own deadline', () =>
  withFills({ openTimeoutMs: 10, headersTimeoutMs: 5000 }, async ({ join }) => {
    const source = createScriptedSource(blob)
    const late = {
      name: source.name,
      async open(request: Parameters<typeof source.open>[0]) {
        await delay(60)
        return source.open(request)
      },
    }
    assert.ok((await readFrom(await join(digest, only(late)))).equals(blob))
  }))

test('only so many blobs are fetched at once; joining one of them is always possible', () =>
  withFills({ maxFills: 1, stallMs: 10_000 }, async ({ join, ended, fills }) => {
    const gate = Promise.withResolvers<void>()
    const first = createScriptedSource(blob, {
      script: () => ({ waitAfter: mib, waitFor: gate.promise }),
    })
    const reading = join(digest, only(first)).then((reader) => readFrom(reader))
    const other = randomBytes(mib)
    const second = createScriptedSource(other)
    await assert.rejects(join(digestOf(other), only(second)), { code: 'busy', retryAfterMs: 5000 })
    assert.equal(second.requests.length, 0)
    const joined = join(digest, only(first)).then((reader) => readFrom(reader))
    gate.resolve()
    assert.ok((await reading).equals(blob))
    assert.ok((await joined).equals(blob))
    await ended()
    await waitFor('room for the next', () => fills.stats.running === 0)
    assert.ok((await readFrom(await join(digestOf(other), only(second)))).equals(other))
  }))

test("a joiner's own source is used when those of the first have failed", () =>
  withFills({ retryDelaysMs: [0], attempts: 1 }, async ({ join, ended }) => {
    const first = createScriptedSource(blob, { name: 'a', script: () => ({ cutAfter: mib }) })
    const second = createScriptedSource(blob, { name: 'b' })
    const readers = await Promise.all([join(digest, only(first)), join(digest, only(second))])
    const bodies = await Promise.all(readers.map((reader) => readFrom(reader)))
    assert.ok(bodies.every((body) => body.equals(blob)))
    assert.equal(second.requests[0]?.offset, mib)
    await ended()
  }))

test('closing ends fills and fails their readers, and what is on disk stays for later', () =>
  withFills({ saveEveryBytes: mib }, async ({ join, fills, disk }) => {
    const source = createScriptedSource(blob, { script: () => ({ stallAfter: 2 * mib }) })
    const reader = await join(digest, only(source))
    await readFrom(await join(digest, only(source)), { end: 2 * mib })
    const waiting = reader.read(Buffer.alloc(1), 2 * mib)
    await waitFor('two pieces on disk', () => disk.progress?.held[0]?.end === 2 * mib)
    await Promise.all([fills.close(), assert.rejects(waiting, /closed/)])
    await assert.rejects(join(digest, only(source)), /closed/)
    assert.deepEqual(disk.progress?.held, [{ start: 0, end: 2 * mib }])
    await reader.close()
  }))

test('a failed fill is followed by a fresh one, not by its failure', () =>
  withFills({}, async ({ join }) => {
    const source = createScriptedSource(blob, {
      script: (request) => (request < 2 ? { fail: 'unavailable' } : undefined),
    })
    await assert.rejects(join(digest, only(source)), { code: 'unavailable' })
    await assert.rejects(join(digest, only(source)), { code: 'unavailable' })
    assert.ok((await readFrom(await join(digest, only(source)))).equals(blob))
  }))

// --- the model: whatever readers, sources and disk do

/** Small enough to run often, big enough for several segments. */
const modelBlob = randomBytes(10 * mib + 12_345)
const modelDigest = digestOf(modelBlob)
const segment = 8 * mib
const size = modelBlob.length

const offset = fc.oneof(
  fc.nat(size - 1),
  fc.constantFrom(0, mib, segment, size - 1, size - 65_536, size - 65_537),
)

/** What one request does; `lie` marks what no honest source does. */
const request: fc.Arbitrary<RequestScript> = fc.record(
  {
    cutAfter: fc.oneof(offset, fc.constant(0)),
    endAfter: offset,
    stallAfter: offset,
    ignoreRange: fc.constant(true),
    stallHeaders: fc.constant(true),
    chunk: fc.constantFrom(16_384, 65_536, 1_000_003),
    fail: fc.constantFrom('unavailable', 'busy'),
  },
  { requiredKeys: [] },
)
const lie: fc.Arbitrary<RequestScript> = fc.record(
  {
    flipAt: offset,
    size: fc.constantFrom(0, 1, size - 1, size + 1, size + segment, 5),
    extra: fc.constantFrom(1, mib, segment, 2 * segment + 5),
    cutAfter: offset,
    fail: fc.constantFrom('absent', 'refused', 'broken'),
  },
  { requiredKeys: [] },
)

const reader = fc.record({
  start: fc.oneof(fc.constant(0), offset),
  length: fc.option(fc.oneof(fc.nat(2 * mib), fc.constant(70_000)), { nil: undefined }),
  /** Leaves after so many bytes. */
  abortAfter: fc.option(offset, { nil: undefined }),
  borrow: fc.boolean(),
  chunk: fc.constantFrom(mib, 100_000, 999_983),
  expects: fc.boolean(),
  delayMs: fc.nat(8),
})

const world = fc.record({
  readers: fc.array(reader, { minLength: 1, maxLength: 6 }),
  honest: fc.array(request, { maxLength: 3 }),
  liar: fc.array(lie, { maxLength: 4 }),
  /** Which source is asked first; the other is the origin. */
  liarFirst: fc.boolean(),
  trustedSize: fc.boolean(),
  diskFailsAt: fc.option(fc.nat(12), { nil: undefined, freq: 4 }),
  distantBytes: fc.constantFrom(0, mib, 16 * mib),
  poolBuffers: fc.constantFrom(4, 6, 32),
  workerFromBytes: fc.constantFrom(0, Infinity),
})

test('whatever happens, no whole wrong blob is completed and the right one is not refused', async () => {
  await fc.assert(
    fc.asyncProperty(world, async (given) => {
      await withFills(
        {
          ...given,
          headersTimeoutMs: 25,
          stallMs: 25,
          retryDelaysMs: [0, 1],
          attempts: 8,
          tailBypassMs: 10_000,
        },
        async ({ join, disk, outcomes }) => {
          if (given.diskFailsAt !== undefined) disk.fail('write', 'ENOSPC', given.diskFailsAt)
          const honest = createScriptedSource(modelBlob, {
            name: 'honest',
            script: (index) => given.honest[index],
          })
          const liar = createScriptedSource(modelBlob, {
            name: 'liar',
            script: (index) => given.liar[index % Math.max(given.liar.length, 1)],
          })
          const sources = given.liarFirst ? [liar, honest] : [honest, liar]
          const trusted = given.trustedSize ? { size } : {}
          const bodies = await Promise.allSettled(
            given.readers.map(async (plan) => {
              await new Promise((resolve) => setTimeout(resolve, plan.delayMs))
              const opened = await join(modelDigest, sources, trusted)
              const start = Math.min(plan.start, opened.size)
              const end = Math.min(start + (plan.length ?? Infinity), opened.size)
              if (plan.expects && end > start) opened.expect({ start, end: end - 1 })
              const stop = Math.min(end, start + (plan.abortAfter ?? Infinity))
              const body = await readFrom(opened, { ...plan, start, end: stop })
              return { start, body, said: opened.size }
            }),
          )
          for (const outcome of bodies) {
            if (outcome.status === 'rejected') {
              assert.ok(outcome.reason instanceof SourceError, String(outcome.reason))
              continue
            }
            const { start, body, said } = outcome.value
            // A whole body, from the first to the last byte that was promised, is right.
            if (start === 0 && body.length === said) assert.ok(body.equals(modelBlob))
            // Nothing that reaches into the tail is wrong either: it came after the proof.
            if (start >= said - 65_536)
              assert.ok(body.equals(modelBlob.subarray(start, start + body.length)))
          }
          await waitFor('the fills to end', () => outcomes.length > 0, { timeoutMs: 20_000 })
          // With one honest source the blob is to be had, whatever size was said before: now, if not then.
          const patient = async () => {
            for (let attempt = 0; ; attempt++) {
              try {
                return await readFrom(await join(modelDigest, [honest]))
              } catch (error) {
                assert.ok(error instanceof SourceError && attempt < 6, String(error))
              }
            }
          }
          assert.ok((await patient()).equals(modelBlob))
          await waitFor('all sinks to be closed', () => disk.openSinks === 0)
          const stored = await disk.content()
          if (stored !== undefined) assert.ok(stored.equals(modelBlob))
        },
      )
    }),
    // Shrinking takes longer than the runner waits, and would hide the seed.
    { endOnFailure: true, numRuns: Number(process.env['OUTPORT_FILL_RUNS'] ?? 40) },
  )
})

test('with honest sources every byte is fetched once, but for a segment per cut', async () => {
  const cuts = fc.array(
    fc.record({ cutAfter: offset, chunk: fc.constantFrom(16_384, 65_536) }, { requiredKeys: [] }),
    { maxLength: 5 },
  )
  await fc.assert(
    fc.asyncProperty(
      fc.array(reader, { minLength: 1, maxLength: 6 }),
      cuts,
      cuts,
      async (plans, first, second) => {
        await withFills({ retryDelaysMs: [0], attempts: 20 }, async ({ join, ended }) => {
          const sources = [first, second].map((script, index) =>
            createScriptedSource(modelBlob, {
              name: `source ${index}`,
              script: (request) => script[request],
            }),
          )
          await Promise.all(
            plans.map(async (plan) => {
              const opened = await join(modelDigest, sources)
              const end = Math.min(plan.start + (plan.length ?? Infinity), size)
              const stop = Math.min(end, plan.start + (plan.abortAfter ?? Infinity))
              const body = await readFrom(opened, { ...plan, end: stop })
              assert.ok(body.equals(modelBlob.subarray(plan.start, stop)))
            }),
          )
          assert.equal((await ended()).kind, 'stored')
          const requests = sources.flatMap((source) => source.requests)
          const delivered = sources.reduce((sum, source) => sum + source.deliveredBytes, 0)
          const wasCut = first.concat(second).filter((script) => 'cutAfter' in script).length
          assert.ok(delivered <= size + wasCut * segment, `${delivered} bytes for ${size}`)
          if (wasCut === 0) assert.equal(delivered, size, JSON.stringify(requests))
        })
      },
    ),
    { numRuns: Number(process.env['OUTPORT_FILL_RUNS'] ?? 25) },
  )
})

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import fc from 'fast-check'
import { openCache, type Cache } from '../../../edge/cache/open.ts'
import type { OpenedSink } from '../../../shared/fill/sink.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { SourceError, type BlobSource } from '../../../shared/stream/blob-source.ts'
import { waitFor } from '../../kit/clock.ts'
import { readFrom, withFills } from '../../kit/fill.ts'
import { createScriptedSource, type RequestScript } from '../../kit/source.ts'

const mib = 1024 * 1024
const blob = randomBytes(4 * mib + 12_345)
const digest = digestOf(blob)

const offset = fc.oneof(fc.nat(blob.length - 1), fc.constantFrom(0, mib, 3 * mib))
/** Where a body ends: also behind the blob, when its source has more than that. */
const stop = fc.oneof(offset, fc.constantFrom(6 * mib, 12 * mib))
const script: fc.Arbitrary<RequestScript> = fc.record(
  {
    cutAfter: stop,
    stallAfter: stop,
    flipAt: offset,
    extra: fc.constantFrom(1, mib, 9 * mib),
    size: fc.constantFrom(1, blob.length - 1, blob.length + mib),
    ignoreRange: fc.constant(true),
    fail: fc.constantFrom('unavailable', 'broken'),
  },
  { requiredKeys: [] },
)
const reader = fc.record({
  /** Which of two fills of the same digest it joins: two repositories of a registry, say. */
  key: fc.constantFrom('one', 'two'),
  start: fc.oneof(fc.constant(0), offset),
  abortAfter: fc.option(offset, { nil: undefined }),
  delayMs: fc.nat(8),
})
const world = fc.record({
  readers: fc.array(reader, { minLength: 2, maxLength: 6 }),
  scripts: fc.record({
    one: fc.array(script, { maxLength: 3 }),
    two: fc.array(script, { maxLength: 3 }),
  }),
})

/** Sinks of the cache, and how many of them are open. */
function countSinks({ blobs }: Cache) {
  const counted = {
    open: 0,
    async openSink(): Promise<OpenedSink> {
      const opened = await blobs.openSink(digest)
      counted.open++
      const close = async () => {
        await opened.sink.close()
        counted.open--
      }
      return { ...opened, sink: { ...opened.sink, close } }
    },
  }
  return counted
}

/** The whole stored blob; undefined when it is not held. */
async function stored({ blobs }: Cache): Promise<Buffer | undefined> {
  const handle = await blobs.open(digest)
  if (handle === undefined) return undefined
  try {
    const content = Buffer.alloc(handle.size)
    for (let at = 0; at < handle.size;) at += await handle.read(content.subarray(at), at)
    return content
  } finally {
    await handle.close()
  }
}

test('two fills of one digest at once, whatever their sources do, leave the right blob or none', async () => {
  await fc.assert(
    fc.asyncProperty(world, async ({ readers, scripts }) => {
      const folder = await mkdtemp(join(tmpdir(), 'outport-fills-'))
      const onDamaged = (error: unknown) => assert.fail(String(error))
      const open = () => openCache({ folder, openFiles: 4, onDamaged, onDiskFailed: onDamaged })
      const cache = await open()
      const sinks = countSinks(cache)
      const options = { headersTimeoutMs: 25, stallMs: 25, retryDelaysMs: [0, 1], attempts: 4 }
      await withFills(options, async ({ fills }) => {
        const pull = (key: string, source: BlobSource) =>
          fills.join(key, { digest, sources: [source], openSink: () => sinks.openSink() })
        const sources = {
          one: createScriptedSource(blob, { script: (request) => scripts.one[request] }),
          two: createScriptedSource(blob, { script: (request) => scripts.two[request] }),
        }
        await Promise.allSettled(
          readers.map(async ({ key, start, abortAfter = Infinity, delayMs }) => {
            await new Promise((resolve) => setTimeout(resolve, delayMs))
            const opened = await pull(key, sources[key])
            const end = Math.min(start + abortAfter, opened.size)
            const body = await readFrom(opened, { start: Math.min(start, end), end })
            if (start === 0 && body.length === opened.size) assert.ok(body.equals(blob))
          }),
        ).then((outcomes) => {
          for (const outcome of outcomes) {
            if (outcome.status === 'fulfilled') continue
            assert.ok(outcome.reason instanceof SourceError, String(outcome.reason))
          }
        })
        await waitFor('the fills to end', () => sinks.open === 0)
        const found = await stored(cache)
        if (found !== undefined) assert.ok(found.equals(blob), `${found.length} bytes are stored`)
        // With honest sources it is to be had, for both, and then it is held.
        for (const key of ['one', 'two']) {
          const body = await waitFor('an honest copy', async () =>
            pull(key, createScriptedSource(blob)).then(readFrom, (error: unknown) => {
              assert.ok(error instanceof SourceError, String(error))
              return undefined
            }),
          )
          assert.ok(body.equals(blob))
        }
        await waitFor('the fills to end', () => sinks.open === 0)
        assert.ok((await stored(cache))?.equals(blob))
      })
      await cache.close()
      const again = await open()
      assert.ok((await stored(again))?.equals(blob))
      await again.close()
      await rm(folder, { recursive: true })
    }),
    // Shrinking takes longer than the runner waits, and would hide the seed.
    { endOnFailure: true, numRuns: Number(process.env['OUTPORT_FILL_RUNS'] ?? 25) },
  )
})

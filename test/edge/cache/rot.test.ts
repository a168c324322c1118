import assert from 'node:assert/strict'
import { open, readFile, stat, truncate, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { startScrub } from '../../../edge/cache/scrub.ts'
import { digestOf, type Digest } from '../../../shared/oci/digest.ts'
import type { BlobHandle } from '../../../shared/stream/blob-handle.ts'
import { createHasher, type Hasher } from '../../../shared/stream/hasher.ts'
import { openTestCache, type TestCache, type TestCacheOptions } from '../../kit/cache.ts'
import { waitFor } from '../../kit/clock.ts'
import { startTestEdge } from '../../kit/edge.ts'
import { bytesOf } from '../../kit/images.ts'
import { tempFolder } from '../../kit/temp.ts'
import { startUpstream } from '../../kit/upstream.ts'

// What the disk did not keep as it was: nobody gets a whole wrong blob, and the right one comes back.

const mebibyte = 1024 * 1024
const content = bytesOf('held', 3 * mebibyte)
const digest = digestOf(content)

interface Stand {
  readonly cache: TestCache
  readonly path: string
  readonly rotten: string[]
  /** Files that were hashed. */
  readonly hashed: () => number
  reopen(): Promise<Stand>
}

async function stand(
  t: TestContext,
  root: string,
  options: Pick<TestCacheOptions, 'proofMs' | 'now'> = {},
): Promise<Stand> {
  const rotten: string[] = []
  const real = createHasher({ workerFromBytes: Infinity })
  let hashed = 0
  const hasher: Hasher = {
    ...real,
    start(algorithm, size) {
      hashed++
      return real.start(algorithm, size)
    },
  }
  const cache = await openTestCache(root, {
    ...options,
    hasher,
    onRotten: (which, found) => rotten.push(`${found} ${which === digest ? 'held' : which}`),
  })
  let closed = false
  const close = async () => {
    if (!closed) await cache.close()
    closed = true
  }
  t.after(close)
  return {
    cache,
    path: cache.files.pathOf(digest),
    rotten,
    hashed: () => hashed,
    async reopen() {
      await close()
      return stand(t, root, options)
    },
  }
}

/** A cache that holds the content, as a fill leaves it. */
async function standWithContent(
  t: TestContext,
  options: Parameters<typeof stand>[2] = {},
): Promise<Stand> {
  const made = await stand(t, await tempFolder(t), options)
  const { sink } = await made.cache.blobs.openSink(digest)
  await sink.write(content, 0)
  await sink.commit(content.length)
  await sink.close()
  return made
}

/** A time that a file system gives back as it was set. */
const longAgo = new Date(Date.UTC(2001, 0, 1))

/** Flips a bit in the middle. @param silently as a medium does: a file of `longAgo` says nothing of it */
async function flipBit(path: string, { silently = false } = {}): Promise<void> {
  const file = await open(path, 'r+')
  const byte = Buffer.alloc(1)
  await file.read(byte, 0, 1, mebibyte)
  byte[0] = (byte[0] ?? 0) ^ 1
  await file.write(byte, 0, 1, mebibyte)
  await file.close()
  if (silently) await utimes(path, longAgo, longAgo)
}

/** As much as a reader gives. */
async function readOut(handle: BlobHandle): Promise<{ bytes: Buffer; error: unknown }> {
  const parts: Buffer[] = []
  try {
    for (let offset = 0; offset < handle.size;) {
      const buffer = Buffer.alloc(mebibyte)
      const count = await handle.read(buffer, offset)
      parts.push(buffer.subarray(0, count))
      offset += count
    }
    return { bytes: Buffer.concat(parts), error: undefined }
  } catch (error) {
    return { bytes: Buffer.concat(parts), error }
  } finally {
    await handle.close()
  }
}

async function openHeld({ cache }: Stand, which: Digest = digest): Promise<BlobHandle> {
  const handle = await cache.blobs.open(which)
  assert.ok(handle)
  return handle
}

test('what was proved is not hashed again, by no reader and after no restart', async (t) => {
  const first = await standWithContent(t)
  assert.ok((await readOut(await openHeld(first))).bytes.equals(content))
  const second = await first.reopen()
  assert.ok((await readOut(await openHeld(second))).bytes.equals(content))
  assert.equal(first.hashed() + second.hashed(), 0)
})

test('a file that was changed is never given whole, and is gone afterwards', async (t) => {
  const held = await standWithContent(t)
  await flipBit(held.path)
  const readers = await Promise.all([openHeld(held), openHeld(held)])
  for (const { bytes, error } of await Promise.all(readers.map(readOut))) {
    assert.equal(bytes.length, content.length - 64 * 1024)
    assert.match(String(error), /not what its digest says/)
  }
  assert.equal(held.hashed(), 1, 'once for both')
  assert.deepEqual(held.rotten, ['read held'])
  assert.equal(held.cache.blobs.size(digest), undefined)
  assert.equal(await held.cache.blobs.open(digest), undefined)
})

test('a file that was touched and is right is hashed once, and not after a restart', async (t) => {
  const first = await standWithContent(t)
  await utimes(first.path, longAgo, longAgo)
  const second = await first.reopen()
  assert.ok((await readOut(await openHeld(second))).bytes.equals(content))
  assert.equal(second.hashed(), 1)
  const third = await second.reopen()
  assert.ok((await readOut(await openHeld(third))).bytes.equals(content))
  assert.equal(third.hashed(), 0)
})

test('a proof counts for its time: what the medium forgot without a word is found then', async (t) => {
  let at = 0
  const held = await standWithContent(t, { proofMs: 1000, now: () => at })
  await utimes(held.path, longAgo, longAgo)
  const read = async () => (await readOut(await openHeld(held))).error
  assert.equal(await read(), undefined)
  at = 999
  assert.equal(await read(), undefined)
  assert.equal(held.hashed(), 1, 'for its time of change, and not again')
  at = 1000
  assert.equal(await read(), undefined)
  assert.equal(held.hashed(), 2)
  at = 1500
  await held.cache.blobs.check(digest, () => Promise.resolve())
  await flipBit(held.path, { silently: true })
  at = 2400
  assert.equal(await read(), undefined)
  assert.equal(held.hashed(), 3, 'the scrub is a proof, too')
  const again = await held.reopen()
  at = 2500
  assert.match(String((await readOut(await openHeld(again))).error), /not what its digest says/)
  assert.equal(again.cache.blobs.size(digest), undefined)
})

test('a proof that is not young does not count for who doubts the file', async (t) => {
  let at = 0
  const held = await standWithContent(t, { proofMs: 144_000, now: () => at })
  await utimes(held.path, longAgo, longAgo)
  const read = async (isDoubted: boolean) => {
    const handle = await held.cache.blobs.open(digest, { isDoubted })
    assert.ok(handle)
    return (await readOut(handle)).error
  }
  assert.equal(await read(false), undefined)
  await flipBit(held.path, { silently: true })
  at = 999
  assert.equal(await read(true), undefined, 'a young one counts')
  at = 1000
  assert.equal(await read(false), undefined)
  assert.match(String(await read(true)), /not what its digest says/)
  assert.equal(held.cache.blobs.size(digest), undefined)
})

test('a client that asks again for what it got has it proved, and gets the right bytes then', async (t) => {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  upstream.addBlob('library/app', content)
  const upstreams = [{ id: 'docker.io', url: upstream.url.origin }]
  const proofMs = 14_400
  const edge = await startTestEdge(t, {
    edge: { upstreams, cache: { proof_ttl: `${proofMs}ms`, scrub: '0' } },
  })
  const path = `/v2/library/app/blobs/${digest}`
  const file = join(edge.data, 'edge', 'blobs', 'sha256', digest.slice(7, 9), digest.slice(7))
  const pull = () =>
    edge
      .mirrorClient()
      .request('GET', path)
      .catch(() => undefined)
  assert.ok((await pull())?.body.equals(content))
  await waitFor('it to be held', async () => (await edge.metric('outport_edge_cache_blobs')) === 1)
  await utimes(file, longAgo, longAgo)
  assert.ok((await pull())?.body.equals(content))
  const provedAt = Date.now()
  await flipBit(file, { silently: true })
  await waitFor('the proof to be old', () => Date.now() - provedAt > proofMs / 100)
  const again = await pull()
  assert.ok(again === undefined || again.body.length < content.length, 'not the whole')
  await waitFor('the right bytes', async () => (await pull())?.body.equals(content))
  assert.equal(upstream.delivered(digest).gets, 2)
})

test('a file that was cut off is as if it were not there', async (t) => {
  const held = await standWithContent(t)
  await truncate(held.path, mebibyte)
  assert.equal(await held.cache.blobs.open(digest), undefined)
  assert.equal(held.cache.blobs.size(digest), undefined)
})

test('what is small is hashed whenever it is read from the disk', async (t) => {
  const held = await stand(t, await tempFolder(t))
  const small = bytesOf('small', 2 * mebibyte)
  await held.cache.blobs.put(digestOf(small), small)
  assert.ok((await held.cache.blobs.readAll(digestOf(small)))?.equals(small))
  await flipBit(held.cache.files.pathOf(digestOf(small)), { silently: true })
  assert.equal(await held.cache.blobs.readAll(digestOf(small)), undefined)
  assert.equal(held.cache.blobs.size(digestOf(small)), undefined)
  assert.equal(held.rotten.length, 1)
})

test('the scrub finds what says nothing of its change, and leaves what is right', async (t) => {
  const held = await standWithContent(t)
  const seen: number[] = []
  const check = () => held.cache.blobs.check(digest, async (bytes) => void seen.push(bytes))
  await check()
  assert.deepEqual(seen, [mebibyte, mebibyte, mebibyte])
  assert.deepEqual(held.rotten, [])
  await flipBit(held.path, { silently: true })
  await check()
  assert.deepEqual(held.rotten, ['scrub held'])
  assert.equal(held.cache.blobs.size(digest), undefined)
  await assert.rejects(readFile(held.path), { code: 'ENOENT' })
})

test('the scrub goes round and round at its rate, from where it was, and stops at once', async () => {
  const all = ['a', 'b', 'c'].map((name) => digestOf(Buffer.from(name)))
  const [first, second] = all
  const checked: Digest[] = []
  const saved: Digest[] = []
  const failed: unknown[] = []
  const scrub = startScrub({
    bytesPerSecond: 1e15,
    start: first,
    next: (after) => Promise.resolve(all[after === undefined ? 0 : all.indexOf(after) + 1]),
    async check(which, pause) {
      checked.push(which)
      await pause(2 ** 29)
      if (checked.length > 8) await pause(1e30)
    },
    save: (position) => Promise.resolve(void saved.push(position)),
    onFailed: (error) => failed.push(error),
  })
  await waitFor('three rounds', () => checked.length > 8)
  await scrub.close()
  assert.deepEqual(checked.slice(0, 5), [...all.slice(1), ...all])
  assert.deepEqual(saved.slice(0, 2), [all[2], second], 'after each GiB')
  assert.deepEqual(failed, [])
})

test('a rotten blob is fetched again for the next client, however it was found', async (t) => {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  upstream.addBlob('library/app', content)
  const upstreams = [{ id: 'docker.io', url: upstream.url.origin }]
  const first = await startTestEdge(t, { edge: { upstreams } })
  const path = `/v2/library/app/blobs/${digest}`
  const file = join(first.data, 'edge', 'blobs', 'sha256', digest.slice(7, 9), digest.slice(7))
  assert.ok((await first.mirrorClient().request('GET', path)).body.equals(content))
  await first.stop()
  await flipBit(file, { silently: true })
  const second = await startTestEdge(t, {
    data: first.data,
    edge: { upstreams, cache: { scrub: '1GiB/s' } },
  })
  await waitFor(
    'the scrub to find it',
    async () => (await second.metric('outport_edge_rotten_total', { found: 'scrub' })) === 1,
  )
  const client = second.mirrorClient()
  assert.ok((await client.request('GET', path)).body.equals(content))
  assert.equal(upstream.delivered(digest).gets, 2)
  await waitFor('it to be kept', async () => (await stat(file).catch(() => undefined))?.isFile())
  await second.stop()
  await flipBit(file)
  const third = await startTestEdge(t, { data: first.data, edge: { upstreams } })
  const cut = await third
    .mirrorClient()
    .request('GET', path)
    .catch(() => undefined)
  assert.ok(cut === undefined || cut.body.length < content.length, 'not the whole')
  await waitFor('the right bytes', async () => {
    const answer = await third
      .mirrorClient()
      .request('GET', path)
      .catch(() => undefined)
    return answer?.body.equals(content)
  })
  assert.equal(await third.metric('outport_edge_rotten_total', { found: 'read' }), 1)
})

test('what the medium does not give any more is as if it were not there', async (t) => {
  const failed: unknown[] = []
  const cache = await openTestCache(await tempFolder(t), {
    onDiskFailed: (error) => failed.push(error),
    wrapFiles: (files) => ({
      ...files,
      readAll: () => Promise.reject(Object.assign(new Error('read'), { code: 'EIO' })),
    }),
  })
  t.after(() => cache.close())
  const small = Buffer.from('small')
  await cache.blobs.put(digestOf(small), small)
  assert.equal(await cache.blobs.readAll(digestOf(small)), undefined)
  assert.equal(cache.blobs.size(digestOf(small)), undefined)
  assert.equal(failed.length, 1)
})

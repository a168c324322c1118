import assert from 'node:assert/strict'
import { open } from 'node:fs/promises'
import { test, type TestContext } from 'node:test'
import type { CacheIndex, Origin } from '../../../edge/cache/cache-index.ts'
import { createMemoryCache } from '../../../edge/cache/memory.ts'
import { createBlobs, type Blobs, type OpenedBlob } from '../../../edge/mirror/blobs.ts'
import { createSources } from '../../../edge/sources/sources.ts'
import { createFills } from '../../../shared/fill/fills.ts'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import { SourceError } from '../../../shared/stream/blob-source.ts'
import { bufferBytes, createBufferPool } from '../../../shared/stream/buffers.ts'
import { createHasher } from '../../../shared/stream/hasher.ts'
import { createUpstreamClient } from '../../../shared/upstream/client.ts'
import type { UpstreamClient } from '../../../shared/upstream/fetch.ts'
import { createRegistries } from '../../../shared/upstream/registries.ts'
import { openTestCache, type TestCache, type TestCacheOptions } from '../../kit/cache.ts'
import { waitFor } from '../../kit/clock.ts'
import { bytesOf } from '../../kit/images.ts'
import { tempFolder } from '../../kit/temp.ts'
import { startUpstream, type Upstream } from '../../kit/upstream.ts'

// Who may read what a primary gave to another of its repositories, and what is remembered of it.

const content = bytesOf('a layer', 300_000)
const one: Origin = { upstream: 'primary', repository: parseRepositoryName('team/one'), project: 1 }
const two: Origin = { upstream: 'primary', repository: parseRepositoryName('team/two'), project: 2 }

interface World {
  readonly upstream: Upstream
  readonly cache: TestCache
  readonly blobs: Blobs
}

interface WorldOptions extends TestCacheOptions {
  readonly wrapClient?: (client: UpstreamClient) => UpstreamClient
  readonly lingerMs?: number
  readonly idleMs?: number
}

async function startWorld(
  t: TestContext,
  {
    wrapClient = (client) => client,
    // None goes before a test is over: whoever comes late meets it.
    lingerMs = 60_000,
    idleMs = 60_000,
    ...cacheOptions
  }: WorldOptions = {},
): Promise<World> {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  const cache = await openTestCache(await tempFolder(t), cacheOptions)
  const { entries } = createRegistries([{ id: 'primary', url: upstream.url, kind: 'primary' }])
  const [entry] = entries
  assert.ok(entry)
  const real = createUpstreamClient({ entry })
  const client = wrapClient(real)
  const hasher = createHasher({ workerFromBytes: 8 * bufferBytes })
  const fills = createFills({
    pool: createBufferPool({ bytes: 32 * bufferBytes }),
    hasher,
    limitOf: () => 16,
    options: { lingerMs, idleMs },
  })
  t.after(async () => {
    await fills.close()
    await hasher.close()
    await real.close()
    await cache.close()
  })
  const blobs = createBlobs({
    blobs: cache.blobs,
    memory: createMemoryCache(4096),
    fills,
    client: () => client,
    sources: createSources(() => client),
  })
  return { upstream, cache, blobs }
}

async function read(opened: OpenedBlob): Promise<Buffer> {
  if (opened.kind === 'memory') return opened.bytes
  const { handle } = opened
  try {
    const body = Buffer.alloc(handle.size)
    for (let at = 0; at < body.length;) at += await handle.read(body.subarray(at), at)
    return body
  } finally {
    await handle.close()
  }
}

function isBroken(error: unknown): boolean {
  return error instanceof SourceError && error.code === 'broken'
}

function isAbsent(error: unknown): boolean {
  return error instanceof SourceError && error.code === 'absent'
}

test('once a blob is stored, nobody who took part in its fill is asked about again', async (t) => {
  const mayGoOn = Promise.withResolvers<void>()
  t.after(() => mayGoOn.resolve())
  const wrapIndex = (index: CacheIndex): CacheIndex => ({
    ...index,
    async putStored(digest, entry) {
      await index.putStored(digest, entry)
      await mayGoOn.promise
    },
  })
  const { upstream, cache, blobs } = await startWorld(t, { wrapIndex })
  const [digest] = [one, two].map(({ repository }) => upstream.addBlob(repository, content))
  assert.ok(digest)
  const opened = [await blobs.open(one, digest, {}), await blobs.open(two, digest, {})]
  for (const body of await Promise.all(opened.map(read))) assert.ok(body.equals(content))
  await waitFor('the blob to be stored', () => cache.blobs.size(digest) !== undefined)
  await upstream.down()
  for (const origin of [one, two]) {
    const again = await blobs.open(origin, digest, {})
    assert.equal(again.kind, 'disk')
    assert.ok((await read(again)).equals(content))
  }
})

test('who began a fill or was vouched for is not asked about while it runs', async (t) => {
  const { upstream, blobs } = await startWorld(t)
  const [digest] = [one, two].map(({ repository }) => upstream.addBlob(repository, content))
  assert.ok(digest)
  const goOn = upstream.fault({ digest, method: 'GET', times: 1 }, { stallAt: 200_000 })
  const opened = []
  for (const origin of [one, one, two, two]) opened.push(await blobs.open(origin, digest, {}))
  assert.deepEqual(upstream.delivered(digest).gets, 1)
  assert.equal(upstream.delivered(digest).heads, 1)
  for (const each of opened) if (each.kind !== 'memory') await each.handle.close()
  goOn()
})

test('many who come at once to a fill that another repository began ask about it once', async (t) => {
  const { upstream, blobs } = await startWorld(t)
  const [digest] = [one, two].map(({ repository }) => upstream.addBlob(repository, content))
  assert.ok(digest)
  const goOn = upstream.fault({ digest, method: 'GET', times: 1 }, { stallAt: 200_000 })
  const first = await blobs.open(one, digest, {})
  const many = await Promise.all(Array.from({ length: 20 }, () => blobs.open(two, digest, {})))
  assert.equal(upstream.delivered(digest).heads, 1)
  for (const each of [first, ...many]) if (each.kind !== 'memory') await each.handle.close()
  goOn()
})

test('who was vouched for only when the fill was over has the blob, too', async (t) => {
  const answered = Promise.withResolvers<void>()
  const wrapClient = (client: UpstreamClient): UpstreamClient => ({
    ...client,
    async headBlob(...asked) {
      const head = await client.headBlob(...asked)
      await answered.promise
      return head
    },
  })
  const { upstream, cache, blobs } = await startWorld(t, { wrapClient })
  const [digest] = [one, two].map(({ repository }) => upstream.addBlob(repository, content))
  assert.ok(digest)
  const first = await blobs.open(one, digest, {})
  const late = blobs.open(two, digest, {})
  await waitFor('the question to the primary', () => upstream.delivered(digest).heads === 1)
  assert.ok((await read(first)).equals(content))
  await waitFor('the blob to be stored', () => cache.blobs.size(digest) !== undefined)
  answered.resolve()
  assert.ok((await read(await late)).equals(content))
  await upstream.down()
  assert.ok((await read(await blobs.open(two, digest, {}))).equals(content))
})

test('a repository that lacks the blob gets nothing of a fill that another began', async (t) => {
  const { upstream, cache, blobs } = await startWorld(t)
  const digest = upstream.addBlob(two.repository, content)
  upstream.addBlob(one.repository, Buffer.from('something else'))
  const goOn = upstream.fault({ digest, method: 'GET', times: 1 }, { stallAt: 200_000 })
  const opened = await blobs.open(two, digest, {})
  await assert.rejects(blobs.open(one, digest, {}), isAbsent)
  assert.equal(cache.blobs.link(one, digest), undefined)
  if (opened.kind !== 'memory') await opened.handle.close()
  goOn()
})

test('nor does one that was refused, and asks again while another begins', async (t) => {
  const mayGoOn = Promise.withResolvers<void>()
  t.after(() => mayGoOn.resolve())
  // A fill that was refused holds its place until this is written.
  const wrapIndex = (index: CacheIndex): CacheIndex => ({
    ...index,
    async removeProgress(part) {
      await mayGoOn.promise
      await index.removeProgress(part)
    },
  })
  const { upstream, cache, blobs } = await startWorld(t, { wrapIndex })
  const digest = upstream.addBlob(two.repository, content)
  upstream.addBlob(one.repository, Buffer.from('something else'))
  await assert.rejects(blobs.open(one, digest, {}), isAbsent)
  const given = blobs.open(two, digest, {})
  const refused = assert.rejects(blobs.open(one, digest, {}), isAbsent)
  mayGoOn.resolve()
  assert.ok((await read(await given)).equals(content))
  await refused
  assert.equal(cache.blobs.link(one, digest), undefined)
})

test('what a fill of another repository left is given to none that lacks the blob, even if it is all there', async (t) => {
  const { upstream, cache, blobs } = await startWorld(t)
  const digest = upstream.addBlob(two.repository, content)
  upstream.addBlob(one.repository, Buffer.from('something else'))
  const { sink } = await cache.blobs.openSink(digest)
  await sink.write(content, 0)
  await sink.saveProgress?.({ size: content.length, held: [{ start: 0, end: content.length }] })
  await sink.close()
  await assert.rejects(blobs.open(one, digest, {}), isAbsent)
  assert.equal(cache.blobs.link(one, digest), undefined)
  assert.ok((await read(await blobs.open(two, digest, {}))).equals(content))
})

test('a blob that could not get its name is fetched again, by a repository that has its link', async (t) => {
  let fails = true
  const { upstream, cache, blobs } = await startWorld(t, {
    lingerMs: 0,
    wrapFiles: (files) => ({
      ...files,
      async createPart(digest) {
        const part = await files.createPart(digest)
        if (!fails) return part
        return { ...part, publish: () => Promise.reject(new Error('the disk is full')) }
      },
    }),
  })
  const digest = upstream.addBlob(one.repository, content)
  assert.ok((await read(await blobs.open(one, digest, {}))).equals(content))
  await waitFor('the link', () => cache.blobs.link(one, digest) !== undefined)
  assert.equal(cache.blobs.size(digest), undefined)
  fails = false
  await waitFor('the blob to be stored', async () => {
    assert.ok((await read(await blobs.open(one, digest, {}))).equals(content))
    return cache.blobs.size(digest) !== undefined
  })
})

test('what is spoiled just after its fill is fetched again, though that fill is still there', async (t) => {
  const { upstream, cache, blobs } = await startWorld(t)
  const digest = upstream.addBlob(one.repository, content)
  assert.ok((await read(await blobs.open(one, digest, {}))).equals(content))
  await waitFor('the blob to be stored', () => cache.blobs.size(digest) !== undefined)
  const file = await open(cache.files.pathOf(digest), 'r+')
  await file.write(Buffer.from('spoiled'), 0, 7, 1000)
  await file.close()
  await assert.rejects(async () => read(await blobs.open(one, digest, {})), isBroken)
  for (let time = 0; time < 2; time++)
    assert.ok((await read(await blobs.open(one, digest, {}))).equals(content))
  await waitFor('the blob to be stored', () => cache.blobs.size(digest) !== undefined)
  assert.equal(upstream.delivered(digest).gets, 2)
})

test('what is fetched ahead ends at once for who lets it go, and soon altogether', async (t) => {
  const { upstream, blobs } = await startWorld(t, { idleMs: 20 })
  const digest = upstream.addBlob(one.repository, content)
  const goOn = upstream.fault({ digest, method: 'GET', times: 1 }, { stallAt: 200_000 })
  t.after(goOn)
  const letGo = new AbortController()
  const fetching = blobs.prefetch(one, digest, { signal: letGo.signal })
  await waitFor('its beginning', () => upstream.delivered(digest).bytes >= 200_000)
  assert.equal(blobs.isHere(one, digest), true)
  letGo.abort(new Error('not wanted any more'))
  await assert.rejects(fetching, /not wanted any more/)
  await waitFor('the fill to be parked', () => !blobs.isHere(one, digest))
  assert.ok((await read(await blobs.open(one, digest, {}))).equals(content))
  assert.equal(upstream.delivered(digest).gets, 2)
})

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { appendFile, mkdir, readdir, rename, rm, truncate, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import { setImmediate as nextTurn } from 'node:timers/promises'
import type { BlobFiles } from '../../../edge/cache/blob-files.ts'
import type { CachedBlobs } from '../../../edge/cache/blobs.ts'
import type { CacheIndex, Origin } from '../../../edge/cache/cache-index.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import { openTestCache } from '../../kit/cache.ts'
import { tempFolder } from '../../kit/temp.ts'

const origin: Origin = { upstream: 'primary', repository: parseRepositoryName('library/app') }
const other: Origin = { upstream: 'docker-io', repository: parseRepositoryName('library/app') }
const bytes = Buffer.from('some content')
const digest = digestOf(bytes)

/** Writes a moment later, so that whoever began beside it has looked before. */
function slowly(index: CacheIndex): CacheIndex {
  return {
    ...index,
    async putStored(stored, entry) {
      await nextTurn()
      await index.putStored(stored, entry)
    },
    async removeStored(stored) {
      await nextTurn()
      await index.removeStored(stored)
    },
    async putLink(from, linked, link) {
      // The first to come is the last to be written.
      if (link.mediaType !== undefined) await nextTurn()
      await index.putLink(from, linked, link)
    },
  }
}

/** Work enough that whatever waits for nothing else is done by then. */
async function storeOthers(blobs: CachedBlobs): Promise<void> {
  for (let count = 0; count < 10; count++) {
    const content = randomBytes(16)
    await blobs.put(digestOf(content), content)
  }
}

async function readHandle(blobs: CachedBlobs): Promise<string | undefined> {
  const handle = await blobs.open(digest)
  if (handle === undefined) return undefined
  try {
    const buffer = Buffer.alloc(handle.size)
    await handle.read(buffer, 0)
    return buffer.toString()
  } finally {
    await handle.close()
  }
}

test('a filled blob is readable after its commit, after a restart, and counted', async (t) => {
  const root = await tempFolder(t)
  const first = await openTestCache(root)
  const { sink } = await first.blobs.openSink(digest)
  await sink.write(bytes, 0)
  assert.equal(first.blobs.size(digest), undefined)
  await sink.commit(bytes.length)
  await sink.close()
  assert.equal(await readHandle(first.blobs), bytes.toString())
  assert.deepEqual(first.blobs.total, { bytes: bytes.length, count: 1 })
  await first.close()
  const second = await openTestCache(root)
  t.after(() => second.close())
  assert.equal(await readHandle(second.blobs), bytes.toString())
  assert.deepEqual(second.blobs.total, { bytes: bytes.length, count: 1 })
})

test('what lies behind the proved size is cut off before a blob has its name', async (t) => {
  const cache = await openTestCache(await tempFolder(t))
  t.after(() => cache.close())
  const { sink } = await cache.blobs.openSink(digest)
  await sink.write(bytes, 0)
  await sink.write(Buffer.from('of another size'), 1000)
  await sink.commit(bytes.length)
  await sink.close()
  assert.equal(await cache.files.size(digest), bytes.length)
  assert.equal(await readHandle(cache.blobs), bytes.toString())
  assert.deepEqual(cache.blobs.total, { bytes: bytes.length, count: 1 })
})

test('a part that is shorter than what was proved is not published', async (t) => {
  const cache = await openTestCache(await tempFolder(t))
  t.after(() => cache.close())
  const { sink } = await cache.blobs.openSink(digest)
  await sink.write(bytes, 0)
  await assert.rejects(sink.commit(bytes.length + 1), /bytes/)
  await sink.close()
  assert.equal(cache.blobs.size(digest), undefined)
  assert.equal(await cache.files.size(digest), undefined)
})

test('a link lets only its own upstream and repository show a digest', async (t) => {
  const cache = await openTestCache(await tempFolder(t))
  t.after(() => cache.close())
  await cache.blobs.put(digest, bytes)
  assert.equal(cache.blobs.link(origin, digest), undefined)
  await cache.blobs.addLink(origin, digest, { mediaType: 'a/b' })
  assert.deepEqual(cache.blobs.link(origin, digest), { mediaType: 'a/b' })
  assert.equal(cache.blobs.link(other, digest), undefined)
})

test('a lost index is made again from the disk, links included, but for a torn last line', async (t) => {
  const root = await tempFolder(t)
  const first = await openTestCache(root)
  await first.blobs.put(digest, bytes)
  await first.blobs.addLink(origin, digest, { mediaType: 'a/b' })
  await appendFile(`${first.files.pathOf(digest)}.links`, JSON.stringify(other))
  await first.close()
  await rm(join(root, 'index'), { recursive: true })
  const second = await openTestCache(root)
  t.after(() => second.close())
  assert.equal(await readHandle(second.blobs), bytes.toString())
  assert.deepEqual(second.blobs.link(origin, digest), { mediaType: 'a/b' })
  assert.equal(second.blobs.link(other, digest), undefined)
})

test('while a lost index is made again what is on the disk is served, and a stop or a kill costs nothing', async (t) => {
  const root = await tempFolder(t)
  const first = await openTestCache(root)
  await first.blobs.put(digest, bytes)
  await first.blobs.addLink(origin, digest, { mediaType: 'a/b' })
  await storeOthers(first.blobs)
  await first.close()
  await rm(join(root, 'index'), { recursive: true })

  const walking = Promise.withResolvers<void>()
  /** Lists one other blob, and goes on when it is let. */
  const wrapFiles = (files: BlobFiles): BlobFiles => ({
    ...files,
    async *list() {
      for await (const found of files.list()) {
        if (found.digest === digest) continue
        yield found
        await walking.promise
      }
      yield { digest, size: bytes.length }
    },
  })
  const second = await openTestCache(root, { wrapFiles, early: true })
  assert.equal(second.blobs.size(digest), undefined)
  await second.blobs.know(digest)
  assert.deepEqual(second.blobs.link(origin, digest), { mediaType: 'a/b' })
  assert.equal(await readHandle(second.blobs), bytes.toString())
  const absent = digestOf(Buffer.from('never held'))
  assert.equal(await second.blobs.readAll(absent), undefined)
  const added = Buffer.from('stored meanwhile')
  await second.blobs.put(digestOf(added), added)
  const closed = second.close()
  walking.resolve()
  await closed

  const third = await openTestCache(root)
  t.after(() => third.close())
  assert.deepEqual(third.blobs.total, { bytes: bytes.length + 160 + added.length, count: 12 })
  assert.equal(third.blobs.know(absent), undefined)
  assert.deepEqual(third.blobs.link(origin, digest), { mediaType: 'a/b' })
  assert.equal(third.index.complete, false)
  await third.close()
  const fourth = await openTestCache(root)
  t.after(() => fourth.close())
  assert.equal(fourth.index.complete, true)
})

test('a file that is shorter than its entry is dropped and not served', async (t) => {
  const cache = await openTestCache(await tempFolder(t))
  t.after(() => cache.close())
  await cache.blobs.put(digest, bytes)
  await truncate(cache.files.pathOf(digest), 3)
  assert.equal(await readHandle(cache.blobs), undefined)
  assert.equal(cache.blobs.size(digest), undefined)
  assert.deepEqual(cache.blobs.total, { bytes: 0, count: 0 })
})

test('a reader of a dropped blob reads to its end', async (t) => {
  const cache = await openTestCache(await tempFolder(t))
  t.after(() => cache.close())
  await cache.blobs.put(digest, bytes)
  const handle = await cache.blobs.open(digest)
  assert.ok(handle)
  await cache.blobs.drop(digest)
  const buffer = Buffer.alloc(bytes.length)
  assert.equal(await handle.read(buffer, 0), bytes.length)
  assert.deepEqual(buffer, bytes)
  await handle.close()
  assert.equal(await cache.blobs.open(digest), undefined)
})

test('a part is resumed with what its record vouches for', async (t) => {
  const root = await tempFolder(t)
  const first = await openTestCache(root)
  const opened = await first.blobs.openSink(digest)
  assert.equal(opened.held, undefined)
  await opened.sink.write(bytes.subarray(0, 4), 0)
  await opened.sink.sync()
  await opened.sink.saveProgress?.({ size: bytes.length, held: [{ start: 0, end: 4 }] })
  await opened.sink.close()
  await first.close()
  const second = await openTestCache(root)
  t.after(() => second.close())
  const resumed = await second.blobs.openSink(digest)
  assert.deepEqual(resumed.held, [{ start: 0, end: 4 }])
  assert.equal(resumed.size, bytes.length)
  const buffer = Buffer.alloc(4)
  await resumed.sink.read(buffer, 0)
  assert.deepEqual(buffer, bytes.subarray(0, 4))
  await resumed.sink.discard()
  await resumed.sink.close()
  assert.deepEqual(await second.files.listParts(), [])
})

test('after a crash a part without a record goes, and a blob whose entry was missed is found', async (t) => {
  const root = await tempFolder(t)
  const first = await openTestCache(root)
  const { sink } = await first.blobs.openSink(digest)
  await sink.write(bytes, 0)
  await sink.saveProgress?.({ size: bytes.length, held: [] })
  await sink.close()
  // Renamed, and killed before the entry was written.
  const [part] = await first.files.listParts()
  assert.ok(part)
  const path = first.files.pathOf(digest)
  await mkdir(dirname(path), { recursive: true })
  await rename(join(root, 'parts', part), path)
  const stray = digestOf(Buffer.from('stray'))
  await writeFile(join(root, 'parts', `${stray.replace(':', '-')}.00`), 'stray')
  await first.close()
  const second = await openTestCache(root)
  t.after(() => second.close())
  assert.equal(await readHandle(second.blobs), bytes.toString())
  assert.deepEqual(await readdir(join(root, 'parts')), [])
})

test('two fills of one digest write to files of their own, and both may be committed', async (t) => {
  const cache = await openTestCache(await tempFolder(t))
  t.after(() => cache.close())
  const [one, two] = [await cache.blobs.openSink(digest), await cache.blobs.openSink(digest)]
  await one.sink.write(bytes, 0)
  await two.sink.write(Buffer.from('SOME LIES!!!'), 0)
  await one.sink.commit(bytes.length)
  await one.sink.close()
  assert.equal(await readHandle(cache.blobs), bytes.toString())
  await two.sink.write(bytes, 0)
  await two.sink.commit(bytes.length)
  await two.sink.close()
  assert.equal(await readHandle(cache.blobs), bytes.toString())
  assert.deepEqual(cache.blobs.total, { bytes: bytes.length, count: 1 })
  assert.deepEqual(await cache.files.listParts(), [])
})

test('what a fill leaves is taken over once, and a second leaving of the same digest goes', async (t) => {
  const cache = await openTestCache(await tempFolder(t))
  t.after(() => cache.close())
  const progress = { size: bytes.length, held: [{ start: 0, end: 4 }] }
  const [one, two] = [await cache.blobs.openSink(digest), await cache.blobs.openSink(digest)]
  for (const { sink } of [one, two]) {
    await sink.write(bytes.subarray(0, 4), 0)
    await sink.saveProgress?.(progress)
    await sink.close()
  }
  assert.equal((await cache.files.listParts()).length, 1)
  const [third, fourth] = [await cache.blobs.openSink(digest), await cache.blobs.openSink(digest)]
  assert.deepEqual(third.held, progress.held)
  assert.equal(fourth.held, undefined)
  for (const { sink } of [third, fourth]) {
    await sink.discard()
    await sink.close()
  }
  assert.deepEqual(await cache.files.listParts(), [])
})

for (const [when, links] of [
  ['after', [{ mediaType: 'a/b' }, {}]],
  ['before', [{}, { mediaType: 'a/b' }]],
] as const) {
  test(`a blob's link that is asked for just ${when} the manifest's takes nothing from it`, async (t) => {
    const root = await tempFolder(t)
    const first = await openTestCache(root, { wrapIndex: slowly })
    await first.blobs.put(digest, bytes)
    await Promise.all(links.map((link) => first.blobs.addLink(origin, digest, link)))
    assert.deepEqual(first.blobs.link(origin, digest), { mediaType: 'a/b' })
    await first.close()
    await rm(join(root, 'index'), { recursive: true })
    const second = await openTestCache(root)
    t.after(() => second.close())
    assert.deepEqual(second.blobs.link(origin, digest), { mediaType: 'a/b' })
  })
}

test('a link may come before the bytes: it shows nothing until they are here', async (t) => {
  const root = await tempFolder(t)
  const first = await openTestCache(root)
  await first.blobs.addLink(origin, digest, {})
  assert.deepEqual(first.blobs.link(origin, digest), {})
  assert.equal(first.blobs.size(digest), undefined)
  assert.equal(await first.blobs.open(digest), undefined)
  await first.blobs.put(digest, bytes)
  await first.close()
  await rm(join(root, 'index'), { recursive: true })
  const second = await openTestCache(root)
  t.after(() => second.close())
  assert.deepEqual(second.blobs.link(origin, digest), {})
})

test('a link that the disk refuses counts all the same, also where an older one stands', async (t) => {
  const errors: unknown[] = []
  const cache = await openTestCache(await tempFolder(t), {
    onDiskFailed: (error) => errors.push(error),
  })
  t.after(() => cache.close())
  await cache.blobs.put(digest, bytes)
  await cache.blobs.addLink(origin, digest, {})
  const links = `${cache.files.pathOf(digest)}.links`
  await rm(links)
  // A folder where a file should be: that stops root, too.
  await mkdir(links)
  await cache.blobs.addLink(origin, digest, { mediaType: 'a/b' })
  assert.equal(errors.length, 1)
  assert.deepEqual(cache.blobs.link(origin, digest), { mediaType: 'a/b' })
  await rm(links, { recursive: true })
  await cache.blobs.addLink(origin, digest, { mediaType: 'c/d' })
  assert.deepEqual(cache.blobs.link(origin, digest), { mediaType: 'c/d' })
})

test('a blob that is stored twice at once is counted once, and uncounted once', async (t) => {
  const cache = await openTestCache(await tempFolder(t), { wrapIndex: slowly })
  t.after(() => cache.close())
  const sinks = [await cache.blobs.openSink(digest), await cache.blobs.openSink(digest)]
  for (const { sink } of sinks) await sink.write(bytes, 0)
  await Promise.all(sinks.map(({ sink }) => sink.commit(bytes.length)))
  for (const { sink } of sinks) await sink.close()
  assert.deepEqual(cache.blobs.total, { bytes: bytes.length, count: 1 })
  await Promise.all([cache.blobs.drop(digest), cache.blobs.drop(digest)])
  assert.deepEqual(cache.blobs.total, { bytes: 0, count: 0 })
})

test('small content that several have at once is written once', async (t) => {
  let writes = 0
  const wrapFiles = (files: BlobFiles): BlobFiles => ({
    ...files,
    async put(each, content) {
      writes++
      await files.put(each, content)
    },
  })
  const cache = await openTestCache(await tempFolder(t), { wrapFiles })
  t.after(() => cache.close())
  await Promise.all([1, 2, 3].map(() => cache.blobs.put(digest, bytes)))
  assert.equal(writes, 1)
  assert.equal(await readHandle(cache.blobs), bytes.toString())
})

test('what is stored while an older copy of it is dropped stays', async (t) => {
  const removing = Promise.withResolvers<void>()
  const mayRemove = Promise.withResolvers<void>()
  const wrapFiles = (files: BlobFiles): BlobFiles => ({
    ...files,
    async remove(removed) {
      removing.resolve()
      await mayRemove.promise
      await files.remove(removed)
    },
  })
  const cache = await openTestCache(await tempFolder(t), { wrapFiles })
  t.after(() => cache.close())
  await cache.blobs.put(digest, bytes)
  const { sink } = await cache.blobs.openSink(digest)
  await sink.write(bytes, 0)
  const dropped = cache.blobs.drop(digest)
  await removing.promise
  const stored = sink.commit(bytes.length)
  await Promise.race([stored, storeOthers(cache.blobs)])
  mayRemove.resolve()
  await Promise.all([dropped, stored])
  await sink.close()
  assert.equal(await readHandle(cache.blobs), bytes.toString())
  assert.equal(cache.blobs.size(digest), bytes.length)
})

test('a file that is put right after a reader found it broken is not dropped', async (t) => {
  const mayStore = Promise.withResolvers<void>()
  const wrapFiles = (files: BlobFiles): BlobFiles => ({
    ...files,
    async createPart(each) {
      const part = await files.createPart(each)
      const publish = async (size: number) => {
        await mayStore.promise
        await part.publish(size)
      }
      return { ...part, publish }
    },
  })
  const cache = await openTestCache(await tempFolder(t), { wrapFiles })
  t.after(() => cache.close())
  await cache.blobs.put(digest, bytes)
  await truncate(cache.files.pathOf(digest), 3)
  const { sink } = await cache.blobs.openSink(digest)
  await sink.write(bytes, 0)
  const stored = sink.commit(bytes.length)
  const found = [cache.blobs.open(digest), cache.blobs.readAll(digest)]
  await Promise.race([Promise.all(found), storeOthers(cache.blobs)])
  mayStore.resolve()
  await stored
  await sink.close()
  assert.deepEqual(await Promise.all(found), [undefined, undefined])
  assert.equal(cache.blobs.size(digest), bytes.length)
  assert.equal(await readHandle(cache.blobs), bytes.toString())
})

test('a link counts in the project that it was made in, and in no other of its name', async (t) => {
  const root = await tempFolder(t)
  const first = await openTestCache(root)
  await first.blobs.put(digest, bytes)
  await first.blobs.addLink({ ...origin, project: 7 }, digest, { mediaType: 'a/b' })
  assert.ok(first.blobs.link({ ...origin, project: 7 }, digest))
  for (const project of [8, undefined])
    assert.equal(first.blobs.link({ ...origin, project }, digest), undefined)
  await first.blobs.addLink({ ...origin, project: 8 }, digest, {})
  assert.equal(first.blobs.link({ ...origin, project: 7 }, digest), undefined)
  await first.close()
  await rm(join(root, 'index'), { recursive: true })
  const second = await openTestCache(root)
  t.after(() => second.close())
  assert.deepEqual(second.blobs.link({ ...origin, project: 8 }, digest), { project: 8 })
  assert.equal(second.blobs.link({ ...origin, project: 7 }, digest), undefined)
})

import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { Readable } from 'node:stream'
import { test, type TestContext } from 'node:test'
import type { BlobKey, BlobStore } from '../../primary/store/blobs.ts'
import { digestOf } from '../../shared/oci/digest.ts'

/** An empty store; whatever it needs is cleaned up when the test ends. `reopen` is what a restart sees. */
export interface OpenedStore {
  readonly store: BlobStore
  reopen(): Promise<BlobStore>
}

const newKey = (): BlobKey => randomBytes(16).toString('hex')
const body = (...chunks: readonly (string | Buffer)[]) =>
  Readable.from(chunks.map((chunk) => Buffer.from(chunk)))

async function* breaking(...chunks: readonly Buffer[]): AsyncGenerator<Buffer> {
  yield* chunks
  await Promise.resolve()
  throw new Error('the client has gone')
}

async function upload(store: BlobStore, content: Buffer): Promise<BlobKey> {
  const key = newKey()
  await store.create(key)
  await store.append(key, 0, body(content))
  return key
}

async function readBack(store: BlobStore, key: BlobKey): Promise<Buffer | undefined> {
  const opened = await store.open(key)
  if (opened === undefined) return undefined
  assert.ok(!('redirect' in opened))
  try {
    const buffer = Buffer.alloc(opened.size)
    for (let at = 0; at < buffer.length;) at += await opened.read(buffer.subarray(at), at)
    return buffer
  } finally {
    await opened.close()
  }
}

/** The laws of any BlobStore. */
export function testBlobStore(open: (t: TestContext) => Promise<OpenedStore>): void {
  test('a committed blob is read back whole and in parts, and a read past its end gives nothing', async (t) => {
    const { store } = await open(t)
    const content = randomBytes(3 * 1024 * 1024 + 7)
    const key = await upload(store, content)
    assert.deepEqual(await store.commit(key, digestOf(content)), { size: content.length })
    assert.deepEqual(await readBack(store, key), content)
    const handle = await store.open(key)
    assert.ok(handle && !('redirect' in handle))
    const part = Buffer.alloc(10)
    assert.equal(await handle.read(part, content.length - 4), 4)
    assert.deepEqual(part.subarray(0, 4), content.subarray(-4))
    assert.equal(await handle.read(part, content.length), 0)
    await handle.close()
  })

  test('nothing is readable before the commit, and nothing is left after an abort', async (t) => {
    const { store } = await open(t)
    const key = await upload(store, Buffer.from('abc'))
    assert.equal(await store.stat(key), undefined)
    assert.equal(await store.open(key), undefined)
    await store.abort(key)
    await store.abort(key)
    assert.equal(await store.held(key), undefined)
    await assert.rejects(store.commit(key, digestOf(Buffer.from('abc'))), {
      code: 'BLOB_UPLOAD_UNKNOWN',
    })
    await assert.rejects(store.append(key, 0, body('x')), { code: 'BLOB_UPLOAD_UNKNOWN' })
  })

  test('appends go on where the upload is, and nowhere else', async (t) => {
    const { store } = await open(t)
    const key = newKey()
    await store.create(key)
    assert.equal(await store.held(key), 0)
    assert.equal(await store.append(key, 0, body('ab', 'c')), 3)
    await assert.rejects(store.append(key, 2, body('x')), { code: 'BLOB_UPLOAD_INVALID' })
    await assert.rejects(store.append(key, 4, body('x')), { code: 'BLOB_UPLOAD_INVALID' })
    assert.equal(await store.append(key, 3, body('def')), 6)
    assert.equal(await store.held(key), 6)
    await store.commit(key, digestOf(Buffer.from('abcdef')))
    assert.equal((await readBack(store, key))?.toString(), 'abcdef')
  })

  test('one of two appends at once is refused, and no bytes are mixed', async (t) => {
    const { store } = await open(t)
    const key = newKey()
    await store.create(key)
    const results = await Promise.allSettled([
      store.append(key, 0, body('aaaa')),
      store.append(key, 0, body('bbbb')),
    ])
    assert.deepEqual(results.map(({ status }) => status).sort(), ['fulfilled', 'rejected'])
    const winner = results[0]?.status === 'fulfilled' ? 'aaaa' : 'bbbb'
    await store.commit(key, digestOf(Buffer.from(winner)))
  })

  test('a body that breaks off leaves what came, and the upload goes on', async (t) => {
    const { store } = await open(t)
    const content = randomBytes(2 * 1024 * 1024)
    const key = newKey()
    await store.create(key)
    await assert.rejects(
      store.append(key, 0, Readable.from(breaking(content.subarray(0, 1_000_000)))),
      /gone/,
    )
    const held = await store.held(key)
    assert.equal(held, 1_000_000)
    await store.append(key, held, body(content.subarray(held)))
    await store.commit(key, digestOf(content))
    assert.deepEqual(await readBack(store, key), content)
  })

  test('an upload survives a restart at its offset', async (t) => {
    const { store, reopen } = await open(t)
    const content = randomBytes(1_500_000)
    const key = newKey()
    await store.create(key)
    await store.append(key, 0, body(content.subarray(0, 700_000)))
    const restarted = await reopen()
    assert.equal(await restarted.held(key), 700_000)
    await restarted.append(key, 700_000, body(content.subarray(700_000)))
    await restarted.commit(key, digestOf(content))
    assert.deepEqual(await readBack(restarted, key), content)
  })

  test("another digest than the content's is refused and names what was received; the right one still commits", async (t) => {
    const { store } = await open(t)
    const content = Buffer.from('content')
    const key = await upload(store, content)
    await assert.rejects(store.commit(key, digestOf(Buffer.from('other'))), {
      code: 'DIGEST_INVALID',
      status: 400,
    })
    assert.equal(await store.open(key), undefined)
    await store.commit(key, digestOf(content))
  })

  test('sha512 proves content as well, and an empty blob is a blob', async (t) => {
    const { store } = await open(t)
    const content = randomBytes(100_000)
    const key = await upload(store, content)
    await store.commit(key, digestOf(content, 'sha512'))
    const empty = newKey()
    await store.create(empty)
    await store.commit(empty, digestOf(Buffer.alloc(0)))
    assert.deepEqual(await store.stat(empty), { size: 0 })
    assert.deepEqual(await readBack(store, empty), Buffer.alloc(0))
  })

  test('two commits of one digest both succeed, each under its own key', async (t) => {
    const { store } = await open(t)
    const content = Buffer.from('twice')
    const keys = await Promise.all([upload(store, content), upload(store, content)])
    await Promise.all(keys.map((key) => store.commit(key, digestOf(content))))
    for (const key of keys) assert.deepEqual(await readBack(store, key), content)
  })

  test('a removed blob is gone for new readers and stays for those that have it open', async (t) => {
    const { store } = await open(t)
    const content = randomBytes(100_000)
    const key = await upload(store, content)
    await store.commit(key, digestOf(content))
    const handle = await store.open(key)
    assert.ok(handle && !('redirect' in handle))
    assert.equal(await store.remove(key), true)
    assert.equal(await store.remove(key), false)
    assert.equal(await store.stat(key), undefined)
    assert.equal(await store.open(key), undefined)
    const buffer = Buffer.alloc(content.length)
    await handle.read(buffer, 0)
    assert.deepEqual(buffer, content)
    await handle.close()
  })

  test('the list names every stored copy once, in order, from where it is asked', async (t) => {
    const { store } = await open(t)
    const keys: BlobKey[] = []
    for (let number = 0; number < 20; number++) {
      const content = Buffer.from(String(number))
      const key = await upload(store, content)
      await store.commit(key, digestOf(content))
      keys.push(key)
    }
    await upload(store, Buffer.from('not committed'))
    keys.sort()
    const listed = async (after?: BlobKey) => {
      const found: BlobKey[] = []
      for await (const copy of store.list(after)) found.push(copy.key)
      return found
    }
    assert.deepEqual(await listed(), keys)
    assert.deepEqual(await listed(keys[9]), keys.slice(10))
  })

  test('a key that could be a path is never used as one', async (t) => {
    const { store } = await open(t)
    for (const key of ['', '../../etc/passwd', 'A'.repeat(32), `${'a'.repeat(31)}/`]) {
      await assert.rejects(async () => store.create(key))
      await assert.rejects(async () => store.open(key))
      await assert.rejects(async () => store.remove(key))
    }
  })

  test('a record is written once by whoever is first, and later only by who knows it', async (t) => {
    const { store, reopen } = await open(t)
    assert.equal(await store.readRecord('store-id'), undefined)
    const writes = ['a', 'b', 'c'].map((value) =>
      store.writeRecord('store-id', Buffer.from(value), { absent: true }),
    )
    assert.equal((await Promise.all(writes)).filter(Boolean).length, 1)
    const read = await store.readRecord('store-id')
    assert.ok(read)
    assert.equal(await store.writeRecord('store-id', Buffer.from('next'), { tag: 'wrong' }), false)
    assert.equal(await store.writeRecord('store-id', Buffer.from('next'), { tag: read.tag }), true)
    assert.equal((await (await reopen()).readRecord('store-id'))?.value.toString(), 'next')
  })
}

import assert from 'node:assert/strict'
import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { openCache, type Cache } from '../../../edge/cache/open.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { tempFolder } from '../../kit/temp.ts'

const bytes = Buffer.from('content')
const digest = digestOf(bytes)

function openIn(folder: string, damaged: unknown[] = []): Promise<Cache> {
  return openCache({
    folder,
    openFiles: 4,
    onDamaged: (error) => damaged.push(error),
    onDiskFailed: (error) => assert.fail(String(error)),
  })
}

async function filled(t: TestContext): Promise<string> {
  const folder = await tempFolder(t)
  const cache = await openIn(folder)
  await cache.blobs.put(digest, bytes)
  await cache.close()
  return folder
}

test('an index that is damaged is told of and made again from the disk', async (t) => {
  const folder = await filled(t)
  await writeFile(join(folder, 'index', 'CURRENT'), 'MANIFEST-999999\n')
  const damaged: unknown[] = []
  const cache = await openIn(folder, damaged)
  t.after(() => cache.close())
  assert.equal(damaged.length, 1)
  await cache.blobs.room.restored
  assert.equal(cache.blobs.size(digest), bytes.length)
})

test('an index that another process holds stays as it is', async (t) => {
  const folder = await filled(t)
  const first = await openIn(folder)
  t.after(() => first.close())
  const damaged: unknown[] = []
  await assert.rejects(openIn(folder, damaged))
  assert.deepEqual(damaged, [])
  assert.equal(first.blobs.size(digest), bytes.length)
})

test('a disk that cannot be written is a fault, and no reason to throw an index away', async (t) => {
  const folder = await filled(t)
  // A file where the index's folder should be stops root, too; the index itself is not the trouble.
  await rm(join(folder, 'index'), { recursive: true })
  await writeFile(join(folder, 'index'), '')
  const damaged: unknown[] = []
  await assert.rejects(openIn(folder, damaged))
  assert.deepEqual(damaged, [])
})

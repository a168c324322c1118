import assert from 'node:assert/strict'
import { mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { syncFolder, writeFileAtomic } from '../../../shared/files/atomic-write.ts'
import { tempFolder } from '../../kit/temp.ts'

test('a file is written whole, with the mode that was asked for, and nothing is left beside it', async (t) => {
  const folder = await tempFolder(t)
  const path = join(folder, 'secret')
  await writeFileAtomic(path, 'one', { mode: 0o600 })
  await writeFileAtomic(path, Buffer.from('two'), { mode: 0o600 })
  assert.equal(await readFile(path, 'utf8'), 'two')
  assert.equal((await stat(path)).mode & 0o777, 0o600)
  assert.deepEqual(await readdir(folder), ['secret'])
})

test('a write that fails leaves the old content, and nothing beside it', async (t) => {
  const folder = await tempFolder(t)
  const path = join(folder, 'taken')
  await mkdir(path)
  await writeFile(join(path, 'inside'), 'kept')
  await assert.rejects(writeFileAtomic(path, 'new'), (error: NodeJS.ErrnoException) =>
    ['EISDIR', 'ENOTEMPTY', 'EEXIST'].includes(error.code ?? ''),
  )
  assert.deepEqual(await readdir(folder), ['taken'])
  assert.equal(await readFile(join(path, 'inside'), 'utf8'), 'kept')
})

test('a folder that is not there is said so', async (t) => {
  const missing = join(await tempFolder(t), 'missing')
  await assert.rejects(writeFileAtomic(join(missing, 'file'), 'x'), { code: 'ENOENT' })
  await assert.rejects(syncFolder(missing), { code: 'ENOENT' })
})

test('readers see the old or the new content, never a part', async (t) => {
  const path = join(await tempFolder(t), 'file')
  const contents = [Buffer.alloc(300_000, 'a'), Buffer.alloc(300_000, 'b')] as const
  await writeFileAtomic(path, contents[0])
  const writes = (async () => {
    for (let round = 0; round < 20; round++) {
      await writeFileAtomic(path, contents[round % 2 === 0 ? 1 : 0])
    }
  })()
  let isDone = false
  void writes.finally(() => {
    isDone = true
  })
  while (!isDone) {
    const seen = await readFile(path)
    assert.ok(seen.equals(contents[0]) || seen.equals(contents[1]))
  }
  await writes
})

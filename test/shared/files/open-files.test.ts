import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { createOpenFiles, type FileReader } from '../../../shared/files/open-files.ts'

async function folder(t: TestContext): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'outport-files-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  return root
}

async function readText(reader: FileReader | undefined): Promise<string> {
  assert.ok(reader)
  const buffer = Buffer.alloc(reader.size)
  await reader.read(buffer, 0)
  return buffer.toString()
}

const openDescriptors = async () => (await readdir('/proc/self/fd')).length

test('readers share one descriptor, and a forgotten file is read to the end and then closed', async (t) => {
  const path = join(await folder(t), 'a')
  await writeFile(path, 'old')
  const files = createOpenFiles(8)
  const before = await openDescriptors()
  const [one, two] = await Promise.all([files.open(path), files.open(path)])
  assert.equal(await openDescriptors(), before + 1)
  files.forget(path)
  await rm(path)
  await writeFile(path, 'new')
  assert.equal(await readText(one), 'old')
  assert.equal(await readText(await files.open(path)), 'new')
  await one?.close()
  await one?.close()
  assert.equal(await readText(two), 'old')
  await two?.close()
  files.close()
})

test('a read in flight keeps a file open that is forgotten and has no reader left', async (t) => {
  const path = join(await folder(t), 'a')
  await writeFile(path, 'old')
  const files = createOpenFiles(8)
  const before = await openDescriptors()
  const reader = await files.open(path)
  const reading = readText(reader)
  files.forget(path)
  await reader?.close()
  assert.equal(await reading, 'old')
  while ((await openDescriptors()) > before) await new Promise(setImmediate)
  await assert.rejects(readText(reader))
  files.close()
})

test('no more than the bound stay open, and none is left after close', async (t) => {
  const root = await folder(t)
  const files = createOpenFiles(3)
  const before = await openDescriptors()
  for (let number = 0; number < 20; number++) {
    const path = join(root, String(number))
    await writeFile(path, String(number))
    const reader = await files.open(path)
    assert.equal(await readText(reader), String(number))
    await reader?.close()
  }
  assert.ok((await openDescriptors()) <= before + 4)
  files.close()
  while ((await openDescriptors()) > before) await new Promise(setImmediate)
})

test('an absent file is undefined, another failure throws', async (t) => {
  const root = await folder(t)
  const files = createOpenFiles(3)
  assert.equal(await files.open(join(root, 'absent')), undefined)
  await writeFile(join(root, 'file'), '')
  await assert.rejects(files.open(join(root, 'file', 'below')), { code: 'ENOTDIR' })
})

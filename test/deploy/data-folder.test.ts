import assert from 'node:assert/strict'
import { chmod, mkdir, readdir, readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { openDataFolder } from '../../deploy/data-folder.ts'
import { describeFault, StartError } from '../../deploy/start-errors.ts'
import { tempFolder } from '../kit/temp.ts'

test('a new folder is private and marked with the version; opening it again changes nothing', async (t) => {
  const folder = join(await tempFolder(t), 'a', 'data')
  await openDataFolder(folder)
  assert.equal((await stat(folder)).mode & 0o777, 0o700)
  assert.equal(await readFile(join(folder, 'version'), 'utf8'), '1\n')
  await openDataFolder(folder)
  assert.deepEqual(await readdir(folder), ['version'])
})

test('a folder of a newer version, or with a version that is none, is refused', async (t) => {
  const folder = await tempFolder(t)
  for (const [text, message] of [
    ['2\n', /newer version.*layout 2, this one knows 1/],
    ['', /not a file that Outport wrote/],
    ['1.5\n', /not a file that Outport wrote/],
  ] as const) {
    await writeFile(join(folder, 'version'), text)
    await assert.rejects(openDataFolder(folder), (error) => {
      assert.ok(error instanceof StartError)
      assert.match(error.message, message)
      return true
    })
  }
})

test('a path that is no folder is told by its name', async (t) => {
  const file = join(await tempFolder(t), 'file')
  await writeFile(file, '')
  for (const path of [file, join(file, 'data')]) {
    await assert.rejects(openDataFolder(path), (error) => {
      assert.match(describeFault(error), /file.* not a folder/)
      return true
    })
  }
})

test('a folder that may not be written is told by its name', async (t) => {
  const parent = await tempFolder(t)
  await chmod(parent, 0o755)
  const folder = join(parent, 'data')
  await mkdir(folder)
  await chmod(folder, 0o555)
  // Root may write everywhere: be somebody else meanwhile.
  const isRoot = process.geteuid?.() === 0
  if (isRoot) process.seteuid?.(65534)
  try {
    await assert.rejects(openDataFolder(folder), (error) => {
      assert.match(describeFault(error), /data is not readable and writable for this user/)
      return true
    })
  } finally {
    if (isRoot) process.seteuid?.(0)
  }
})

test('where no folder can be made, the start is refused instead of trying for ever', async () => {
  for (const path of ['/proc/none', '/proc/none/data']) {
    await assert.rejects(openDataFolder(path), /cannot make the folder \/proc\/none/)
  }
})

import assert from 'node:assert/strict'
import { mkdir, readlink, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { watchFiles } from '../../../shared/files/watch.ts'
import { waitFor } from '../../kit/clock.ts'
import { tempFolder } from '../../kit/temp.ts'

async function watch(test: TestContext, paths: readonly string[], intervalMs = 10) {
  let changes = 0
  const watcher = watchFiles(paths, {
    intervalMs,
    onChange: async () => {
      changes++
    },
  })
  test.after(() => watcher.close())
  // The first look must have been taken, or a change would be what it sees first.
  await delay(5 * intervalMs)
  return { watcher, changes: () => changes }
}

test('a change of either file is noticed once', async (t) => {
  const folder = await tempFolder(t)
  const [cert, key] = [join(folder, 'cert'), join(folder, 'key')]
  await writeFile(cert, 'a')
  await writeFile(key, 'a')
  const { changes } = await watch(t, [cert, key])
  await writeFile(key, 'longer')
  await waitFor('the change', () => changes() === 1)
  await delay(100)
  assert.equal(changes(), 1)
})

test('nothing is said while files still change', async (t) => {
  const path = join(await tempFolder(t), 'cert')
  await writeFile(path, '')
  const { changes } = await watch(t, [path], 200)
  for (let round = 1; round < 50; round++) {
    await writeFile(path, 'x'.repeat(round))
    await delay(10)
  }
  assert.equal(changes(), 0)
  await waitFor('the change', () => changes() === 1)
})

test('a file that is replaced by a rename is noticed, and one that is gone is waited for', async (t) => {
  const folder = await tempFolder(t)
  const path = join(folder, 'cert')
  await writeFile(path, 'old')
  const { changes } = await watch(t, [path])
  await rm(path)
  await delay(50)
  assert.equal(changes(), 0)
  await writeFile(join(folder, 'next'), 'new')
  await rename(join(folder, 'next'), path)
  await waitFor('the change', () => changes() === 1)
})

test('a link that is swapped, as Kubernetes does with mounted secrets, is noticed', async (t) => {
  const folder = await tempFolder(t)
  for (const version of ['v1', 'v2']) {
    await mkdir(join(folder, version))
    await writeFile(join(folder, version, 'tls.crt'), version)
  }
  await symlink('v1', join(folder, '..data'))
  await symlink('..data/tls.crt', join(folder, 'tls.crt'))
  const { changes } = await watch(t, [join(folder, 'tls.crt')])
  await symlink('v2', join(folder, '..data_tmp'))
  await rename(join(folder, '..data_tmp'), join(folder, '..data'))
  await waitFor('the change', () => changes() === 1)
  assert.equal(await readlink(join(folder, '..data')), 'v2')
})

test('nothing is said after close', async (t) => {
  const path = join(await tempFolder(t), 'file')
  await writeFile(path, 'a')
  const { watcher, changes } = await watch(t, [path])
  watcher.close()
  await writeFile(path, 'changed')
  await delay(50)
  assert.equal(changes(), 0)
})

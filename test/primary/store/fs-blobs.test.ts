import assert from 'node:assert/strict'
import { mkdtemp, readdir, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, relative } from 'node:path'
import { Readable } from 'node:stream'
import { test, type TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { localDisk, type Disk } from '../../../primary/store/disk.ts'
import { createFsBlobs } from '../../../primary/store/fs-blobs.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { testBlobStore } from '../../contract/blobs.ts'
import { waitFor } from '../../kit/clock.ts'

async function folder(t: TestContext): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'outport-blobs-'))
  t.after(() => rm(root, { recursive: true, force: true }))
  return root
}

testBlobStore(async (t) => {
  const root = await folder(t)
  const open = async () => {
    const store = await createFsBlobs({ root, openFiles: 8 })
    t.after(() => store.close())
    return store
  }
  return { store: await open(), reopen: open }
})

/** The local disk, telling what was done to folders, and where the sync of `blobs` can be held up. */
function watchedDisk(above: string, held: Promise<void> = Promise.resolve()) {
  const steps: string[] = []
  const disk: Disk = {
    ...localDisk,
    async makeFolder(path) {
      await localDisk.makeFolder(path)
      steps.push(`make ${relative(above, path)}`)
    },
    async syncFolder(path) {
      if (path === join(above, 'root/blobs')) await held
      await localDisk.syncFolder(path)
      steps.push(`sync ${relative(above, path) || '.'}`)
    },
  }
  return { disk, steps }
}

test('no commit is acknowledged before the folders it lies in are synced into those above them', async (t) => {
  const above = await folder(t)
  const held = Promise.withResolvers<void>()
  t.after(() => held.resolve())
  const { disk, steps } = watchedDisk(above, held.promise)
  const opening = createFsBlobs({ root: join(above, 'root'), openFiles: 8, disk })
  // The first two commits into one group.
  const commits = ['ab0', 'ab1'].map(async (start) => {
    const store = await opening
    const key = start.padEnd(32, '0')
    await store.create(key)
    await store.append(key, 0, Readable.from([Buffer.from(start)]))
    await store.commit(key, digestOf(Buffer.from(start)))
    steps.push('answer')
  })
  await waitFor('the group', () => steps.includes('make root/blobs/ab'))
  await delay(50)
  assert.ok(!steps.includes('answer'))
  held.resolve()
  await Promise.all(commits)
  const store = await opening
  t.after(() => store.close())
  const before = steps.slice(0, steps.indexOf('answer'))
  const made = before.flatMap((step) => /^make (.*)/.exec(step)?.[1] ?? [])
  assert.ok(made.includes('root') && made.includes('root/blobs/ab'))
  for (const path of made) {
    const later = before.slice(before.indexOf(`make ${path}`))
    assert.ok(later.includes(`sync ${dirname(path)}`), path)
  }
})

test('folders that a killed start made are synced by the next one', async (t) => {
  const above = await folder(t)
  const root = join(above, 'root')
  ;(await createFsBlobs({ root, openFiles: 8 })).close()
  const { disk, steps } = watchedDisk(above)
  const store = await createFsBlobs({ root, openFiles: 8, disk })
  t.after(() => store.close())
  for (const path of ['.', 'root', 'root/blobs']) assert.ok(steps.includes(`sync ${path}`), path)
})

test('content that could not be synced is not believed, though the next sync succeeds', async (t) => {
  let failures = 0
  const disk: Disk = {
    ...localDisk,
    async datasync(file) {
      if (failures-- > 0) throw Object.assign(new Error('broken'), { code: 'EIO' })
      await localDisk.datasync(file)
    },
  }
  const store = await createFsBlobs({ root: await folder(t), openFiles: 8, disk })
  t.after(() => store.close())
  const [key, content] = ['ab'.repeat(16), Buffer.from('content')]
  await store.create(key)
  await store.append(key, 0, Readable.from([content]))
  failures = 1
  await assert.rejects(store.commit(key, digestOf(content)), { code: 'EIO' })
  assert.equal(await store.held(key), 0)
  await store.append(key, 0, Readable.from([content]))
  await store.commit(key, digestOf(content))
})

test('after commits and aborts the folder of uploads is empty', async (t) => {
  const root = await folder(t)
  const store = await createFsBlobs({ root, openFiles: 8 })
  t.after(() => store.close())
  for (const [key, keep] of [
    ['a'.repeat(32), true],
    ['b'.repeat(32), false],
  ] as const) {
    await store.create(key)
    await store.append(key, 0, Readable.from([Buffer.from('x')]))
    await (keep ? store.commit(key, digestOf(Buffer.from('x'))) : store.abort(key))
  }
  assert.deepEqual(await readdir(join(root, 'uploads')), [])
})

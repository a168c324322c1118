import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, readdir, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { FolderLockedError, lockFolder } from '../../../shared/files/lock.ts'
import { tempFolder } from '../../kit/temp.ts'

const lockModule = new URL('../../../shared/files/lock.ts', import.meta.url).href

/** A process that holds the lock of a folder until it is killed. */
async function holdElsewhere(test: TestContext, folder: string): Promise<ChildProcess> {
  const script = `
    const { lockFolder } = await import(${JSON.stringify(lockModule)})
    await lockFolder(${JSON.stringify(folder)}, 'test')
    console.log('held')
    setInterval(() => {}, 1000)
  `
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  // Waited for: the next test's folder may get the same inode.
  const ended = once(child, 'exit')
  test.after(async () => {
    child.kill('SIGKILL')
    await ended
  })
  await once(child.stdout, 'data')
  return child
}

test('a folder is locked once, whatever path leads to it, and again after its release', async (t) => {
  const parent = await tempFolder(t)
  const folder = join(parent, 'data')
  await mkdir(folder)
  await symlink(folder, join(parent, 'link'))
  const lock = await lockFolder(folder, 'test')
  await assert.rejects(lockFolder(join(parent, 'link'), 'test'), FolderLockedError)
  await lock.release()
  const again = await lockFolder(folder, 'test')
  await again.release()
  assert.deepEqual(await readdir(folder), [])
})

test('folders and purposes do not exclude each other', async (t) => {
  const [one, other] = [await tempFolder(t), await tempFolder(t)]
  const locks = [
    await lockFolder(one, 'test'),
    await lockFolder(other, 'test'),
    await lockFolder(one, 'other'),
  ]
  for (const lock of locks) await lock.release()
})

test('the refusal says in one line which process holds the folder', async (t) => {
  const folder = await tempFolder(t)
  const holder = await holdElsewhere(t, folder)
  await assert.rejects(lockFolder(folder, 'test'), (error) => {
    assert.ok(error instanceof FolderLockedError)
    assert.equal(error.pid, holder.pid)
    assert.equal(
      error.message,
      `${folder} is in use by process ${holder.pid ?? ''}: another instance runs on the same data; stop it, or choose another data folder`,
    )
    return true
  })
})

test('a holder that is on its way out says so', async (t) => {
  const folder = await tempFolder(t)
  const lock = await lockFolder(folder, 'test')
  t.after(() => lock.release())
  const refusal = { name: 'FolderLockedError', pid: process.pid }
  await assert.rejects(lockFolder(folder, 'test'), { ...refusal, isEnding: false })
  lock.announceEnd()
  await assert.rejects(lockFolder(folder, 'test'), { ...refusal, isEnding: true })
})

test('a holder that is killed or stopped answering leaves nothing that blocks or misleads', async (t) => {
  const folder = await tempFolder(t)
  const holder = await holdElsewhere(t, folder)
  holder.kill('SIGSTOP')
  await assert.rejects(lockFolder(folder, 'test'), (error) => {
    assert.ok(error instanceof FolderLockedError)
    assert.equal(error.pid, undefined)
    assert.match(error.message, /is in use by another process/)
    return true
  })
  holder.kill('SIGKILL')
  await once(holder, 'exit')
  const lock = await lockFolder(folder, 'test')
  await lock.release()
})

test('a lock does not keep its process alive', async (t) => {
  const folder = await tempFolder(t)
  const script = `
    const { lockFolder } = await import(${JSON.stringify(lockModule)})
    await lockFolder(${JSON.stringify(folder)}, 'test')
  `
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], { stdio: 'inherit' })
  assert.deepEqual(await once(child, 'exit'), [0, null])
})

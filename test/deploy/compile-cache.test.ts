import assert from 'node:assert/strict'
import { mkdir, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { keepCompiled } from '../../deploy/compile-cache.ts'
import { tempFolder } from '../kit/temp.ts'

test('compiled code is kept in a data folder that is new, and in none that is not known to be one', async (t) => {
  const parent = await tempFolder(t)
  const stranger = join(parent, 'stranger')
  await mkdir(stranger)
  keepCompiled(stranger)
  assert.deepEqual(await readdir(stranger), [])
  keepCompiled(join(parent, 'no', 'such', 'parent'))
  const data = join(parent, 'data')
  keepCompiled(data)
  assert.equal((await stat(data)).mode & 0o777, 0o700)
  assert.deepEqual(await readdir(data), ['compile-cache'])
})

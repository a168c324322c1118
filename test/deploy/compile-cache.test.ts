import assert from 'node:assert/strict'
import { mkdir, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { tempFolder } from '../kit/temp.ts'
import { runProgram } from './program.ts'

test('compiled code is kept in a data folder that is new, and in none that is not known to be one', async (t) => {
  const parent = await tempFolder(t)
  const stranger = join(parent, 'stranger')
  await mkdir(stranger)
  const keep = (data: string) => keepIn(t, data)
  await keep(stranger)
  assert.deepEqual(await readdir(stranger), [])
  await keep(join(parent, 'no', 'such', 'parent'))
  const data = join(parent, 'data')
  await keep(data)
  assert.equal((await stat(data)).mode & 0o777, 0o700)
  assert.deepEqual(await readdir(data), ['compile-cache'])
})

/** Calls `keepCompiled` in a process that keeps nothing yet. */
async function keepIn(t: TestContext, data: string): Promise<void> {
  const { code, stderr } = await runProgram(t, ['test/deploy/keep-compiled.ts', data], {
    env: { NODE_COMPILE_CACHE: '' },
  })
  assert.equal(code, 0, stderr)
}

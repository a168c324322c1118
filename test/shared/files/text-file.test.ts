import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { readSecretFile, readTextFile } from '../../../shared/files/text-file.ts'
import { tempFolder } from '../../kit/temp.ts'

test('a file that cannot be read is named with the reason, in one line', async (t) => {
  const folder = await tempFolder(t)
  await assert.rejects(readTextFile(join(folder, 'none')), {
    message: `cannot read ${join(folder, 'none')}: there is no such file`,
  })
  await assert.rejects(readTextFile(folder), { message: `cannot read ${folder}: it is a folder` })
})

test('a secret is read without the white space around it, and an empty one is said so', async (t) => {
  const path = join(await tempFolder(t), 'secret')
  await writeFile(path, ' hush \n')
  assert.equal(await readSecretFile(path), 'hush')
  await writeFile(path, '\n')
  await assert.rejects(readSecretFile(path), {
    message: `${path} is empty: it should hold one secret`,
  })
})

import assert from 'node:assert/strict'
import { readdir, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { keepSecret, withAdminPassword } from '../../deploy/first-secrets.ts'
import { loadOutportConfig } from '../../deploy/programs.ts'
import { tempFolder } from '../kit/temp.ts'

test('a secret is made once, private, and is the same for all who ask at once', async (t) => {
  const folder = await tempFolder(t)
  const path = join(folder, 'secret')
  const secret = await keepSecret(path)
  assert.ok(secret.length >= 40)
  assert.equal((await stat(path)).mode & 0o777, 0o600)
  const again = await Promise.all([keepSecret(path), keepSecret(path)])
  assert.deepEqual(again, [secret, secret])
  assert.deepEqual(await readdir(folder), ['secret'])
})

test("a secret that somebody wrote is taken, without its line's end", async (t) => {
  const path = join(await tempFolder(t), 'secret')
  await writeFile(path, 'chosen\n')
  assert.equal(await keepSecret(path), 'chosen')
})

test('the password of admin is made before the first start of a primary, not after', async (t) => {
  const data = await tempFolder(t)
  const load = () => loadOutportConfig({ config: undefined, flags: { data } })
  const first = await withAdminPassword(load())
  assert.equal(first.passwordFile, join(data, 'admin-password'))
  await writeFile(join(data, 'primary-id'), 'x')
  const second = await withAdminPassword(load())
  assert.equal(second.config.primary.admin_password, first.config.primary.admin_password)

  const other = await tempFolder(t)
  await writeFile(join(other, 'primary-id'), 'x')
  const known = await withAdminPassword(
    loadOutportConfig({ config: undefined, flags: { data: other } }),
  )
  assert.equal(known.config.primary.admin_password, undefined)
  assert.deepEqual(await readdir(other), ['primary-id'])
})

test('a configured password is used, and none is kept', async (t) => {
  const data = await tempFolder(t)
  const flags = { data, primary: { admin_password: 'Chosen-1' } }
  const { config, passwordFile } = await withAdminPassword(
    loadOutportConfig({ config: undefined, flags }),
  )
  assert.deepEqual([config.primary.admin_password, passwordFile], ['Chosen-1', undefined])
  assert.deepEqual(await readdir(data), [])
})

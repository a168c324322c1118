import assert from 'node:assert/strict'
import { createPrivateKey } from 'node:crypto'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { fingerprintOf } from '../../../shared/trust/trust-list.ts'
import { startTestPrimary, type TestPrimary } from '../../kit/primary.ts'
import { tempFolder } from '../../kit/temp.ts'
import { runProgram } from '../program.ts'

let primary: TestPrimary
let folder: string
/** The secrets of the files. */
const secrets: string[] = []

before(async (t) => {
  folder = await tempFolder(t as TestContext)
  primary = await startTestPrimary({ primary: { keys: { ahead: '1s' } } })
})

const file = (name: string) => join(folder, name)

/** What a command prints holds nothing of a private half. */
async function run(t: TestContext, args: readonly string[]) {
  const ran = await runProgram(t, ['deploy/outport.ts', 'keys', ...args], {
    env: { OUTPORT_ADMIN_PASSWORD: primary.admin.password },
    input: '',
  })
  for (const secret of secrets) assert.ok(!(ran.stdout + ran.stderr).includes(secret))
  return ran
}
const keys = (t: TestContext, ...args: readonly string[]) =>
  run(t, [...args, '--primary', primary.url.origin])
const done = async (t: TestContext, ...args: readonly string[]) => {
  const { code, stdout, stderr } = await keys(t, ...args)
  assert.equal(code, 0, stderr)
  return stdout
}
async function makeRoot(t: TestContext, name: string): Promise<string> {
  const { code, stdout, stderr } = await run(t, ['make-root', file(name)])
  assert.equal(code, 0, stderr)
  const key = createPrivateKey(await readFile(file(name), 'utf8'))
  const { d = '', ...jwk } = key.export({ format: 'jwk' })
  secrets.push(d)
  assert.equal(stdout.trim(), fingerprintOf(jwk))
  return stdout.trim()
}

test('a root is made in a file for its owner alone, and never written over', async (t) => {
  await makeRoot(t, 'first.pem')
  assert.equal((await stat(file('first.pem'))).mode & 0o777, 0o600)
  const before = await readFile(file('first.pem'), 'utf8')
  assert.match(before, /^-----BEGIN PRIVATE KEY-----/)
  const { code, stderr } = await run(t, ['make-root', file('first.pem')])
  assert.equal(code, 1)
  assert.match(stderr, /exists, and is not written over/)
  assert.equal(await readFile(file('first.pem'), 'utf8'), before)
})

test('a root in a file signs what waits, by itself and on a machine without a network', async (t) => {
  const fingerprint = await makeRoot(t, 'root.pem')
  assert.equal(await done(t, 'pending'), 'No list waits to be signed.\n')
  assert.match(await done(t, 'rotate', 'root', '--to', file('root.pem')), /signs there alone/)
  const listed = await keys(t, 'list')
  assert.match(listed.stdout, new RegExp(`^root +active, offline .* ${fingerprint}$`, 'm'))
  assert.equal(listed.stderr, '')

  const rotated = await done(t, 'rotate', 'log')
  assert.match(rotated, /waits for the root.*'outport keys sign --root FILE'/)
  assert.match((await keys(t, 'list')).stderr, /waits for the root.*\n.*keys sign --root FILE/)
  const strange = await keys(t, 'sign', '--root', file('first.pem'))
  assert.equal(strange.code, 1)
  assert.match(strange.stderr, /does not wait for the root in .*first\.pem/)
  const signed = await done(t, 'sign', '--root', file('root.pem'))
  assert.match(signed, /^ {2}log key .* counts$/m)
  assert.match(signed, new RegExp(`^ {2}root .* ${fingerprint}$`, 'm'))
  assert.match(signed, /^The list is signed, and in force\.$/m)
  assert.match((await keys(t, 'sign', '--root', file('root.pem'))).stderr, /no list waits/)

  await done(t, 'rotate', 'edge-ca')
  await done(t, 'pending', '--out', file('pending.json'))
  const apart = ['--root', file('root.pem'), '--in', file('pending.json')]
  const { code, stdout, stderr } = await run(t, ['sign', ...apart, '--out', file('signed.json')])
  assert.equal(code, 0, stderr)
  assert.match(stdout, /^ {2}edge CA .* counts$/m)
  const unsigned = await keys(t, 'submit', file('pending.json'))
  assert.match(unsigned.stderr, new RegExp(`${fingerprint} must sign`))
  assert.match(await done(t, 'submit', file('signed.json')), /in force/)
  assert.match((await keys(t, 'submit', file('signed.json'))).stderr, /no list of keys waits/)
  assert.equal(await done(t, 'pending'), 'No list waits to be signed.\n')
})

test('a root signs lists of keys alone', async (t) => {
  const payload = Buffer.from('{"seq":1}').toString('base64')
  const pending = { payload_type: 'application/vnd.outport.log-head.v1+json', payload }
  for (const text of [JSON.stringify(pending), '{}', 'nonsense']) {
    await writeFile(file('other.json'), text)
    const args = ['--root', file('root.pem'), '--in', file('other.json'), '--out', file('no.json')]
    const { code, stderr } = await run(t, ['sign', ...args])
    assert.equal(code, 1)
    assert.match(stderr, /no list of keys/)
  }
  await writeFile(file('other.pem'), 'nonsense')
  const { stderr } = await keys(t, 'sign', '--root', file('other.pem'))
  assert.match(stderr, /holds no private key/)
  const half = await keys(t, 'sign', '--root', file('root.pem'), '--out', file('no.json'))
  assert.equal(half.code, 2)
})

test('an epoch is accepted by the root in a file, which then moves to another one', async (t) => {
  const refused = await keys(t, 'accept-epoch', '--force')
  assert.match(refused.stderr, /accept-epoch --root FILE/)
  const accepted = await done(t, 'accept-epoch', '--force', '--root', file('root.pem'))
  assert.equal(accepted, 'The log goes on in epoch 2.\n')
  await done(t, 'pending', '--next-epoch', '--out', file('epoch.json'))
  const apart = ['--root', file('root.pem'), '--in', file('epoch.json')]
  await run(t, ['sign', ...apart, '--out', file('epoch-signed.json')])
  const again = await done(t, 'accept-epoch', '--force', '--list', file('epoch-signed.json'))
  assert.equal(again, 'The log goes on in epoch 3.\n')

  const fingerprint = await makeRoot(t, 'second.pem')
  const alone = await keys(t, 'rotate', 'root', '--to', file('second.pem'))
  assert.match(alone.stderr, /must sign the list, too/)
  const both = ['--to', file('second.pem'), '--root', file('root.pem')]
  await done(t, 'rotate', 'root', ...both)
  assert.match(await done(t, 'list'), new RegExp(`^root +active, offline .* ${fingerprint}$`, 'm'))
  const back = await done(t, 'rotate', 'root')
  assert.match(back, /new root key waits for the root/)
  await done(t, 'sign', '--root', file('second.pem'))
  assert.match(await done(t, 'list'), /^root +active {2}/m)
})

import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { PassThrough } from 'node:stream'
import { test } from 'node:test'
import { confirm, readSecret } from '../../deploy/secret-input.ts'
import { StartError } from '../../deploy/start-errors.ts'
import { tempFolder } from '../kit/temp.ts'

const asked = { file: undefined, question: 'Password: ', missing: 'give one' }

/** A terminal at which a person types. */
function createTerminal(typed: string) {
  const modes: boolean[] = []
  const input = Object.assign(new PassThrough(), {
    isTTY: true,
    setRawMode: (mode: boolean) => void modes.push(mode),
  })
  const output = new PassThrough()
  input.write(typed)
  return { terminal: { input, output }, shown: () => String(output.read() ?? ''), modes }
}

test('a secret comes from its file, without the end of the line', async (t) => {
  const file = join(await tempFolder(t), 'secret')
  await writeFile(file, 'from the file\n')
  assert.equal(await readSecret({ ...asked, file }), 'from the file')
  await assert.rejects(readSecret({ ...asked, file: `${file}-none` }), /there is no such file/)
})

test('or it is piped in, and then nothing is asked', async () => {
  const input = new PassThrough()
  const output = new PassThrough()
  input.end('piped\n')
  assert.equal(await readSecret(asked, { input, output }), 'piped')
  assert.equal(output.read(), null)
})

test('nothing, or far too much, is refused', async () => {
  for (const [given, message] of [
    [' \n', /^give one$/],
    ['x'.repeat(5000), /no secret/],
  ] as const) {
    const input = new PassThrough()
    input.end(given)
    await assert.rejects(readSecret(asked, { input, output: new PassThrough() }), (error) => {
      assert.ok(error instanceof StartError)
      assert.match(error.message, message)
      return true
    })
  }
})

test('or it is typed, and not shown; the terminal echoes again afterwards', async () => {
  const { terminal, shown, modes } = createTerminal('typex\x7fd\r')
  assert.equal(await readSecret(asked, terminal), 'typed')
  assert.equal(shown(), 'Password: \n')
  assert.deepEqual(modes, [true, false])
})

test('Ctrl-C and Ctrl-D at the question end the command', async () => {
  for (const key of ['\x03', '\x04']) {
    const { terminal, modes } = createTerminal(`half${key === '\x04' ? '\x15' : ''}${key}`)
    await assert.rejects(readSecret(asked, terminal), /nothing was entered/)
    assert.deepEqual(modes, [true, false])
  }
})

test('only a yes is a yes, and where nobody is asked the flag must say it', async () => {
  for (const [typed, isYes] of [
    ['y\r', true],
    ['yes\r', true],
    ['\r', false],
    ['yeah\r', false],
  ] as const) {
    const { terminal, shown } = createTerminal(typed)
    assert.equal(await confirm('Really?', { otherwise: 'say --yes', terminal }), isYes)
    // Nothing wipes the question away.
    assert.match(shown().split('\u001b[0J').at(-1) ?? '', /^Really\? \[y\/N\] /)
  }
  const terminal = { input: new PassThrough(), output: new PassThrough() }
  await assert.rejects(confirm('Really?', { otherwise: 'say --yes', terminal }), /say --yes/)
})

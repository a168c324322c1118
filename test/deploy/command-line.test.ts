import assert from 'node:assert/strict'
import { test } from 'node:test'
import { defineCommand, defineGroup, UsageError } from '../../deploy/command-line.ts'

function createGroup() {
  const seen: unknown[] = []
  const issue = defineCommand({
    name: 'certs issue',
    summary: 'issue one',
    words: ['FORM'],
    options: {
      dir: { type: 'string', value: 'DIR', help: 'where' },
      host: { type: 'string', multiple: true, value: 'NAME', help: 'for what' },
      json: { type: 'boolean', help: 'how' },
    },
    run: async (options, words) => {
      seen.push({ ...options }, words)
      return 7
    },
  })
  return { seen, certs: defineGroup('certs', 'certificates', [issue]) }
}

test('options reach the command with their types, and its result is the exit code', async () => {
  const { certs, seen } = createGroup()
  const code = await certs.main(['issue', '--host', 'a', 'pem', '--host=-b', '--json'])
  assert.equal(code, 7)
  assert.deepEqual(seen, [{ dir: undefined, host: ['a', '-b'], json: true }, ['pem']])
})

for (const [args, message] of [
  [['sign'], /no command sign of outport certs; the commands are issue/],
  [['--dir'], /no option --dir/],
  [
    ['issue', 'pem', '--hots', 'a'],
    /certs issue has no option --hots; it has --dir, --host, --json, --help/,
  ],
  [['issue', 'pem', '-d', 'a'], /has no option -d/],
  [['issue', 'pem', '--toString'], /has no option --toString/],
  [['issue', 'pem', '--dir'], /--dir needs a value: --dir DIR/],
  [['issue', 'pem', '--dir='], /--dir needs a value/],
  [['issue', 'pem', '--dir', '--json'], /--dir needs a value/],
  [['issue', 'pem', '--dir', 'a', '--dir', 'b'], /--dir is given twice/],
  [['issue', 'pem', '--json=yes'], /--json takes no value/],
  [['issue'], /certs issue needs FORM/],
  [['issue', 'pem', 'extra'], /'extra'/],
] as const) {
  test(`'${args.join(' ')}' is refused in one line`, async () => {
    const { certs, seen } = createGroup()
    await assert.rejects(certs.main([...args]), (error) => {
      assert.ok(error instanceof UsageError)
      assert.match(error.message, message)
      assert.doesNotMatch(error.message, /\n/)
      return true
    })
    assert.deepEqual(seen, [])
  })
}

test('the help names every option and its value', () => {
  const { certs } = createGroup()
  assert.match(certs.help(), /certs issue {2}issue one/)
  const help = certs.commands[0]?.help() ?? ''
  assert.match(help, /Usage: outport certs issue FORM \[OPTION…\]/)
  for (const part of [/--dir DIR +where/, /--host NAME +for what \(may be/, /--json +how/]) {
    assert.match(help, part)
  }
})

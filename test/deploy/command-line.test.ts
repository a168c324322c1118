import assert from 'node:assert/strict'
import { test } from 'node:test'
import { defineCommand, defineGroup, UsageError, withCommands } from '../../deploy/command-line.ts'
import { outport } from '../../deploy/commands.ts'

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

test('a command may have others below it, and does something by itself', async () => {
  const ran: string[] = []
  const make = (name: string, words: readonly string[] = []) =>
    defineCommand({
      name,
      words,
      summary: `runs ${name}`,
      options: { data: { type: 'string', value: 'DIR', help: 'where' } },
      run: async (_options, given) => {
        ran.push([name, ...given].join(' '))
        return 0
      },
    })
  const edge = withCommands(make('edge'), [make('edge join', ['URL'])])
  await edge.main([])
  await edge.main(['--data', 'join'])
  await edge.main(['join', 'there'])
  assert.deepEqual(ran, ['edge', 'edge', 'edge join there'])
  await assert.rejects(edge.main(['joni']), /no command joni of outport edge; .* are join/)
  assert.match(
    edge.help(),
    /Usage: outport edge \[OPTION…\][\s\S]*--data DIR[\s\S]*edge join {2}runs/,
  )
})

test('what the command line says of a command before it is loaded is what the command says of itself', async () => {
  for (const { name, summary, load } of outport.commands) {
    const command = await load()
    assert.deepEqual([name, summary], [command.name, command.summary])
  }
})

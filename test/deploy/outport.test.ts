import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { tempFolder } from '../kit/temp.ts'
import { runProgram } from './program.ts'

const outport = 'deploy/outport.ts'

test('--help lists the commands, and no command shows the same with exit code 2', async (t) => {
  const { code, stdout, stderr } = await runProgram(t, [outport, '--help'])
  assert.equal(code, 0)
  assert.equal(stderr, '')
  for (const command of ['up', 'primary', 'edge', 'edges', 'certs', 'hosts']) {
    assert.match(stdout, new RegExp(`^  ${command} `, 'm'))
  }
  const bare = await runProgram(t, [outport])
  assert.deepEqual([bare.code, bare.stdout], [2, stdout])
})

for (const command of [
  ...['up', 'primary', 'edge', 'certs', 'certs init', 'certs issue'],
  ...['edge join', 'edges', 'edges list', 'edges token', 'edges revoke'],
  ...['hosts', 'hosts containerd', 'hosts docker', 'hosts podman', 'hosts k3s'],
]) {
  test(`outport ${command} --help explains it`, async (t) => {
    const { code, stdout } = await runProgram(t, [outport, ...command.split(' '), '--help'])
    assert.equal(code, 0)
    assert.match(stdout, new RegExp(`^Usage: outport ${command} `, 'm'))
  })
}

for (const [args, message] of [
  [
    ['dance'],
    'outport: there is no command dance; the commands are up, primary, edge, edges, preheat, keys, certs, hosts\n',
  ],
  [['up', '--primary-port', 'x'], /^outport: --primary-port must be a port .*'x'\n$/],
  [['up', '--mirror-port', '65536'], /^outport: --mirror-port must be a port .*\n$/],
  [['edge', '--json'], /^outport: outport edge has no option --json; .*\n$/],
] as const) {
  test(`outport ${args.join(' ')} says what exists, with exit code 2`, async (t) => {
    const { code, stdout, stderr } = await runProgram(t, [outport, ...args])
    assert.equal(code, 2)
    assert.equal(stdout, '')
    if (typeof message === 'string') assert.equal(stderr, message)
    else assert.match(stderr, message)
  })
}

test('--check prints what is resolved from file, environment and flags, without secrets', async (t) => {
  const folder = await tempFolder(t)
  const file = join(folder, 'outport.yaml')
  const password = 'Planted-Secret-1'
  await writeFile(
    file,
    `data: ./kept
primary:
  admin_password: ${password}
  database: {url: 'postgres://u:${password}@db/x'}
edge:
  upstreams:
    - {id: quay.io, url: https://quay.io, credentials: {username: u, password: ${password}}}
`,
  )
  for (const command of ['up', 'primary', 'edge']) {
    const args = command === 'up' ? ['--edge-port', '18081'] : []
    const { code, stdout, stderr } = await runProgram(
      t,
      [outport, command, '--config', file, '--check', ...args],
      { env: { OUTPORT_PRIMARY__LISTENERS__0__PORT: '18080' } },
    )
    assert.deepEqual([code, stderr], [0, ''])
    assert.ok(stdout.includes(`data: ${join(folder, 'kept')}`))
    assert.match(stdout, /port: 18080/)
    if (command === 'up') assert.match(stdout, /port: 18081/)
    assert.ok(!stdout.includes(password))
  }
})

test('--check names every error at once, each with its path', async (t) => {
  const folder = await tempFolder(t)
  const file = join(folder, 'outport.yaml')
  await writeFile(
    file,
    `primary: {listeners: [{port: 99999}], tokens: {lifetime: soon}}\nedge: {listener: []}\n`,
  )
  const { code, stdout, stderr } = await runProgram(t, [outport, 'up', '--config', file, '--check'])
  assert.deepEqual([code, stdout], [1, ''])
  const paths = stderr
    .trimEnd()
    .split('\n')
    .map((line) => line.split(':')[0])
  assert.deepEqual(paths.sort(), [
    'edge.listener',
    'primary.listeners.0.port',
    'primary.tokens.lifetime',
  ])
})

test('a start with a wrong configuration says so in one line, without a stack', async (t) => {
  const folder = await tempFolder(t)
  for (const command of ['up', 'primary', 'edge']) {
    const missing = await runProgram(t, [outport, command, '--config', join(folder, 'none.yaml')])
    assert.equal(missing.code, 1)
    assert.match(missing.stderr, /^outport: .*none\.yaml.*no such file.*\n$/)
  }
})

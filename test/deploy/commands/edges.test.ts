import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, describe, test, type TestContext } from 'node:test'
import { formatBasic } from '../../../shared/auth/basic.ts'
import {
  startAdminApiServer,
  type AdminApiCall,
  type AdminApiReply,
  type AdminApiServer,
} from '../../kit/admin-api-server.ts'
import { tempFolder } from '../../kit/temp.ts'
import { runProgram } from '../program.ts'

let api: AdminApiServer

const edge = (number: number) => ({
  id: `rack-${number}`,
  name: `Rack ${number}`,
  site: 'hall',
  region: '',
  labels: { tier: 'gold', arch: 'arm64' },
  scope: number === 1 ? '*' : ['library', 'team'],
  accept_people: false,
  state: number === 1 ? 'ready' : 'suspended',
  creation_time: '2026-11-01T00:00:00.000Z',
  update_time: '2026-11-02T00:00:00.000Z',
  enrolled: true,
})

const token = `oj1.${'a'.repeat(16)}.${'s'.repeat(43)}.${'f'.repeat(64)}`

before(async (t) => {
  api = await startAdminApiServer(t as TestContext)
})

const password = 'Planted-Secret-1'

function edges(
  t: TestContext,
  args: readonly string[],
  {
    reply,
    env = { OUTPORT_ADMIN_PASSWORD: password },
    input = '',
  }: {
    readonly reply?: (call: AdminApiCall) => AdminApiReply
    readonly env?: Readonly<Record<string, string>>
    readonly input?: string
  } = {},
) {
  api.replyWith(reply)
  return runProgram(t, ['deploy/outport.ts', 'edges', ...args, '--primary', api.url], {
    env,
    input,
  })
}

const calls = () => api.calls.map(({ method, path }) => `${method} ${path}`)

describe('edges list', () => {
  const reply = () => ({ headers: { 'x-total-count': '2' }, body: [edge(1), edge(2)] })

  test('is a table', async (t) => {
    const { code, stdout, stderr } = await edges(t, ['list'], { reply })
    assert.deepEqual([code, stderr], [0, ''])
    assert.equal(
      stdout,
      `ID      NAME    SITE  REGION  STATE      LABELS
rack-1  Rack 1  hall  -       ready      arch=arm64,tier=gold
rack-2  Rack 2  hall  -       suspended  arch=arm64,tier=gold
`,
    )
    assert.deepEqual(calls(), ['GET /api/v2.0/edges?page=1&page_size=100'])
    assert.equal(api.calls[0]?.authorization, formatBasic({ username: 'admin', password }))
  })

  test('is what the API says with --json', async (t) => {
    const { stdout } = await edges(t, ['list', '--json'], { reply })
    assert.deepEqual(JSON.parse(stdout), [edge(1), edge(2)])
  })

  test('says how to get an edge where there is none, and lets nothing write over the terminal', async (t) => {
    const none = await edges(t, ['list'], { reply: () => ({ body: [] }) })
    assert.deepEqual([none.code, none.stdout], [0, ''])
    assert.match(none.stderr, /edges token/)
    const odd = { ...edge(1), name: 'a\u001b[2J\nb' }
    const { stdout } = await edges(t, ['list'], { reply: () => ({ body: [odd] }) })
    assert.equal(stdout.split('\n').length, 3)
    assert.ok(!stdout.includes('\u001b'))
  })
})

test('edges show says all that is known', async (t) => {
  const { code, stdout } = await edges(t, ['show', 'rack-2'], { reply: () => ({ body: edge(2) }) })
  assert.equal(code, 0)
  assert.match(stdout, /^projects +library, team$/m)
  assert.match(stdout, /^people +may not log in/m)
  assert.deepEqual(calls(), ['GET /api/v2.0/edges/rack-2'])
  const { stdout: json } = await edges(t, ['show', 'rack-2', '--json'], {
    reply: () => ({ body: edge(2) }),
  })
  assert.deepEqual(JSON.parse(json), edge(2))
})

describe('edges token', () => {
  const reply = () => ({
    status: 201,
    body: { id: 'a'.repeat(16), token, expires_at: '2026-11-29T18:00:00.000Z' },
  })

  test('prints the token alone, and the hint beside it', async (t) => {
    const { code, stdout, stderr } = await edges(
      t,
      [
        ...['token', '--name', 'Rack 7', '--scope', 'library', '--scope', 'team'],
        ...['--site', 'hall', '--region', 'north', '--label', 'tier=gold', '--label', 'a=b=c'],
        ...['--accept-people', '--expires', '10m'],
      ],
      { reply },
    )
    assert.deepEqual([code, stdout], [0, `${token}\n`])
    assert.match(stderr, /until 2026-11-29T18:00:00\.000Z/)
    assert.ok(stderr.includes(`outport edge join ${api.url}\n`))
    assert.ok(!stderr.includes('s'.repeat(43)))
    assert.deepEqual(calls(), ['POST /api/v2.0/edges/tokens'])
    assert.deepEqual(api.calls[0]?.body, {
      name: 'Rack 7',
      scope: ['library', 'team'],
      site: 'hall',
      region: 'north',
      labels: { tier: 'gold', a: 'b=c' },
      accept_people: true,
      expires_in: 600,
    })
  })

  test('asks for no more than is said', async (t) => {
    const { stdout } = await edges(t, ['token', '--name', 'a', '--all-projects', '--json'], {
      reply,
    })
    assert.equal((JSON.parse(stdout) as { token: string }).token, token)
    assert.deepEqual(api.calls[0]?.body, { name: 'a', scope: '*' })
  })

  for (const [args, message] of [
    [['--all-projects'], /needs a name: --name/],
    [['--name', 'a'], /--scope PROJECT, or --all-projects/],
    [['--name', 'a', '--all-projects', '--scope', 'b'], /exclude each other/],
    [['--name', 'a', '--all-projects', '--label', 'x'], /--label must be KEY=VALUE, not 'x'/],
    [['--name', 'a', '--all-projects', '--label', 'x=1', '--label', 'x=2'], /given twice/],
    [['--name', 'a', '--all-projects', '--expires', '16m'], /--expires must be from 1s to 15m/],
    [['--name', 'a', '--all-projects', '--expires', '10'], /--expires must be/],
  ] as const) {
    test(`${args.join(' ')} is refused with exit code 2, and nobody is asked`, async (t) => {
      const { code, stdout, stderr } = await edges(t, ['token', ...args], { reply })
      assert.deepEqual([code, stdout, api.calls.length], [2, '', 0])
      assert.match(stderr, message)
      assert.match(stderr, /^outport: [^\n]*\n$/)
    })
  }
})

test('edges are suspended, resumed and, with --yes, revoked', async (t) => {
  for (const [args, call] of [
    [['suspend', 'rack-1'], 'POST /api/v2.0/edges/rack-1/suspend'],
    [['resume', 'rack-1'], 'POST /api/v2.0/edges/rack-1/resume'],
    [['revoke', 'rack-1', '--yes'], 'DELETE /api/v2.0/edges/rack-1'],
    [['suspend', '../users/1'], 'POST /api/v2.0/edges/..%2Fusers%2F1/suspend'],
  ] as const) {
    const { code, stdout, stderr } = await edges(t, args)
    assert.deepEqual([code, stderr, calls()], [0, '', [call]])
    assert.match(stdout, /^The edge '.*\.\n$|^The edge '.*\n$/)
  }
  const { code, stderr } = await edges(t, ['revoke', 'rack-1'])
  assert.deepEqual([code, api.calls.length], [1, 0])
  assert.match(stderr, /^outport: nobody can be asked here .*--yes\n$/)
})

describe('edges set', () => {
  const reply = () => ({ body: edge(1) })

  test('changes what is named, one label at a time', async (t) => {
    const { code, stdout } = await edges(
      t,
      [
        'set',
        'rack-1',
        '--site',
        'b',
        '--label',
        'tier=iron',
        '--label',
        'new=1',
        '--no-label',
        'arch',
      ],
      { reply },
    )
    assert.deepEqual([code, stdout], [0, "The edge 'rack-1' is changed.\n"])
    assert.deepEqual(calls(), ['GET /api/v2.0/edges/rack-1', 'PUT /api/v2.0/edges/rack-1'])
    assert.deepEqual(api.calls[1]?.body, { site: 'b', labels: { tier: 'iron', new: '1' } })
  })

  test('asks nothing before it changes what is no label', async (t) => {
    const args = ['set', 'rack-1', '--all-projects', '--refuse-people', '--name', 'N', '--json']
    const { stdout } = await edges(t, args, { reply })
    assert.deepEqual(JSON.parse(stdout), edge(1))
    assert.deepEqual(calls(), ['PUT /api/v2.0/edges/rack-1'])
    assert.deepEqual(api.calls[0]?.body, { name: 'N', scope: '*', accept_people: false })
  })

  test('needs something to change', async (t) => {
    const { code, stderr } = await edges(t, ['set', 'rack-1'])
    assert.equal(code, 2)
    assert.match(stderr, /needs something to change/)
  })
})

describe('the password', () => {
  const used = () => api.calls[0]?.authorization
  const as = (username: string, secret: string) => formatBasic({ username, password: secret })
  const reply = () => ({ body: [] })

  test('comes from its file, from the environment as the primary takes it, or is piped in', async (t) => {
    const file = join(await tempFolder(t), 'password')
    await writeFile(file, 'from a file\n')
    await edges(t, ['list', '--password-file', file, '--user', 'root'], { reply })
    assert.equal(used(), as('root', 'from a file'))
    await edges(t, ['list'], { reply, env: { OUTPORT_ADMIN_PASSWORD_FILE: file } })
    assert.equal(used(), as('admin', 'from a file'))
    await edges(t, ['list'], { reply, env: {}, input: 'piped\n' })
    assert.equal(used(), as('admin', 'piped'))
  })

  test('is asked for nowhere else', async (t) => {
    const { code, stderr } = await edges(t, ['list'], { reply, env: {} })
    assert.deepEqual([code, api.calls.length], [1, 0])
    assert.match(stderr, /^outport: there is no password for admin: .*--password-file.*\n$/)
    const none = { OUTPORT_ADMIN_PASSWORD_FILE: '/none' }
    const { stderr: missing } = await edges(t, ['list'], { reply, env: none })
    assert.match(missing, /^outport: cannot read \/none, which OUTPORT_ADMIN_PASSWORD_FILE names/)
  })

  test('goes to no other machine in clear', async (t) => {
    const args = [
      'deploy/outport.ts',
      'edges',
      'list',
      '--primary',
      'http://primary.example',
    ] as const
    const { code, stderr } = await runProgram(t, args, {
      env: { OUTPORT_ADMIN_PASSWORD: password },
    })
    assert.equal(code, 2)
    assert.match(stderr, /^outport: http:\/\/primary\.example is plain http.*\n$/)
  })
})

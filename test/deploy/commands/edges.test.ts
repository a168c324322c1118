import assert from 'node:assert/strict'
import { readFile, stat, writeFile } from 'node:fs/promises'
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
import { adminPassword as password, runAdminCommand } from '../admin-command.ts'
import { runProgram } from '../program.ts'

let api: AdminApiServer

const status = {
  version: '1.2.3',
  last_seen: '2026-11-02T00:00:00.000Z',
  lag_events: 12,
  lag_seconds: 300,
  held_lag_events: 40,
  waiting_bytes: 1.5 * 2 ** 30,
  cache_bytes: 700 * 2 ** 20,
  cache_size_bytes: 10 * 2 ** 30,
  hit_ratio: 0.754,
  served_bytes: 2 ** 41,
  clock_skew_ms: -2000,
  last_error: 'the disk is full',
  last_error_at: '2026-11-01T23:00:00.000Z',
  transfers: 4,
  failures: 3,
  prune: {
    outcome: 'refused',
    at: '2026-11-01T22:00:00.000Z',
    blobs: 7,
    bytes: 2 ** 30,
    digests: [],
    removed: { at: '2026-11-01T10:00:00.000Z', blobs: 2, bytes: 2048 },
  },
}

const edge = (number: number) => ({
  id: `rack-${number}`,
  name: `Rack ${number}`,
  site: 'hall',
  region: '',
  labels: { tier: 'gold', arch: 'arm64' },
  scope: number === 1 ? '*' : ['library', 'team'],
  accept_people: false,
  state: number === 1 ? 'ready' : 'suspended',
  ...(number === 2 && { reason: 'two machines were it' }),
  ...(number === 1 && { status }),
  creation_time: '2026-11-01T00:00:00.000Z',
  update_time: '2026-11-02T00:00:00.000Z',
  enrolled: true,
})

const token = `oj1.${'a'.repeat(16)}.${'s'.repeat(43)}.${'f'.repeat(64)}`

before(async (t) => {
  api = await startAdminApiServer(t as TestContext)
})

function edges(
  t: TestContext,
  args: readonly string[],
  options: Omit<Parameters<typeof runAdminCommand>[2], 'args'> = {},
) {
  return runAdminCommand(t, api, { args: ['edges', ...args], ...options })
}

const calls = () => api.calls.map(({ method, path }) => `${method} ${path}`)

describe('edges list', () => {
  const reply = () => ({ headers: { 'x-total-count': '2' }, body: [edge(1), edge(2)] })

  test('is a table', async (t) => {
    const { code, stdout, stderr } = await edges(t, ['list'], { reply })
    assert.deepEqual([code, stderr], [0, ''])
    assert.equal(
      stdout,
      `ID      NAME    SITE  REGION  STATE      VERSION  LAG      CACHE         HITS  LABELS
rack-1  Rack 1  hall  -       ready      1.2.3    12 (5m)  700MiB/10GiB  75%   arch=arm64,tier=gold
rack-2  Rack 2  hall  -       suspended  -        -        -             -     arch=arm64,tier=gold
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
  assert.match(stdout, /^state +suspended: two machines were it$/m)
  assert.deepEqual(calls(), ['GET /api/v2.0/edges/rack-2'])
  const { stdout: json } = await edges(t, ['show', 'rack-2', '--json'], {
    reply: () => ({ body: edge(2) }),
  })
  assert.deepEqual(JSON.parse(json), edge(2))
})

test('edges show says what an edge said of itself', async (t) => {
  const { stdout } = await edges(t, ['show', 'rack-1'], { reply: () => ({ body: edge(1) }) })
  const rows = new Map(stdout.split('\n').map((line) => [line.slice(0, 13).trim(), line.slice(15)]))
  for (const [name, value] of [
    ['version', '1.2.3'],
    ['last heard of', '2026-11-02T00:00:00.000Z'],
    ['lag', '12 (5m)'],
    ['rules', '40 events, 1.5GiB to come'],
    ['cache', '700MiB/10GiB'],
    ['hit ratio', '75%'],
    ['served', '2.0TiB'],
    ['clock', '2s behind'],
    ['could not get', '3 manifests that rules bring'],
    ['transfers', '4 running'],
    [
      'prune',
      '7 blobs (1.0GiB) are more than may go at once, as of 2026-11-01T22:00:00.000Z; 2 blobs (2.0KiB) went at 2026-11-01T10:00:00.000Z',
    ],
    ['last error', '2026-11-01T23:00:00.000Z: the disk is full'],
  ] as const)
    assert.equal(rows.get(name), value, name)
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

test('edges are suspended, drained, resumed and forgotten', async (t) => {
  const forgotten = 'POST /api/v2.0/edges/rack-1/forget'
  for (const [args, ...made] of [
    [['suspend', 'rack-1'], 'POST /api/v2.0/edges/rack-1/suspend'],
    [['drain', 'rack-1'], 'POST /api/v2.0/edges/rack-1/drain'],
    [['resume', 'rack-1'], 'POST /api/v2.0/edges/rack-1/resume'],
    [['suspend', '../users/1'], 'POST /api/v2.0/edges/..%2Fusers%2F1/suspend'],
    [['forget', 'rack-1'], forgotten],
    [['forget', 'rack-1', '--force'], 'DELETE /api/v2.0/edges/rack-1', forgotten],
  ] as const) {
    const { code, stdout, stderr } = await edges(t, args)
    assert.deepEqual([code, stderr, calls()], [0, '', made])
    assert.match(stdout, /^The edge '.*\.\n$|^The edge '.*\n$/)
  }
})

describe('edges revoke', () => {
  const exposure = {
    projects: ['library', 'team'],
    robots: [
      { id: 3, name: 'robot$team+puller', project: 'team' },
      { id: 4, name: 'robot$gone' },
      { id: 5, name: 'robot$every' },
    ],
    accept_people: true,
  }
  const reply = ({ method, path }: AdminApiCall): AdminApiReply => {
    if (path.endsWith('/exposure')) return { body: exposure }
    if (method !== 'PATCH') return {}
    if (path.endsWith('/4')) return { status: 404, body: { errors: [] } }
    return { body: { secret: `NewSecret${path.at(-1)}` } }
  }
  const asked = ['GET /api/v2.0/edges/rack-1/exposure']
  const revoked = [...asked, 'DELETE /api/v2.0/edges/rack-1']
  const rotated = [...revoked, ...[3, 4, 5].map((id) => `PATCH /api/v2.0/robots/${id}`)]
  const secrets = 'robot$team+puller\tNewSecret3\nrobot$every\tNewSecret5\n'

  test('says what the edge could read, and ends nothing unless it is meant', async (t) => {
    const { code, stdout, stderr } = await edges(t, ['revoke', 'rack-1'], { reply })
    assert.deepEqual([code, stdout, calls()], [1, '', asked])
    assert.match(stderr, /may read what is in library, team\.$/m)
    assert.match(stderr, /^ {2}robot\$team\+puller\n {2}robot\$gone\n {2}robot\$every$/m)
    assert.match(stderr, /passwords/)
    assert.match(stderr, /^outport: nobody can be asked here .*--yes\n$/m)
  })

  test('ends it with --yes, and leaves the robots alone', async (t) => {
    const { code, stdout } = await edges(t, ['revoke', 'rack-1', '--yes'], { reply })
    assert.deepEqual([code, calls()], [0, revoked])
    assert.match(stdout, /^The edge 'rack-1' is revoked\..*\n$/)
    const json = await edges(t, ['revoke', 'rack-1', '--yes', '--json'], { reply })
    assert.deepEqual(JSON.parse(json.stdout), exposure)
  })

  test('gives the robots new secrets after that, and says which it could not', async (t) => {
    const args = ['revoke', 'rack-1', '--yes', '--rotate-robots']
    const { code, stdout, stderr } = await edges(t, args, { reply })
    assert.deepEqual([code, stdout, calls()], [1, secrets, rotated])
    assert.deepEqual(api.calls[2]?.body, { secret: '' })
    const { stdout: json } = await edges(t, [...args, '--json'], { reply })
    assert.deepEqual(
      json
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as unknown),
      [
        exposure,
        { id: 3, name: 'robot$team+puller', secret: 'NewSecret3' },
        { id: 5, name: 'robot$every', secret: 'NewSecret5' },
      ],
    )
    assert.match(stderr, /^2 of 3 robots have a new secret/m)
    assert.match(stderr, /^no new secret for robot\$gone \(id 4\): it is not there any more$/m)
  })

  test('writes them to a new file that only its owner may read', async (t) => {
    const output = join(await tempFolder(t), 'secrets')
    const args = ['revoke', 'rack-1', '--yes', '--rotate-robots', '--output', output]
    const { stdout, stderr } = await edges(t, args, { reply })
    assert.equal(stdout, '')
    assert.ok(!stderr.includes('NewSecret'))
    assert.equal(await readFile(output, 'utf8'), secrets)
    assert.equal((await stat(output)).mode & 0o777, 0o600)
    const again = await edges(t, args, { reply })
    assert.deepEqual([again.code, calls()], [1, asked])
    assert.match(again.stderr, /is there already/)
    const alone = await edges(t, ['revoke', 'rack-1', '--yes', '--output', output], { reply })
    assert.deepEqual([alone.code, api.calls.length], [2, 0])
  })
})

describe('edges tokens', () => {
  test('lists them, and what became of them', async (t) => {
    const shown = (id: string, fields: object) => ({
      id,
      name: 'rack',
      scope: ['a', 'b'],
      expires_at: '2026-01-01T00:00:00.000Z',
      ...fields,
    })
    const body = [
      shown('t1', { edge_id: 'e1' }),
      shown('t2', {}),
      shown('t3', { scope: '*', expires_at: '2999-01-01T00:00:00.000Z' }),
    ]
    const { code, stdout } = await edges(t, ['tokens', 'list'], { reply: () => ({ body }) })
    assert.deepEqual([code, calls()], [0, ['GET /api/v2.0/edges/tokens']])
    assert.equal(
      stdout,
      `ID  NAME  STATE    PROJECTS  EXPIRES                   EDGE
t1  rack  used     a,b       2026-01-01T00:00:00.000Z  e1
t2  rack  expired  a,b       2026-01-01T00:00:00.000Z  -
t3  rack  open     all       2999-01-01T00:00:00.000Z  -
`,
    )
  })

  test('takes one back', async (t) => {
    const { code, stdout } = await edges(t, ['tokens', 'remove', 't1'])
    assert.deepEqual([code, calls()], [0, ['DELETE /api/v2.0/edges/tokens/t1']])
    assert.match(stdout, /'t1'/)
    const none = await edges(t, ['tokens', 'remove', 't1'], { reply: () => ({ status: 404 }) })
    assert.equal(none.code, 1)
    assert.match(none.stderr, /there is no join token 't1'.*edges tokens list/)
  })
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

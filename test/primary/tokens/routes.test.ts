import assert from 'node:assert/strict'
import { request } from 'node:http'
import { test } from 'node:test'
import { decodeProtectedHeader } from 'jose'
import { formatBasic } from '../../../shared/auth/basic.ts'
import type { Scope } from '../../../shared/auth/scope.ts'
import {
  createTokenVerifier,
  edgeAudience,
  primaryAudience,
  tokenIssuer,
  type PublicKeys,
} from '../../../shared/auth/token.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import { adminPassword, startAdmin, type Admin } from '../../kit/admin.ts'

interface TokenAnswer {
  readonly status: number
  readonly headers: Headers
  readonly token: string
  readonly body: Record<string, unknown>
}

const edgeSecret = 'EdgeSecret1EdgeSecret1EdgeSecret'

/** A private project `closed` with alice as its guest, a public one `open`, a pull robot and two edges. */
async function startTokens(
  t: Parameters<typeof startAdmin>[0],
  options: { failures?: number } = {},
) {
  const admin = await startAdmin(t, options)
  const { asAdmin } = admin
  const closed = await asAdmin('/api/v2.0/projects', {
    method: 'POST',
    body: { project_name: 'closed' },
  })
  await asAdmin('/api/v2.0/projects', {
    method: 'POST',
    body: { project_name: 'open', metadata: { public: 'true' } },
  })
  await asAdmin('/api/v2.0/users', {
    method: 'POST',
    body: { username: 'alice', email: 'a@x.org', realname: 'Alice', password: 'Abcd1234' },
  })
  await asAdmin('/api/v2.0/projects/closed/members', {
    method: 'POST',
    body: { role_id: 3, member_user: { username: 'alice' } },
  })
  const robot = await asAdmin('/api/v2.0/robots', {
    method: 'POST',
    body: {
      name: 'node',
      level: 'project',
      duration: -1,
      permissions: [
        {
          kind: 'project',
          namespace: 'closed',
          access: [
            { resource: 'repository', action: 'pull' },
            { resource: 'repository', action: 'push' },
          ],
        },
      ],
    },
  })
  const robotSecret = (robot.body as { secret: string }).secret
  const ensure = (id: string, scope: readonly string[], acceptPeople: boolean) =>
    admin.bootstrap.ensureEdge({ id, name: id, secret: edgeSecret, scope, acceptPeople })
  await ensure('e1', ['*'], false)
  await ensure('e2', ['open'], true)
  return { ...admin, robotSecret, closedId: closed.id }
}

async function get(
  admin: Pick<Admin, 'server'>,
  query: string,
  headers: Record<string, string> = {},
): Promise<TokenAnswer> {
  const response = await fetch(new URL(`/service/token?${query}`, admin.server.url), { headers })
  return read(response)
}

async function post(
  admin: Pick<Admin, 'server'>,
  form: string,
  headers: Record<string, string> = {},
): Promise<TokenAnswer> {
  const response = await fetch(new URL('/service/token', admin.server.url), {
    method: 'POST',
    headers: {
      'Content-Type': 'application/x-www-form-urlencoded; charset=utf-8',
      ...headers,
    },
    body: form,
  })
  return read(response)
}

async function read(response: Response): Promise<TokenAnswer> {
  const body = (await response.json()) as Record<string, unknown>
  const token = typeof body['token'] === 'string' ? body['token'] : ''
  return { status: response.status, headers: response.headers, token, body }
}

async function accessOf(
  { key }: Pick<Admin, 'key'>,
  token: string,
  audience = primaryAudience,
): Promise<readonly Scope[] | undefined> {
  const verifier = createTokenVerifier({
    keys: () => key.jwks,
    issuer: tokenIssuer,
    audience,
    cacheEntries: 1,
  })
  return (await verifier.verify(token))?.access
}

const basic = (username: string, password: string) => ({
  Authorization: formatBasic({ username, password }),
})
const viaEdge = (id: string, password = edgeSecret) => ({
  'Outport-Edge-Authorization': formatBasic({ username: id, password }),
})
const repository = (name: string, ...actions: string[]): Scope => ({
  type: 'repository',
  name,
  actions,
})

test('nobody, also as podman says it, gets a token that pulls what is public', async (t) => {
  const admin = await startTokens(t)
  const query =
    'service=outport&scope=repository:open/a:pull,push&scope=repository:closed/a:pull,push'
  for (const headers of [{}, { Authorization: 'Basic Og==' }]) {
    const { status, token, body, headers: answered } = await get(admin, query, headers)
    assert.equal(status, 200)
    assert.equal(body['access_token'], token)
    assert.equal(body['expires_in'], 300)
    assert.ok(Math.abs(Date.parse(String(body['issued_at'])) - Date.now()) < 10_000)
    assert.equal(answered.get('cache-control'), 'no-store')
    assert.equal(body['refresh_token'], undefined)
    assert.deepEqual(await accessOf(admin, token), [repository('open/a', 'pull')])
    assert.deepEqual(Object.keys(decodeProtectedHeader(token)).sort(), ['alg', 'kid', 'typ'])
  }
})

test('a token grants what was asked for and is allowed, whatever form the scopes have', async (t) => {
  const admin = await startTokens(t)
  const asAdmin = basic('admin', adminPassword)
  const cases: [string, Record<string, string>, readonly Scope[]][] = [
    ['', asAdmin, []],
    [
      'scope=repository:closed/a:push,pull&scope=repository:open/b:pull',
      asAdmin,
      [repository('closed/a', 'pull', 'push'), repository('open/b', 'pull')],
    ],
    [
      'scope=repository:closed/a:pull%20repository:open/b:pull',
      asAdmin,
      [repository('closed/a', 'pull'), repository('open/b', 'pull')],
    ],
    ['scope=repository(plugin):closed/a:pull', asAdmin, [repository('closed/a', 'pull')]],
    ['scope=repository:closed/a:*', asAdmin, [repository('closed/a', 'pull', 'push', 'delete')]],
    ['scope=repository:host:5000/a/b:pull', asAdmin, []],
    ['scope=nonsense&scope=repository:closed/a:pull', asAdmin, [repository('closed/a', 'pull')]],
    ['scope=repository:missing/a:pull,push', asAdmin, []],
    ['scope=registry:catalog:*', asAdmin, [{ type: 'registry', name: 'catalog', actions: ['*'] }]],
    ['scope=registry:catalog:*', basic('alice', 'Abcd1234'), []],
    [
      'scope=repository:closed/a:pull,push,delete',
      basic('alice', 'Abcd1234'),
      [repository('closed/a', 'pull')],
    ],
    ['scope=repository:closed/a:push', basic('alice', 'Abcd1234'), []],
    [
      'scope=repository:closed/a:pull,push,delete',
      basic('robot$closed+node', admin.robotSecret),
      [repository('closed/a', 'pull', 'push')],
    ],
    [
      'scope=repository:closed/a:pull,push',
      basic('edge$e1', edgeSecret),
      [repository('closed/a', 'pull')],
    ],
    [
      'scope=repository:closed/a:pull&scope=repository:open/a:pull',
      basic('edge$e2', edgeSecret),
      [repository('open/a', 'pull')],
    ],
  ]
  for (const [query, headers, expected] of cases) {
    const { status, token } = await get(admin, query, headers)
    assert.equal(status, 200, query)
    assert.deepEqual(await accessOf(admin, token), expected, `${query} ${headers['Authorization']}`)
  }
})

test('docker logs in by GET without a scope, and gets no refresh token instead of its password', async (t) => {
  const admin = await startTokens(t)
  const query = 'account=alice&client_id=docker&offline_token=true&service=outport'
  const { status, body } = await get(admin, query, basic('alice', 'Abcd1234'))
  assert.equal(status, 200)
  assert.equal(body['refresh_token'], undefined)
  const wrong = await get(admin, query, basic('alice', 'Wrong1234'))
  assert.equal(wrong.status, 401)
  assert.equal(wrong.headers.get('www-authenticate'), 'Basic realm="outport"')
})

test('containerd logs in by POST, and is told 401 for a wrong password and 400 for another grant', async (t) => {
  const admin = await startTokens(t)
  const form =
    'grant_type=password&service=outport&client_id=containerd-client&username=alice&scope=repository%3Aclosed%2Fa%3Apull'
  const good = await post(admin, `${form}&password=Abcd1234`)
  assert.equal(good.status, 200)
  assert.equal(good.body['scope'], 'repository:closed/a:pull')
  assert.equal(good.body['refresh_token'], undefined)
  assert.deepEqual(await accessOf(admin, good.token), [repository('closed/a', 'pull')])
  assert.equal((await post(admin, `${form}&password=Wrong`)).status, 401)
  assert.equal((await post(admin, form)).status, 401)
  assert.equal((await post(admin, 'grant_type=client_credentials')).status, 400)
  assert.equal((await post(admin, '')).status, 400)
  const json = await post(admin, '{}', { 'Content-Type': 'application/json' })
  assert.equal(json.status, 400)
})

test('a refresh token is given to who asks, works as a chunked form, and ends with the password', async (t) => {
  const admin = await startTokens(t)
  const first = await post(
    admin,
    'grant_type=password&access_type=offline&service=outport&username=alice&password=Abcd1234',
  )
  const refresh = String(first.body['refresh_token'])
  const redeem = () =>
    postChunked(admin, [
      'grant_type=refresh_token&service=outp',
      'ort&client_id=podman&scope=repository%3Aclosed%2Fa%3Apull&scope=repository%3Aopen%2Fa%3Apull',
      `&refresh_token=${refresh}`,
    ])
  const redeemed = await redeem()
  assert.equal(redeemed.status, 200)
  const token = String(redeemed.body['access_token'])
  assert.deepEqual(await accessOf(admin, token), [
    repository('closed/a', 'pull'),
    repository('open/a', 'pull'),
  ])
  assert.equal(await accessOf(admin, refresh), undefined, 'it opens nothing else')
  const used = await post(admin, `grant_type=refresh_token&refresh_token=${token}`)
  assert.equal(used.status, 401, 'an access token is no refresh token')
  await admin.asAdmin('/api/v2.0/users/2/password', {
    method: 'PUT',
    body: { new_password: 'Efgh5678' },
  })
  assert.equal((await redeem()).status, 401)
})

test('through an edge a token is for that edge alone, pulls only, and stays in its scope', async (t) => {
  const admin = await startTokens(t)
  const query =
    'scope=repository:closed/a:pull,push&scope=repository:open/a:pull,push&scope=registry:catalog:*'
  const robot = basic('robot$closed+node', admin.robotSecret)
  const { status, token } = await get(admin, query, { ...robot, ...viaEdge('e1') })
  assert.equal(status, 200)
  assert.equal(await accessOf(admin, token), undefined, 'the primary refuses it')
  assert.equal(await accessOf(admin, token, edgeAudience('e2')), undefined, 'another edge too')
  // With each project's id, so that an edge never takes a later project of the name for it.
  const granted = (await accessOf(admin, token, edgeAudience('e1'))) ?? []
  assert.deepEqual(withoutProjects(granted), [
    repository('closed/a', 'pull'),
    repository('open/a', 'pull'),
  ])
  assert.equal(new Set(granted.map(({ project }) => project)).size, 2)
  assert.ok(granted.every(({ project }) => Number.isInteger(project)))
  const narrow = await get(admin, query, { ...robot, ...viaEdge('e2') })
  const atSecond = await accessOf(admin, narrow.token, edgeAudience('e2'))
  assert.deepEqual(withoutProjects(atSecond), [repository('open/a', 'pull')])
  const anonymous = await get(admin, query, viaEdge('e1'))
  const ofNobody = await accessOf(admin, anonymous.token, edgeAudience('e1'))
  assert.deepEqual(withoutProjects(ofNobody), [repository('open/a', 'pull')])
  const offline = await post(
    admin,
    `grant_type=password&access_type=offline&username=robot%24closed%2Bnode&password=${admin.robotSecret}`,
    viaEdge('e1'),
  )
  assert.equal(offline.status, 200)
  assert.equal(offline.body['refresh_token'], undefined)
  const refresh = await post(admin, 'grant_type=refresh_token&refresh_token=x', viaEdge('e1'))
  assert.equal(refresh.status, 400)
})

test('people are refused at an edge that does not accept them, and told the way', async (t) => {
  const admin = await startTokens(t)
  const alice = basic('alice', 'Abcd1234')
  for (const headers of [alice, basic('alice', 'Wrong1234'), basic('nobody', 'Wrong1234')]) {
    const { status, body } = await get(admin, '', { ...headers, ...viaEdge('e1') })
    assert.equal(status, 403)
    assert.match(JSON.stringify(body), /"DENIED".*robot\$project\+name/)
  }
  const form = 'grant_type=password&username=alice&password=Abcd1234'
  assert.equal((await post(admin, form, viaEdge('e1'))).status, 403)
  assert.equal((await get(admin, '', { ...alice, ...viaEdge('e2') })).status, 200)
})

test("an edge's wrong or removed credential is refused, never passed over", async (t) => {
  const admin = await startTokens(t)
  const robot = basic('robot$closed+node', admin.robotSecret)
  const wrong: Record<string, string>[] = [
    viaEdge('e1', 'wrong'),
    viaEdge('nobody'),
    { 'Outport-Edge-Authorization': 'Bearer x' },
    { 'Outport-Edge-Authorization': '' },
    { 'Outport-Edge-Authorization': formatBasic({ username: 'admin', password: adminPassword }) },
  ]
  for (const headers of wrong) {
    assert.equal((await get(admin, '', { ...robot, ...headers })).status, 401)
  }
  await admin.standings.revoke('e1', {
    actor: { username: '', address: '' },
    now: new Date(),
  })
  assert.equal((await get(admin, '', { ...robot, ...viaEdge('e1') })).status, 401)
})

test('log-ins are limited per account and address, at the token endpoint and by Basic alike', async (t) => {
  const admin = await startTokens(t, { failures: 3 })
  for (let failures = 0; failures < 2; failures++) {
    assert.equal((await get(admin, '', basic('alice', `Wrong${failures}`))).status, 401)
  }
  const api = await admin.call('/api/v2.0/users/current', { as: 'alice:Wrong3' })
  assert.equal(api.status, 401)
  const limited = await get(admin, '', basic('alice', 'Abcd1234'))
  assert.equal(limited.status, 429)
  assert.ok(Number(limited.headers.get('retry-after')) > 0)
  assert.match(JSON.stringify(limited.body), /TOOMANYREQUESTS/)
  await assert.rejects(
    admin.authenticate({
      authorization: formatBasic({ username: 'alice', password: 'Abcd1234' }),
      address: '127.0.0.1',
    }),
    (error) => error instanceof OciError && error.status === 429,
  )
  assert.equal((await get(admin, '', basic('admin', adminPassword))).status, 200)
  const logs = await admin.asAdmin('/api/v2.0/auditlog-exts?q=operation=login,username=alice')
  assert.equal(logs.headers.get('x-total-count'), '4')
})

test('an edge that names ever other addresses gets no further than ten times the failures', async (t) => {
  const admin = await startTokens(t, { failures: 2 })
  const wrong = basic('alice', 'Wrong1234')
  const from = async (host: number, edge: string, headers = wrong) => {
    const named = { 'Outport-Client-Address': `10.0.0.${host}` }
    return (await get(admin, '', { ...headers, ...viaEdge(edge), ...named })).status
  }
  for (let host = 0; host < 20; host++) assert.equal(await from(host, 'e2'), 401, String(host))
  assert.equal(await from(20, 'e2'), 429)
  assert.equal(await from(20, 'e2', basic('alice', 'Abcd1234')), 429)
  const robot = basic('robot$closed+node', admin.robotSecret)
  assert.equal(await from(20, 'e2', robot), 200, 'another account')
  assert.equal((await get(admin, '', basic('alice', 'Abcd1234'))).status, 200, 'not by the edge')
})

test('the JWKS verifies tokens and holds no private key', async (t) => {
  const admin = await startTokens(t)
  const response = await fetch(new URL('/service/jwks', admin.server.url))
  const jwks = (await response.json()) as PublicKeys
  assert.ok(jwks.keys.every((key) => key.d === undefined && key.kty === 'EC'))
  const { token } = await get(admin, 'scope=repository:open/a:pull')
  assert.deepEqual(await accessOf({ key: { ...admin.key, jwks } }, token), [
    repository('open/a', 'pull'),
  ])
})

test('what is planted in a log-in is found neither in the logs nor in the audit log', async (t) => {
  const admin = await startTokens(t)
  const planted = 'Planted0Secret'
  await get(admin, `account=alice&password=${planted}`, basic('alice', planted))
  await post(admin, `grant_type=password&username=alice&password=${planted}`)
  await post(admin, `grant_type=refresh_token&refresh_token=${planted}`)
  await get(admin, '', { Authorization: `Bearer ${planted}`, ...viaEdge('e1', planted) })
  await admin.call('/api/v2.0/users/current', { as: `alice:${planted}` })
  await admin.asAdmin('/api/v2.0/users', {
    method: 'POST',
    body: { username: 'bob', email: 'nope', realname: 'Bob', password: planted },
  })
  const audit = await admin.records.selectFrom('audit').selectAll().execute()
  assert.ok(audit.some(({ operation }) => operation === 'login'))
  assert.doesNotMatch(JSON.stringify(audit), /Planted0/)
  assert.doesNotMatch(JSON.stringify(admin.server.lines), /Planted0/)
})

async function postChunked(
  { server }: Pick<Admin, 'server'>,
  parts: readonly string[],
): Promise<{ status: number; body: Record<string, unknown> }> {
  return new Promise((resolve, reject) => {
    const sent = request(
      new URL('/service/token', server.url),
      {
        method: 'POST',
        headers: {
          'Content-Type': 'application/x-www-form-urlencoded',
          'Transfer-Encoding': 'chunked',
        },
      },
      (response) => {
        const chunks: Buffer[] = []
        response.on('data', (chunk: Buffer) => chunks.push(chunk))
        response.on('end', () => {
          const text = Buffer.concat(chunks).toString('utf8')
          resolve({
            status: response.statusCode ?? 0,
            body: JSON.parse(text) as Record<string, unknown>,
          })
        })
      },
    )
    sent.on('error', reject)
    for (const part of parts) sent.write(part)
    sent.end()
  })
}

function withoutProjects(access: readonly Scope[] = []): readonly Scope[] {
  return access.map(({ type, name, actions }) => ({ type, name, actions }))
}

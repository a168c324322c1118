import assert from 'node:assert/strict'
import { createPrivateKey, createPublicKey } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, describe, test, type TestContext } from 'node:test'
import { identityPaths, readEdgeIdentity } from '../../deploy/edge-identity.ts'
import { joinPrimary, refuseJoined } from '../../deploy/join-primary.ts'
import { createPrimaryClient } from '../../deploy/primary-client.ts'
import { StartError } from '../../deploy/start-errors.ts'
import { parseJoinToken } from '../../shared/replication/enrolment.ts'
import {
  createTestRoot,
  signTrustList,
  startJoinServer,
  type JoinServer,
} from '../kit/join-server.ts'
import { tempFolder } from '../kit/temp.ts'

let server: JoinServer
before(async (t) => {
  server = await startJoinServer(t as TestContext)
})

interface Attempt {
  readonly data: string
  readonly token?: string
  readonly replace?: boolean
  readonly url?: URL
}

async function attempt({ data, token = server.createToken(), replace = false, url }: Attempt) {
  const client = createPrimaryClient({ url: url ?? server.url, ca: undefined })
  try {
    return await joinPrimary({
      url: url ?? server.url,
      token: parseJoinToken(token),
      name: 'Rack 7',
      data,
      ca: undefined,
      insecureHttp: false,
      replace,
      client,
    })
  } finally {
    client.close()
  }
}

const refused = (message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof StartError)
  assert.match(error.message, message)
  assert.doesNotMatch(error.message, /\n/)
  for (const secret of [...server.secrets, ...tokenSecrets()])
    assert.ok(!error.message.includes(secret), error.message)
  return true
}

function tokenSecrets(): string[] {
  return server.requests.map(({ token }) => token.split('.')[1] ?? token)
}

test('an edge joins with a key of its own, and keeps what it needs, readable by nobody else', async (t) => {
  const data = join(await tempFolder(t), 'new', 'data')
  const edge = await attempt({ data })
  assert.equal(edge.name, 'Rack 7')
  const { folder, edge: edgeFolder } = identityPaths(data)
  assert.deepEqual((await readdir(folder)).sort(), [
    'certificate.pem',
    'credential',
    'edge-ca.pem',
    'edge.json',
    'key.pem',
    'trust.json',
  ])
  assert.equal((await stat(folder)).mode & 0o777, 0o700)
  for (const name of await readdir(folder))
    assert.equal((await stat(join(folder, name))).mode & 0o777, 0o600, name)
  assert.deepEqual(await readdir(edgeFolder), ['identity'])
  assert.deepEqual(readEdgeIdentity(data), {
    id: edge.id,
    name: 'Rack 7',
    site: 'site-1',
    primary_url: server.url.origin,
    insecure_http: false,
  })
  assert.equal((await readFile(join(folder, 'credential'), 'utf8')).trim(), server.secrets.at(-1))
  const key = createPublicKey(createPrivateKey(await readFile(join(folder, 'key.pem'))))
  assert.equal(
    key.export({ type: 'spki', format: 'pem' }),
    server.requests.at(-1)?.publicKey,
    'the primary saw the public half',
  )
  assert.equal(key.asymmetricKeyDetails?.modulusLength, 2048)
})

test('an attempt that got no answer is gone on with, with the same key, by the same token', async (t) => {
  const data = await tempFolder(t)
  const token = server.createToken()
  server.alter(() => ({ status: 503, body: {} }))
  t.after(() => server.alter(undefined))
  await assert.rejects(attempt({ data, token }), refused(/answers 503: try again|answers 503/))
  assert.equal(readEdgeIdentity(data), undefined)
  server.alter(undefined)
  // What a kill in the middle of a write leaves.
  const folder = identityPaths(data).attempt(parseJoinToken(token).id)
  await writeFile(join(folder, '.credential.x.tmp'), 'half')
  await attempt({ data, token })
  const [before, after] = server.requests.slice(-2)
  assert.equal(before?.publicKey, after?.publicKey)
  assert.ok(!(await readdir(identityPaths(data).folder)).some((name) => name.endsWith('.tmp')))
})

test('another token makes another key, and what is left of old attempts goes', async (t) => {
  const data = await tempFolder(t)
  server.alter(() => ({ status: 500 }))
  t.after(() => server.alter(undefined))
  await assert.rejects(attempt({ data }), refused(/answers 500/))
  server.alter(undefined)
  await attempt({ data })
  const [before, after] = server.requests.slice(-2)
  assert.notEqual(before?.publicKey, after?.publicKey)
  assert.deepEqual(await readdir(identityPaths(data).edge), ['identity'])
})

describe('a folder that is an edge already', () => {
  test('is refused, and says what to do', async (t) => {
    const data = await tempFolder(t)
    await attempt({ data })
    const known = server.requests.length
    assert.throws(() => refuseJoined(data), refused(/is an edge already: .*--replace/))
    await assert.rejects(attempt({ data }), refused(/--replace/))
    assert.equal(server.requests.length, known, 'no token was spent')
  })

  test('becomes another by --replace, and stays what it was when that is refused', async (t) => {
    const data = await tempFolder(t)
    const first = await attempt({ data })
    const used = server.createToken()
    await attempt({ data: await tempFolder(t), token: used })
    await assert.rejects(attempt({ data, token: used, replace: true }), refused(/join token/))
    assert.equal(readEdgeIdentity(data)?.id, first.id)
    const second = await attempt({ data, replace: true })
    assert.notEqual(second.id, first.id)
    assert.equal(readEdgeIdentity(data)?.id, second.id)
    assert.deepEqual(await readdir(identityPaths(data).edge), ['identity'])
  })

  test('is never lost between the two renames of a replacement', async (t) => {
    const data = await tempFolder(t)
    const first = await attempt({ data })
    const { folder, replaced } = identityPaths(data)
    await rename(folder, replaced)
    assert.throws(() => readEdgeIdentity(data), refused(/cut short .*run it again/))
    assert.throws(() => refuseJoined(data), refused(/--replace/))
    server.alter(() => ({ status: 500 }))
    t.after(() => server.alter(undefined))
    await assert.rejects(attempt({ data, replace: true }), refused(/500/))
    assert.equal(readEdgeIdentity(data)?.id, first.id, 'it is back')
    server.alter(undefined)
    // And one that was killed before it tidied up.
    await mkdir(replaced)
    await attempt({ data, replace: true })
    assert.ok(!existsSync(replaced))
  })
})

describe('nothing is kept of', () => {
  for (const [what, alter, message] of [
    [
      'a refused request',
      () => ({ status: 400, body: error('the name is bad') }),
      /the name is bad/,
    ],
    [
      'a refused token',
      () => ({ status: 401, body: error('used by another key') }),
      /used by another key; .* make a new one with 'outport edges token'/,
    ],
    ['too many attempts', () => ({ status: 429, headers: { 'retry-after': '7' } }), /again in 7 s/],
    ['another program', () => ({ status: 404, body: 'no' }), /check that it is the URL/],
    [
      'a redirect',
      () => ({ status: 307, headers: { location: 'https://a.example/x?secret=1' } }),
      /redirects to https:\/\/a\.example, which/,
    ],
    ['a page', () => ({ status: 201, body: '<html>' }), /may not be trusted.*not what a primary/],
    ['far too much', () => ({ status: 201, body: 'x'.repeat(2 ** 21) }), /answer is too long/],
    [
      'lines that move a cursor',
      () => ({ status: 400, body: error('\u001b[2Ja\nb\u202e') }),
      /take the request: \[2Ja b$/,
    ],
  ] as const) {
    test(what, async (t) => {
      const data = await tempFolder(t)
      server.alter(alter)
      t.after(() => server.alter(undefined))
      await assert.rejects(attempt({ data }), refused(message))
      assert.equal(readEdgeIdentity(data), undefined)
    })
  }

  test('a primary that has another root', async (t) => {
    const data = await tempFolder(t)
    const other = createTestRoot()
    server.alter((answer) => ({
      body: { ...answer, root: other.trusted, trust: signTrustList(other, [server.ca.cert]) },
    }))
    t.after(() => server.alter(undefined))
    await assert.rejects(attempt({ data }), refused(/may not be trusted, and nothing .* root/))
    assert.equal(readEdgeIdentity(data), undefined)
    const [left = ''] = await readdir(identityPaths(data).edge)
    assert.deepEqual(await readdir(join(identityPaths(data).edge, left)), ['key.pem'])
  })

  test('a primary that repeats the token', async (t) => {
    // The server's own words to a token that it does not know.
    const other = await startJoinServer(t)
    const data = await tempFolder(t)
    await assert.rejects(
      attempt({ data, token: other.createToken() }),
      refused(/the token \w+\.… is unknown/),
    )
  })

  test('a place where nobody answers', async (t) => {
    const data = await tempFolder(t)
    await assert.rejects(
      attempt({ data, url: new URL('http://127.0.0.1:1') }),
      refused(/cannot reach 127\.0\.0\.1:1: .*ECONNREFUSED/),
    )
  })
})

test('two joins of one folder do not run into each other', async (t) => {
  const data = await tempFolder(t)
  server.alter(() => 'silence')
  t.after(() => server.alter(undefined))
  const known = server.requests.length
  const client = createPrimaryClient({ url: server.url, ca: undefined })
  const waiting = joinPrimary({
    url: server.url,
    token: parseJoinToken(server.createToken()),
    name: 'one',
    data,
    ca: undefined,
    insecureHttp: false,
    replace: false,
    client,
  }).catch(() => undefined)
  const { waitFor } = await import('../kit/clock.ts')
  await waitFor('the first request', () => server.requests.length > known)
  await assert.rejects(attempt({ data }), /in use by process/)
  client.close()
  await waiting
})

function error(message: string): object {
  return { errors: [{ code: 'X', message }] }
}

import assert from 'node:assert/strict'
import { createPrivateKey, createPublicKey } from 'node:crypto'
import { existsSync } from 'node:fs'
import { chmod, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, describe, test, type TestContext } from 'node:test'
import { formatBasic } from '../../../../shared/auth/basic.ts'
import { formatJoinToken, parseJoinToken } from '../../../../shared/replication/enrolment.ts'
import { createCa, issueServerCertificate } from '../../../../shared/trust/pki.ts'
import { waitFor } from '../../../kit/clock.ts'
import { startJoinServer, type JoinServer } from '../../../kit/join-server.ts'
import { tempFolder } from '../../../kit/temp.ts'
import { runProgram, startProgram } from '../../program.ts'

const outport = 'deploy/outport.ts'

let server: JoinServer
before(async (t) => {
  server = await startJoinServer(t as TestContext)
})

const identityIn = (data: string) => join(data, 'edge', 'identity')

async function joinEdge(
  t: TestContext,
  args: readonly string[],
  { input = '', url = server.url.origin }: { input?: string; url?: string } = {},
) {
  return runProgram(t, [outport, 'edge', 'join', url, ...args], { input })
}

/** What nobody may see: the token's secret, the edge's, and its key. */
async function assertNoSecret(text: string, token: string, data: string): Promise<void> {
  const key = join(identityIn(data), 'key.pem')
  const secrets = [parseJoinToken(token).secret, ...server.secrets]
  if (existsSync(key)) secrets.push((await readFile(key, 'utf8')).split('\n')[1] ?? 'no key')
  for (const secret of secrets) assert.ok(!text.includes(secret), text)
}

test('the token is piped in; what comes out is what to type next, and no secret', async (t) => {
  const data = join(await tempFolder(t), "it's data")
  const token = server.createToken()
  const { code, stdout, stderr } = await joinEdge(t, ['--data', data, '--name', 'Rack 7'], {
    input: `${token}\n`,
  })
  assert.deepEqual([code, stderr], [0, ''])
  const quoted = `'${data.replace("'", `'\\''`)}'`
  assert.match(stdout, /^Joined http:\/\/127\.0\.0\.1:\d+ as the edge 'edge-\d+' \(Rack 7\)\./)
  assert.ok(stdout.endsWith(`\n  outport edge --data ${quoted}\n`), stdout)
  assert.equal(server.requests.at(-1)?.name, 'Rack 7')
  await assertNoSecret(stdout, token, data)
})

test('or it is in a file; the primary of a private CA needs that CA, which is kept', async (t) => {
  const folder = await tempFolder(t)
  const ca = await createCa('Servers', new Date())
  const names = { dnsNames: ['localhost'], ipAddresses: [] }
  const pair = await issueServerCertificate(ca, { names, now: new Date() })
  const { url, createToken } = await startJoinServer(t, { tls: pair })
  const [file, caFile, data] = [join(folder, 'token'), join(folder, 'ca.pem'), join(folder, 'data')]
  await writeFile(file, `${createToken()}\n`)
  await writeFile(caFile, ca.cert)
  const args = ['--token-file', file, '--data', data]
  const without = await joinEdge(t, args, { url: url.origin })
  assert.equal(without.code, 1)
  assert.match(
    without.stderr,
    /^outport: the certificate of localhost:\d+ is not trusted.*--ca FILE.*\n$/,
  )
  const { code, stderr } = await joinEdge(t, [...args, '--ca', caFile], { url: url.origin })
  assert.deepEqual([code, stderr], [0, ''])
  assert.equal(await readFile(join(identityIn(data), 'primary-ca.pem'), 'utf8'), ca.cert)
})

for (const [args, input, code, message] of [
  [[], '', 1, /there is no join token: .*--token-file/],
  [[], 'planted-token', 1, /this is no join token: make one with 'outport edges token'/],
  [['--token', 'x'], '', 2, /has no option --token; it has --token-file/],
  [['--token-file', '/none/token'], '', 1, /cannot read \/none\/token/],
  [['--ca', '/none/ca.pem'], '', 1, /ca\.pem does not exist/],
  [['--config', '/none/outport.yaml'], '', 1, /outport\.yaml.*no such file/],
] as const) {
  test(`edge join ${args.join(' ')} ${input} is refused in one line, and nothing is made`, async (t) => {
    const data = join(await tempFolder(t), 'data')
    const said = await joinEdge(t, [...args, '--data', data], { input })
    assert.deepEqual([said.code, said.stdout], [code, ''])
    assert.match(said.stderr, /^outport: [^\n]*\n$/)
    assert.match(said.stderr, message)
    assert.doesNotMatch(said.stderr, /planted/)
    assert.ok(!existsSync(data))
  })
}

test('plain http to another machine is refused before the token is read', async (t) => {
  const data = join(await tempFolder(t), 'data')
  const { code, stderr } = await joinEdge(t, ['--data', data], {
    input: server.createToken(),
    url: 'http://primary.example:8080',
  })
  assert.equal(code, 2)
  assert.match(stderr, /^outport: http:\/\/primary\.example:8080 is plain http.*--insecure-http\n$/)
})

test('a token of another primary is refused in one line, and its secret is not said', async (t) => {
  const data = await tempFolder(t)
  const { id, secret } = parseJoinToken(server.createToken())
  const token = formatJoinToken({ id, secret, fingerprint: '0'.repeat(64) })
  const { code, stdout, stderr } = await joinEdge(t, ['--data', data], { input: token })
  assert.deepEqual([code, stdout], [1, ''])
  assert.match(
    stderr,
    /^outport: the answer of .* root is not the one that the join token names\n$/,
  )
  await assertNoSecret(stderr, token, data)
  assert.ok(!existsSync(identityIn(data)))
})

test('a join that is killed leaves nothing half, and the same token makes it the same edge', async (t) => {
  const data = await tempFolder(t)
  const token = server.createToken()
  const known = server.requests.length
  server.alter(() => 'silence')
  t.after(() => server.alter(undefined))
  const program = startProgram(t, [outport, 'edge', 'join', server.url.origin, '--data', data], {
    input: token,
  })
  await waitFor('the request', () => server.requests.length > known)
  program.child.kill('SIGKILL')
  assert.equal(await program.ended(), 'SIGKILL')
  assert.ok(!existsSync(identityIn(data)))
  const check = await runProgram(t, [outport, 'edge', '--data', data, '--check'])
  assert.doesNotMatch(check.stdout, /credential_file/)
  server.alter(undefined)
  const { code } = await joinEdge(t, ['--data', data], { input: token })
  assert.equal(code, 0)
  const [before, after] = server.requests.slice(-2)
  assert.equal(before?.publicKey, after?.publicKey)
  const key = await readFile(join(identityIn(data), 'key.pem'))
  assert.equal(
    createPublicKey(createPrivateKey(key)).export({ type: 'spki', format: 'pem' }),
    after?.publicKey,
  )
  assert.deepEqual(await readdir(join(data, 'edge')), ['identity'])
})

test('an edge joins once, or again by --replace', async (t) => {
  const data = await tempFolder(t)
  assert.equal((await joinEdge(t, ['--data', data], { input: server.createToken() })).code, 0)
  const again = await joinEdge(t, ['--data', data], { input: server.createToken() })
  assert.deepEqual([again.code, again.stdout], [1, ''])
  assert.match(again.stderr, /^outport: .* is an edge already: start it .*--replace\n$/)
  const before = await readFile(join(identityIn(data), 'edge.json'), 'utf8')
  const args = ['--data', data, '--replace']
  assert.equal((await joinEdge(t, args, { input: server.createToken() })).code, 0)
  assert.notEqual(await readFile(join(identityIn(data), 'edge.json'), 'utf8'), before)
})

describe('an edge that joined', () => {
  const freePorts = {
    OUTPORT_EDGE__LISTENERS__0__PORT: '0',
    OUTPORT_EDGE__LISTENERS__1__PORT: '0',
    OUTPORT_EDGE__METRICS__PORT: '0',
  }

  test('shows by --check who it is, without its secret', async (t) => {
    const data = await tempFolder(t)
    await joinEdge(t, ['--data', data], { input: server.createToken() })
    const { code, stdout, stderr } = await runProgram(t, [
      outport,
      'edge',
      '--data',
      data,
      '--check',
    ])
    assert.deepEqual([code, stderr], [0, ''])
    assert.match(stdout, /^ {2}id: edge-\d+$/m)
    assert.ok(stdout.includes(`credential_file: ${join(identityIn(data), 'credential')}`))
    assert.ok(stdout.includes(`url: ${server.url.origin}`))
    assert.ok(!server.secrets.some((secret) => stdout.includes(secret)))
  })

  test('logs in at its primary as that, and no secret is in its log', async (t) => {
    const data = await tempFolder(t)
    await joinEdge(t, ['--data', data], { input: server.createToken() })
    const program = startProgram(t, [outport, 'edge', '--data', data], { env: freePorts })
    const url = await waitFor('the edge', () => {
      const line = program
        .stdout()
        .split('\n')
        .find((each) => each.includes('"edge started"'))
      return line && (JSON.parse(line) as { urls: { edge: string } }).urls.edge
    })
    const scope = 'scope=repository:library/app:pull'
    await fetch(new URL(`/service/token?service=outport&${scope}`, url))
    const { id } = JSON.parse(await readFile(join(identityIn(data), 'edge.json'), 'utf8')) as {
      id: string
    }
    const password = (await readFile(join(identityIn(data), 'credential'), 'utf8')).trim()
    const logIn = formatBasic({ username: id, password })
    const asked = server.others.filter(({ path }) => path.startsWith('/service/token'))
    assert.deepEqual(
      asked.map(({ headers }) => headers['outport-edge-authorization']),
      [logIn],
    )
    program.child.kill('SIGTERM')
    assert.equal(await program.ended(), 0)
    assert.ok(!(program.stdout() + program.stderr()).includes(password))
  })

  test('does not start when others may read its secrets, or a part is broken', async (t) => {
    const data = await tempFolder(t)
    await joinEdge(t, ['--data', data], { input: server.createToken() })
    for (const [spoil, message] of [
      [() => chmod(identityIn(data), 0o755), /may be read by others/],
      [() => chmod(identityIn(data), 0o700), undefined],
      [() => writeFile(join(identityIn(data), 'edge.json'), '{'), /edge\.json is not JSON/],
    ] as const) {
      await spoil()
      if (message === undefined) continue
      for (const args of [[], ['--check']]) {
        const said = await runProgram(t, [outport, 'edge', '--data', data, ...args], {
          env: freePorts,
        })
        assert.equal(said.code, 1)
        assert.match(said.stderr, /^outport: [^\n]*\n$/)
        assert.match(said.stderr, message)
      }
    }
  })
})

import assert from 'node:assert/strict'
import { chmod, cp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { identityFallbacks, identityPaths, readEdgeIdentity } from '../../deploy/edge-identity.ts'
import { joinPrimary } from '../../deploy/join-primary.ts'
import { createPrimaryClient } from '../../deploy/primary-client.ts'
import { loadOutportConfig } from '../../deploy/programs.ts'
import { StartError } from '../../deploy/start-errors.ts'
import { parseJoinToken } from '../../shared/replication/enrolment.ts'
import { createCa } from '../../shared/trust/pki.ts'
import { makeCertificate } from '../kit/certificates.ts'
import {
  createTestRoot,
  signTrustList,
  startJoinServer,
  type JoinServer,
} from '../kit/join-server.ts'
import { tempFolder } from '../kit/temp.ts'

let server: JoinServer
/** A folder that joined; each test has a copy. */
let joined: string
let id: string

before(async (t) => {
  const context = t as TestContext
  server = await startJoinServer(context)
  joined = await tempFolder(context)
  const client = createPrimaryClient({ url: server.url, ca: undefined })
  const edge = await joinPrimary({
    url: server.url,
    token: parseJoinToken(server.createToken()),
    name: 'Rack 7',
    data: joined,
    ca: (await createCa('Servers', new Date())).cert,
    insecureHttp: false,
    replace: false,
    client,
  })
  id = edge.id
  client.close()
})

async function copy(t: TestContext) {
  const data = await tempFolder(t)
  await cp(joined, data, { recursive: true })
  return { data, folder: identityPaths(data).folder }
}

const refused = (message: RegExp) => (error: unknown) => {
  assert.ok(error instanceof StartError, String(error))
  assert.match(error.message, message)
  assert.doesNotMatch(error.message, /\n/)
  assert.ok(!server.secrets.some((secret) => error.message.includes(secret)))
  return true
}

test('a folder that never joined has no identity', async (t) => {
  const data = await tempFolder(t)
  assert.equal(readEdgeIdentity(data), undefined)
  assert.equal(identityFallbacks({ data, options: {} }), undefined)
})

for (const [path, mode] of [
  ['', 0o750],
  ['', 0o701],
  ['key.pem', 0o640],
  ['credential', 0o604],
] as const) {
  test(`an identity is refused whose ${path || 'folder'} has mode ${mode.toString(8)}`, async (t) => {
    const { data, folder } = await copy(t)
    await chmod(join(folder, path), mode)
    assert.throws(() => readEdgeIdentity(data), refused(/may be read by others .*chmod -R go=/))
  })
}

for (const [file, content, message] of [
  ['edge.json', undefined, /edge\.json is missing/],
  ['edge.json', '{"id":', /edge\.json is not JSON/],
  ['edge.json', '{"id":"x"}', /does not say which edge/],
  ['key.pem', undefined, /key\.pem is missing/],
  ['key.pem', 'PLANTED', /key\.pem holds no private key/],
  ['key.pem', makeCertificate().key, /key\.pem is not the key of certificate\.pem/],
  ['credential', undefined, /credential is missing/],
  ['credential', '\n', /credential is empty/],
  ['certificate.pem', '', /certificate\.pem holds no certificate/],
  ['edge-ca.pem', 'x', /edge-ca\.pem holds no certificate/],
  ['primary-ca.pem', 'x', /primary-ca\.pem holds no certificate/],
  ['trust.json', undefined, /trust\.json is missing/],
  ['trust.json', '[]', /trust\.json names no root/],
] as const) {
  test(`an identity is broken whose ${file} is ${JSON.stringify(content?.slice(0, 30)) ?? 'gone'}`, async (t) => {
    const { data, folder } = await copy(t)
    const path = join(folder, file)
    if (content === undefined) await rm(path)
    else await writeFile(path, content)
    assert.throws(() => readEdgeIdentity(data), refused(message))
    assert.throws(() => readEdgeIdentity(data), refused(/join anew with .*--replace/))
    assert.throws(
      () => readEdgeIdentity(data),
      (error: Error) => !error.message.includes('PLANTED'),
    )
  })
}

test('an identity is broken whose list another root signed', async (t) => {
  const { data, folder } = await copy(t)
  const path = join(folder, 'trust.json')
  const kept = JSON.parse(await readFile(path, 'utf8')) as object
  const list = signTrustList({ ...createTestRoot(), trusted: server.root.trusted }, [])
  await writeFile(path, JSON.stringify({ ...kept, list }))
  assert.throws(() => readEdgeIdentity(data), refused(/broken \(no key that is trusted here/))
})

test('the configuration of an edge that joined says what the configuration leaves out', async (t) => {
  const { data, folder } = await copy(t)
  const load = (edge: object) =>
    loadOutportConfig({ config: undefined, flags: { data, edge }, fallbacks: identityFallbacks })
      .edge
  const edge = load({})
  assert.equal(edge.id, id)
  assert.equal(edge.credential_file, join(folder, 'credential'))
  assert.equal(edge.primary.url, server.url.origin)
  assert.equal(edge.primary.ca, join(folder, 'primary-ca.pem'))
  assert.equal(edge.primary.insecure_http, false)
  assert.deepEqual(edge.upstreams[0]?.credentials, {
    username: `edge$${id}`,
    password_file: join(folder, 'credential'),
  })

  const moved = load({ primary: { url: 'https://elsewhere.example', ca: '/etc/ca.pem' } })
  assert.deepEqual(
    [moved.id, moved.primary.url, moved.primary.ca],
    [id, 'https://elsewhere.example', '/etc/ca.pem'],
  )
  assert.equal(load({ id }).credential_file, join(folder, 'credential'))

  // One that brings all its own is another edge.
  const other = load({ id: 'other', credential_file: '/other' })
  assert.deepEqual([other.id, other.primary.url], ['other', 'http://127.0.0.1:8080'])
  assert.equal(other.primary.ca, undefined)
  assert.throws(
    () => load({ id: 'other' }),
    refused(/edge\.id is 'other', but .* leave edge\.id out/),
  )
})

test('plain http that was allowed at the join is allowed to that primary alone', async (t) => {
  const { data, folder } = await copy(t)
  const path = join(folder, 'edge.json')
  const kept = JSON.parse(await readFile(path, 'utf8')) as object
  const url = 'http://primary.example:8080'
  const load = (edge: object) =>
    loadOutportConfig({ config: undefined, flags: { data, edge }, fallbacks: identityFallbacks })
  await writeFile(path, JSON.stringify({ ...kept, primary_url: url, insecure_http: true }))
  assert.equal(load({}).edge.primary.insecure_http, true)
  assert.throws(() => load({ primary: { url: 'http://other.example' } }), /plain http/)
  await writeFile(path, JSON.stringify({ ...kept, primary_url: url }))
  assert.throws(() => load({}), /plain http.*identity/)
})

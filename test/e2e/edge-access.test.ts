// First: its hook must run before the one that stops the database server.
import '../kit/at-end.ts'
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { startTestEdge, type TestEdge } from '../kit/edge.ts'
import { createImage, pushImage, type Image } from '../kit/images.ts'
import { startTestPrimary, type TestPrimary } from '../kit/primary.ts'
import type { Credentials, RegistryClient } from '../kit/registry-client.ts'
import { tempFolder } from '../kit/temp.ts'

let primary: TestPrimary
const primaryLog: string[] = []
let secrets: Record<'one' | 'two', string>

before(async (t) => {
  const folder = await tempFolder(t as TestContext)
  secrets = { one: join(folder, 'one'), two: join(folder, 'two') }
  for (const path of Object.values(secrets))
    await writeFile(path, randomBytes(32).toString('hex'), { mode: 0o600 })
  primary = await startTestPrimary({
    onLog: (line) => void primaryLog.push(line),
    primary: {
      edges: [
        { id: 'one', name: 'one', credential_file: secrets.one, accept_people: true },
        { id: 'two', name: 'two', credential_file: secrets.two },
      ],
    },
  })
})

const startEdgeOf = (t: TestContext, id: 'one' | 'two'): Promise<TestEdge> =>
  startTestEdge(t, {
    edge: { id, credential_file: secrets[id], primary: { url: primary.url.origin, tag_ttl: '0s' } },
  })

let projects = 0

/** A project with an image, and somebody who may pull it. */
async function createWorld({ isPublic }: { isPublic: boolean }) {
  const project = `team${++projects}`
  await primary.createProject(project, { isPublic })
  const guest = await primary.createUser()
  await primary.setRole(project, guest.username, 3)
  const stranger = await primary.createUser()
  const image = createImage({ seed: project })
  await pushImage(primary.client(primary.admin), `${project}/app`, image, 'v1')
  return { project, guest, stranger, image }
}

async function pull(
  edge: TestEdge,
  { project, image, as }: { project: string; image: Image; as?: Credentials | undefined },
) {
  const client = edge.client(as, 'bearer')
  const [blob] = image.blobs
  assert.ok(blob)
  const manifest = await client.request('GET', `/v2/${project}/app/manifests/v1`)
  const byDigest = await client.request(
    'GET',
    `/v2/${project}/app/manifests/${image.manifest.digest}`,
  )
  const got = await client.request('GET', `/v2/${project}/app/blobs/${blob.digest}`)
  const head = await client.request('HEAD', `/v2/${project}/app/blobs/${blob.digest}`)
  return [manifest, byDigest, got, head].map(({ status }) => status)
}

test('a private image is pulled by who may, and neither given nor shown to anybody else, held or not', async (t) => {
  const edge = await startEdgeOf(t, 'one')
  const { project, image, guest, stranger } = await createWorld({ isPublic: false })
  for (const held of [false, true]) {
    assert.deepEqual(
      await pull(edge, { project, image, as: stranger }),
      [401, 401, 401, 401],
      `stranger, held: ${held}`,
    )
    assert.deepEqual(
      await pull(edge, { project, image }),
      [401, 401, 401, 401],
      `nobody, held: ${held}`,
    )
    assert.deepEqual(
      await pull(edge, { project, image, as: guest }),
      [200, 200, 200, 200],
      `guest, held: ${held}`,
    )
  }
  // What is not there looks the same to a stranger.
  const absent = await edge
    .client(stranger, 'bearer')
    .request('GET', '/v2/nothing/app/manifests/v1')
  const hidden = await edge
    .client(stranger, 'bearer')
    .request('GET', `/v2/${project}/app/manifests/v1`)
  assert.equal(absent.status, hidden.status)
  assert.deepEqual(absent.codes(), hidden.codes())
})

test('a public image needs a token of nobody, and none at all on the open listener', async (t) => {
  const edge = await startEdgeOf(t, 'one')
  const { project, image } = await createWorld({ isPublic: true })
  assert.deepEqual(await pull(edge, { project, image }), [200, 200, 200, 200])
  const open = edge.mirrorClient()
  assert.equal((await open.request('GET', `/v2/primary/${project}/app/manifests/v1`)).status, 200)
  const secret = await createWorld({ isPublic: false })
  assert.equal(
    (await open.request('GET', `/v2/primary/${secret.project}/app/manifests/v1`)).status,
    404,
  )
  const headers = {
    Authorization: `Basic ${btoa(`${secret.guest.username}:${secret.guest.password}`)}`,
  }
  assert.equal(
    (await open.request('GET', `/v2/primary/${secret.project}/app/manifests/v1`, { headers }))
      .status,
    404,
  )
})

test('a password may be sent straight to the edge, by Basic', async (t) => {
  const edge = await startEdgeOf(t, 'one')
  const { project, guest } = await createWorld({ isPublic: false })
  assert.equal((await edge.client(guest, 'basic').request('GET', '/v2/')).status, 200)
  assert.equal(
    (await edge.client(guest, 'basic').request('GET', `/v2/${project}/app/manifests/v1`)).status,
    200,
  )
  const wrong = { ...guest, password: 'Wrong-12345' }
  assert.equal(
    (await edge.client(wrong, 'basic').request('GET', `/v2/${project}/app/manifests/v1`)).status,
    401,
  )
})

test('a token that an edge saw is refused by the primary and by another edge', async (t) => {
  const [one, two] = [await startEdgeOf(t, 'one'), await startEdgeOf(t, 'two')]
  const { project, guest } = await createWorld({ isPublic: false })
  const headers = { Authorization: `Basic ${btoa(`${guest.username}:${guest.password}`)}` }
  const query = { scope: `repository:${project}/app:pull,push,delete`, service: 'edge:one' }
  const answer = await one.client().request('GET', '/service/token', { headers, query })
  const { token } = answer.json() as { token: string }
  const use = (client: RegistryClient) =>
    client.request('GET', `/v2/${project}/app/manifests/v1`, {
      headers: { Authorization: `Bearer ${token}` },
    })
  assert.equal((await use(one.client())).status, 200)
  assert.equal((await use(two.client())).status, 401)
  assert.equal((await use(primary.client())).status, 401)
  const claims = JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString()) as {
    aud: string
    access: unknown
  }
  assert.equal(claims.aud, 'edge:one')
  const { project: id, ...scope } = (claims.access as { project?: number }[])[0] ?? {}
  assert.deepEqual(scope, { type: 'repository', name: `${project}/app`, actions: ['pull'] })
  assert.equal(typeof id, 'number')
})

test('people are refused at an edge that does not accept them, with the way to log in; robots are not', async (t) => {
  const edge = await startEdgeOf(t, 'two')
  const { project, guest, image } = await createWorld({ isPublic: false })
  const headers = { Authorization: `Basic ${btoa(`${guest.username}:${guest.password}`)}` }
  const refused = await edge.client().request('GET', '/service/token', { headers })
  assert.equal(refused.status, 403)
  assert.match(refused.body.toString(), /robot/)
  const created = await primary.client(primary.admin).request('POST', '/api/v2.0/robots', {
    headers: { 'Content-Type': 'application/json' },
    body: Buffer.from(
      JSON.stringify({
        name: 'puller',
        duration: -1,
        level: 'project',
        permissions: [
          {
            kind: 'project',
            namespace: project,
            access: [{ resource: 'repository', action: 'pull' }],
          },
        ],
      }),
    ),
  })
  assert.equal(created.status, 201)
  const { name, secret } = created.json() as { name: string; secret: string }
  assert.deepEqual(
    await pull(edge, { project, image, as: { username: name, password: secret } }),
    [200, 200, 200, 200],
  )
})

test('two repositories share one download of a digest, each once the primary has vouched for it', async (t) => {
  const edge = await startEdgeOf(t, 'one')
  const { project, image, guest } = await createWorld({ isPublic: false })
  const admin = primary.client(primary.admin)
  await pushImage(admin, `${project}/copy`, image, 'v1')
  const client = edge.client(guest, 'bearer')
  const [blob] = image.blobs
  assert.ok(blob)
  assert.equal((await client.request('GET', `/v2/${project}/app/blobs/${blob.digest}`)).status, 200)
  const before = await edge.metric('outport_edge_upstream_bytes_total', { upstream: 'primary' })
  assert.equal(
    (await client.request('GET', `/v2/${project}/copy/blobs/${blob.digest}`)).status,
    200,
  )
  assert.equal(
    await edge.metric('outport_edge_upstream_bytes_total', { upstream: 'primary' }),
    before,
  )
  assert.equal(
    (await client.request('GET', `/v2/${project}/nothing/blobs/${blob.digest}`)).status,
    404,
  )
})

test('a project that is made again under its name inherits nothing that an edge holds', async (t) => {
  const edge = await startEdgeOf(t, 'one')
  const { project, image, guest, stranger } = await createWorld({ isPublic: false })
  assert.deepEqual(await pull(edge, { project, image, as: guest }), [200, 200, 200, 200])
  const admin = primary.client(primary.admin)
  const gone = async (path: string) =>
    assert.equal((await admin.request('DELETE', path)).status, 200, path)
  await gone(`/api/v2.0/projects/${project}/repositories/app`)
  await gone(`/api/v2.0/projects/${project}`)
  await primary.createProject(project, { isPublic: false })
  await primary.setRole(project, stranger.username, 3)
  assert.deepEqual(await pull(edge, { project, image, as: stranger }), [404, 404, 404, 404])
})

test("a client that guesses passwords through an edge locks out its own address, not the edge's others", async (t) => {
  const edge = await startTestEdge(t, {
    edge: {
      id: 'one',
      credential_file: secrets.one,
      primary: { url: primary.url.origin, tag_ttl: '0s' },
      trusted_proxies: ['127.0.0.1'],
    },
  })
  const { guest } = await createWorld({ isPublic: false })
  const logIn = async (password: string, address: string) => {
    const headers = {
      Authorization: `Basic ${btoa(`${guest.username}:${password}`)}`,
      'X-Forwarded-For': address,
    }
    return (await edge.client().request('GET', '/service/token', { headers })).status
  }
  let status = 401
  for (let tries = 0; tries < 50 && status === 401; tries++) {
    status = await logIn('Wrong-12345', '192.0.2.1')
  }
  assert.equal(status, 429)
  assert.equal(await logIn(guest.password, '192.0.2.2'), 200)
})

test('a request id travels from the client through the edge to the primary', async (t) => {
  const edge = await startEdgeOf(t, 'one')
  const { project, guest } = await createWorld({ isPublic: false })
  const headers = { 'X-Request-Id': 'traced-4711' }
  const answer = await edge
    .client(guest, 'bearer')
    .request('GET', `/v2/${project}/app/manifests/v1`, { headers })
  assert.equal(answer.headers['x-request-id'], 'traced-4711')
  assert.ok(edge.log.some(({ requestId }) => requestId === 'traced-4711'))
  assert.ok(primaryLog.some((line) => line.includes('"requestId":"traced-4711"')))
})

test('an edge without its primary keeps serving those whom it knows, and says 503 to others', async (t) => {
  const edge = await startEdgeOf(t, 'one')
  const { project, image, guest, stranger } = await createWorld({ isPublic: false })
  const client = edge.client(guest, 'bearer')
  const [blob] = image.blobs
  assert.ok(blob)
  const path = `/v2/${project}/app/blobs/${blob.digest}`
  assert.equal((await client.request('GET', path)).status, 200)
  assert.equal((await client.request('GET', `/v2/${project}/app/manifests/v1`)).status, 200)
  await primary.stop()
  assert.equal((await client.request('GET', path)).status, 200)
  const stale = await client.request('GET', `/v2/${project}/app/manifests/v1`)
  assert.equal(stale.status, 200)
  assert.match(stale.headers.warning ?? '', /^110 /)
  const headers = { Authorization: `Basic ${btoa(`${stranger.username}:${stranger.password}`)}` }
  assert.equal((await edge.client().request('GET', '/service/token', { headers })).status, 503)
})

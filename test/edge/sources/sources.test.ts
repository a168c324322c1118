import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test, type TestContext } from 'node:test'
import type { Origin } from '../../../edge/cache/cache-index.ts'
import { createSources } from '../../../edge/sources/sources.ts'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import { createHedge } from '../../../shared/site/hedge.ts'
import { createUpstreamClient } from '../../../shared/upstream/client.ts'
import { createRegistries } from '../../../shared/upstream/registries.ts'
import { SourceError } from '../../../shared/stream/blob-source.ts'
import { readFrom, withFills } from '../../kit/fill.ts'
import { addImage, startUpstream, type Upstream } from '../../kit/upstream.ts'

const repository = parseRepositoryName('team/app')
const origin: Origin = { upstream: 'hub', repository }

/** Sources of `hub`, which `near` stands for; both want a log-in. */
async function startWorld(t: TestContext, now = () => 0) {
  const upstreams = new Map<string, Upstream>()
  const entries = []
  for (const id of ['hub', 'near']) {
    const users = { [id]: 'secret', client: 'secret' }
    const upstream = await startUpstream({ auth: { scheme: 'basic', users } })
    t.after(() => upstream.close())
    upstreams.set(id, upstream)
    const credential = { username: id, password: 'secret' }
    entries.push({ id, url: upstream.url, credential })
  }
  const clients = createRegistries(entries).entries.map((entry) => createUpstreamClient({ entry }))
  t.after(() => Promise.all(clients.map((client) => client.close())))
  const clientOf = (upstream: string) => {
    const client = clients.find(({ entry }) => entry.id === upstream)
    assert.ok(client)
    return client
  }
  const mirrorsOf = (upstream: string) => ({
    list: upstream === 'hub' ? [{ id: 'near', prefix: undefined }] : [],
    waitMs: 5000,
  })
  const [hub, near] = ['hub', 'near'].map((id) => upstreams.get(id))
  assert.ok(hub && near)
  return { hub, near, clientOf, sources: createSources(clientOf, { mirrorsOf, now }) }
}

const loginsAt = ({ requests }: Upstream) =>
  new Set(
    requests.flatMap(({ headers: { authorization = '' } }) => {
      return authorization === '' ? [] : atob(authorization.replace('Basic ', '')).split(':')[0]
    }),
  )

test("a client's own credential goes to the upstream, and to no mirror of it", async (t) => {
  const { hub, near, sources } = await startWorld(t)
  const { manifest, layer } = addImage(hub, repository)
  addImage(near, repository)
  const other = addImage(hub, repository, { seed: 'other' })
  const credential = { username: 'client', password: 'secret' }
  const request = { credential, identity: 'client', headers: { 'x-request-id': 'one' } }
  for (const digest of [manifest, other.manifest])
    assert.equal((await sources.manifest(origin, digest, request))?.digest, digest)
  const list = sources.of(origin, layer, request)
  assert.deepEqual(
    list.map(({ name, patienceMs }) => [name, patienceMs]),
    [
      ['near', 5000],
      ['hub', undefined],
    ],
  )
  for (const source of list) {
    const opened = await source.open({ offset: 0, signal: AbortSignal.timeout(5000) })
    opened.cancel()
  }
  assert.deepEqual([...loginsAt(hub)], ['client'])
  assert.deepEqual([...loginsAt(near)], ['near'])
  assert.ok(near.requests.every(({ headers }) => headers['x-request-id'] === 'one'))
})

test('a mirror that lied is left alone for ten minutes; the upstream itself is asked all the same', async (t) => {
  let now = 0
  const { hub, near, sources } = await startWorld(t, () => now)
  const { manifest, layer } = addImage(hub, repository)
  addImage(near, repository)
  const namesOf = () => sources.of(origin, layer, {}).map(({ name }) => name)
  assert.deepEqual(namesOf(), ['near', 'hub'])
  sources.lied('near')
  sources.lied('hub')
  now = 599_999
  assert.deepEqual(namesOf(), ['hub'])
  assert.ok(await sources.manifest(origin, manifest, {}))
  assert.equal(near.requests.length, 0)
  now = 600_000
  assert.deepEqual(namesOf(), ['near', 'hub'])
})

/** Two edges of the site before `hub`, of whom the first is the home of everything; the second is asked at once. */
async function startSite(t: TestContext) {
  const servers = await Promise.all(['hub', 'home', 'other'].map(() => startUpstream()))
  const [hub, home, other] = servers
  assert.ok(hub && home && other)
  t.after(() => Promise.all(servers.map((server) => server.close())))
  const [atHub, atHome, atOther] = createRegistries([
    { id: 'hub', url: hub.url },
    { id: 'home', url: home.url },
    { id: 'other', url: other.url },
  ]).entries.map((entry) => createUpstreamClient({ entry }))
  assert.ok(atHub && atHome && atOther)
  t.after(() => Promise.all([atHub, atHome, atOther].map((client) => client.close())))
  const sources = createSources(() => atHub, {
    peersOf: () =>
      [atHome, atOther].map((client) => ({
        client,
        repository,
        waitMs: 5000,
        edge: client.entry.id,
      })),
    hedge: createHedge({ now: () => performance.now(), delay: () => Promise.resolve() }),
  })
  return { hub, home, other, sources }
}

test('a home that is slow is not waited for where another edge holds the manifest', async (t) => {
  const { hub, home, other, sources } = await startSite(t)
  const { manifest } = addImage(home, repository)
  addImage(other, repository)
  home.fault({ digest: manifest }, { stallHeaders: true })
  assert.equal((await sources.manifest(origin, manifest, {}))?.digest, manifest)
  assert.equal(other.requests[0]?.headers['cache-control'], 'only-if-cached')
  assert.equal(hub.requests.length, 0)
})

test('another edge that does not hold the manifest is not made to fetch it while the home does', async (t) => {
  const { hub, home, other, sources } = await startSite(t)
  const { manifest } = addImage(home, repository)
  addImage(hub, repository)
  home.fault({ digest: manifest, times: 1 }, { delayHeaders: 100 })
  assert.equal((await sources.manifest(origin, manifest, {}))?.digest, manifest)
  assert.ok(other.requests.every(({ headers }) => headers['cache-control'] === 'only-if-cached'))
  assert.equal(hub.requests.length, 0)
  home.fault({}, { status: 500 })
  other.forgetRequests()
  assert.equal((await sources.manifest(origin, manifest, {}))?.digest, manifest)
  assert.equal(other.requests.at(-1)?.headers['cache-control'], undefined, 'then it may')
})
test('a neighbour that flips one byte is named, and the upstream gives the right bytes', async (t) => {
  const { hub, near, clientOf } = await startWorld(t)
  const bytes = randomBytes(3_000_000)
  const digest = hub.addBlob(repository, bytes)
  near.addBlob(repository, bytes)
  near.fault({ digest }, { flipBit: 1_500_000 })
  const sources = createSources(clientOf, {
    edgeId: 'me',
    peersOf: () => [{ client: clientOf('near'), repository, waitMs: 5000, edge: 'near' }],
  })
  await withFills({}, async ({ join, liars }) => {
    const handle = await join(digest, sources.of(origin, digest, {}))
    await assert.rejects(handle.whole(), { code: 'broken' }, 'who read wrong bytes is cut')
    await handle.close()
    const again = await join(digest, sources.of(origin, digest, {}))
    assert.ok((await readFrom(again)).equals(bytes))
    assert.deepEqual(liars, ['near'])
    for (const name of liars) sources.lied(name)
  })
  const left = sources.of(origin, digest, {}).map(({ name }) => name)
  assert.deepEqual(left, ['hub'])
})

test('those that a busy neighbour names are asked for what they have alone, if they are known', async (t) => {
  const { near, clientOf } = await startWorld(t)
  const { layer } = addImage(near, repository)
  near.fault({ digest: layer }, { status: 503, headers: { 'Outport-Try': 'stranger, other' } })
  const named: string[][] = []
  const peer = { client: clientOf('near'), repository, waitMs: 5000 }
  const sources = createSources(clientOf, {
    edgeId: 'me',
    peersOf: () => [{ ...peer, edge: 'near' }],
    namedPeers: (_origin, ids) => {
      named.push([...ids])
      return [{ ...peer, edge: 'other' }]
    },
  })
  const [source] = sources.of(origin, layer, { hop: { via: ['a'], ...clientHop } })
  const request = { offset: 0, signal: AbortSignal.timeout(5000) }
  const error = await source?.open(request).catch((caught: unknown) => caught)
  assert.ok(error instanceof SourceError && error.code === 'busy')
  await error.others[0]?.open(request).catch(() => undefined)
  assert.deepEqual(named, [['stranger', 'other']])
  const ways = near.requests
    .filter(({ status }) => status === 503)
    .map(({ headers }) => [headers['outport-via'], headers['cache-control']])
  assert.deepEqual(ways, [
    ['a, me', undefined],
    ['a, me', 'only-if-cached'],
  ])
})

const clientHop = { isSideways: false, onlyHeld: false }

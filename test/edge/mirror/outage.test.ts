import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { digestOf } from '../../../shared/oci/digest.ts'
import { mediaTypes } from '../../../shared/oci/media-types.ts'
import { waitFor } from '../../kit/clock.ts'
import { startTestEdge, type TestEdge } from '../../kit/edge.ts'
import type { RegistryClient } from '../../kit/registry-client.ts'
import { addImage, startUpstream, type Upstream } from '../../kit/upstream.ts'

// An upstream that is away, slow, sparing or refusing: what clients of an edge get meanwhile, and what it is asked.

interface World {
  readonly upstream: Upstream
  readonly edge: TestEdge
  readonly client: RegistryClient
}

/** An edge whose docker.io is a stand-in; its tags are asked for each time unless `entry` says otherwise. */
async function startWorld(t: TestContext, entry: Record<string, unknown> = {}): Promise<World> {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  const hub = { id: 'docker.io', url: upstream.url.origin, tag_ttl: '0s', ...entry }
  const edge = await startTestEdge(t, { edge: { upstreams: [hub] } })
  return { upstream, edge, client: edge.mirrorClient() }
}

const app = 'library/app'
const tagPath = `/v2/${app}/manifests/v1`

test('in an outage all that is held is served, and the unknown is refused with a time to come again', async (t) => {
  const { upstream, edge, client } = await startWorld(t, { negative_ttl: '0s' })
  const { layer, content } = addImage(upstream, app)
  assert.equal((await client.request('GET', tagPath)).status, 200)
  await client.request('GET', `/v2/${app}/blobs/${layer}`)
  await upstream.down()
  for (let failure = 0; failure < 5; failure++)
    assert.equal((await client.request('GET', `/v2/${app}/manifests/other`)).status, 503)
  const away = { upstream: 'docker.io', lane: 'api' }
  assert.equal(await edge.metric('outport_edge_upstream_away', away), 1)
  const stale = await client.request('GET', tagPath)
  assert.deepEqual([stale.status, stale.headers.warning?.slice(0, 3)], [200, '110'])
  const blob = await client.request('GET', `/v2/${app}/blobs/${layer}`)
  assert.ok(blob.body.equals(content))
  const unknown = await client.request('GET', `/v2/${app}/manifests/other`)
  assert.deepEqual([unknown.status, unknown.codes()], [503, ['UNAVAILABLE']])
  assert.ok(Number(unknown.headers['retry-after']) >= 1)
  await upstream.up()
  await waitFor('the upstream to be found again', async () => {
    const answer = await client.request('GET', tagPath)
    return answer.headers.warning === undefined
  })
  assert.equal(await edge.metric('outport_edge_upstream_away', away), 0)
})

test('blobs behind storage that is away do not keep manifests from being asked for', async (t) => {
  const { upstream, client } = await startWorld(t)
  const { layer } = addImage(upstream, app)
  upstream.fault({ path: /blobs/ }, { status: 503 })
  for (let failure = 0; failure < 6; failure++)
    assert.equal((await client.request('GET', `/v2/${app}/blobs/${layer}`)).status, 503)
  assert.equal((await client.request('GET', tagPath)).status, 200)
})

test('a 401, 403 or 404 ends what was held of a tag, for an outage afterwards too', async (t) => {
  for (const status of [401, 403, 404]) {
    const { upstream, client } = await startWorld(t, { negative_ttl: '0s' })
    addImage(upstream, app)
    assert.equal((await client.request('GET', tagPath)).status, 200)
    const stop = upstream.fault({ path: /manifests\/v1/ }, { status })
    assert.equal((await client.request('GET', tagPath)).status, 404, `${status}`)
    stop()
    await upstream.down()
    assert.equal((await client.request('GET', tagPath)).status, 503, `${status}`)
  }
})

test('what an upstream does not have it is not asked for again and again', async (t) => {
  const { upstream, client } = await startWorld(t, { negative_ttl: '1h' })
  upstream.addBlob(app, Buffer.from('the repository is there'))
  const missing = digestOf(Buffer.from('missing'))
  for (const reference of ['none', missing]) {
    for (let times = 0; times < 5; times++) {
      const answer = await client.request('GET', `/v2/${app}/manifests/${reference}`)
      assert.deepEqual(answer.codes(), ['MANIFEST_UNKNOWN'])
    }
    const { gets, heads } = upstream.delivered(reference)
    assert.equal(gets + heads, 1, reference)
  }
})

test('a no is not remembered for longer than it may', async (t) => {
  const { upstream, client } = await startWorld(t, { negative_ttl: '100ms' })
  assert.equal((await client.request('GET', `/v2/${app}/manifests/none`)).status, 404)
  const { manifest } = addImage(upstream, app, { tag: 'none' })
  await waitFor('it to be looked for again', async () => {
    const answer = await client.request('GET', `/v2/${app}/manifests/none`)
    return answer.headers['docker-content-digest'] === manifest
  })
})

test('a slow upstream costs a client that asks for a known tag a moment only', async (t) => {
  const { upstream, edge, client } = await startWorld(t, { tag_wait: '20ms' })
  addImage(upstream, app)
  await client.request('GET', tagPath)
  const stop = upstream.fault({ path: /manifests\/v1/ }, { stallHeaders: true })
  const answer = await client.request('GET', tagPath)
  assert.deepEqual([answer.status, answer.headers.warning?.slice(0, 3)], [200, '110'])
  const slow = { upstream: 'docker.io', reason: 'slow' }
  assert.equal(await edge.metric('outport_edge_stale_tags_total', slow), 1)
  stop()
})

test('an upstream with hardly a pull left is not asked for tags that are known', async (t) => {
  const { upstream, edge, client } = await startWorld(t, { rate_budget: 10 })
  addImage(upstream, app)
  addImage(upstream, app, { seed: 'another', tag: 'v2' })
  const left = (count: number) =>
    upstream.fault({}, { headers: { 'ratelimit-remaining': `${count};w=21600` } })
  const stop = left(9)
  await client.request('GET', tagPath)
  assert.equal(await edge.metric('outport_edge_upstream_pulls_left', { upstream: 'docker.io' }), 9)
  upstream.forgetRequests()
  const saved = await client.request('GET', tagPath)
  assert.deepEqual([saved.status, saved.headers.warning?.slice(0, 3)], [200, '110'])
  assert.equal(upstream.requests.length, 0)
  stop()
  left(10)
  const fresh = await client.request('GET', `/v2/${app}/manifests/v2`)
  assert.deepEqual([fresh.status, fresh.headers.warning], [200, undefined])
  assert.equal((await client.request('GET', tagPath)).headers.warning, undefined)
})

test('a tag that has not moved is confirmed by its entity tag, where a HEAD names no digest too', async (t) => {
  const { upstream, client } = await startWorld(t)
  const { manifest } = addImage(upstream, app)
  upstream.fault({ path: /manifests/ }, { contentDigest: '' })
  for (let times = 0; times < 3; times++) {
    const answer = await client.request('GET', tagPath)
    assert.equal(answer.headers['docker-content-digest'], manifest)
  }
  const { gets } = upstream.delivered('v1')
  assert.equal(gets, 1)
  assert.equal(upstream.requests.at(-1)?.status, 304)
  const moved = addImage(upstream, app, { seed: 'moved' })
  const answer = await client.request('GET', tagPath)
  assert.equal(answer.headers['docker-content-digest'], moved.manifest)
})

test('a pause that an upstream asks for is kept, and known tags are answered meanwhile', async (t) => {
  const { upstream, client } = await startWorld(t)
  addImage(upstream, app)
  await client.request('GET', tagPath)
  const stop = upstream.fault({}, { status: 429, headers: { 'retry-after': '600' } })
  assert.equal((await client.request('GET', tagPath)).status, 200)
  stop()
  upstream.forgetRequests()
  assert.equal((await client.request('GET', tagPath)).status, 200)
  const unknown = await client.request('GET', `/v2/${app}/manifests/other`)
  assert.equal(unknown.status, 503)
  assert.ok(Number(unknown.headers['retry-after']) > 5)
  assert.equal(upstream.requests.length, 0)
})

test('lists come from the upstream, and from what is held while it is away, marked so', async (t) => {
  const { upstream, client } = await startWorld(t)
  const image = addImage(upstream, app, { tag: 'b' })
  upstream.setTag(app, 'a', image.manifest)
  upstream.setTag(app, 'unheld', image.manifest)
  addImage(upstream, 'team/other', { seed: 'other' })
  const signature = upstream.addManifest(app, {
    schemaVersion: 2,
    mediaType: mediaTypes.ociManifest,
    artifactType: 'application/example.signature',
    config: { mediaType: 'application/vnd.oci.empty.v1+json', digest: image.config, size: 16 },
    layers: [],
    subject: { mediaType: mediaTypes.ociManifest, digest: image.manifest, size: 1 },
    annotations: { by: 'somebody' },
  })
  const lists = [
    `/v2/${app}/tags/list`,
    `/v2/${app}/referrers/${image.manifest}?artifactType=application/example.signature`,
    '/v2/_catalog',
  ]
  const ask = async () => {
    const answers = []
    for (const path of lists) answers.push(await client.request('GET', path))
    return answers
  }
  const whole = await ask()
  assert.deepEqual(
    whole.map(({ status, headers }) => [status, headers.warning]),
    lists.map(() => [200, undefined]),
  )
  assert.deepEqual(whole[0]?.json(), { name: app, tags: ['a', 'b', 'unheld'] })
  assert.deepEqual(whole[2]?.json(), { repositories: [app, 'team/other'] })
  for (const reference of ['a', 'b', signature])
    assert.equal((await client.request('GET', `/v2/${app}/manifests/${reference}`)).status, 200)
  await upstream.down()
  const [tags, referrers, catalog] = await ask()
  assert.deepEqual(tags?.json(), { name: app, tags: ['a', 'b'] })
  assert.deepEqual(referrers?.json(), whole[1]?.json())
  assert.equal(referrers?.headers['oci-filters-applied'], 'artifactType')
  assert.deepEqual(catalog?.json(), { repositories: [app] })
  for (const answer of [tags, referrers, catalog])
    assert.match(answer?.headers.warning ?? '', /^110 /)
  const page = await client.request('GET', `/v2/${app}/tags/list?n=1&last=`)
  assert.deepEqual(page.json(), { name: app, tags: ['a'] })
  assert.equal(page.headers.link, `</v2/${app}/tags/list?n=1&last=a>; rel="next"`)
  const nobody = await client.request('GET', '/v2/team/none/tags/list')
  assert.equal(nobody.status, 503)
  const unsigned = await client.request('GET', `/v2/${app}/referrers/${signature}`)
  assert.equal(unsigned.status, 503, 'nothing held is not nothing there')
})

test('only a registry that is a front has its manifests followed to where it redirects', async (t) => {
  const behind = await startUpstream()
  t.after(() => behind.close())
  const { manifest, layer, content } = addImage(behind, app)
  const front = await startUpstream()
  t.after(() => front.close())
  front.fault({}, { redirect: behind.url.href })
  const entry = { url: front.url.origin, redirect_hosts: [behind.host] }
  const edge = await startTestEdge(t, {
    edge: {
      upstreams: [
        { id: 'docker.io', ...entry, redirect_manifests: true },
        { id: 'plain', ...entry },
      ],
    },
  })
  const client = edge.mirrorClient()
  const followed = await client.request('GET', tagPath)
  assert.equal(followed.headers['docker-content-digest'], manifest)
  const blob = await client.request('GET', `/v2/${app}/blobs/${layer}`)
  assert.ok(blob.body.equals(content))
  assert.equal((await client.request('GET', `/v2/plain/${app}/manifests/v1`)).status, 503)
})

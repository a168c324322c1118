import assert from 'node:assert/strict'
import { mkdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { digestOf, type Digest } from '../../../shared/oci/digest.ts'
import { mediaTypes } from '../../../shared/oci/media-types.ts'
import { waitFor } from '../../kit/clock.ts'
import { startTestEdge, type TestEdge } from '../../kit/edge.ts'
import { bytesOf } from '../../kit/images.ts'
import type { Answer, RegistryClient } from '../../kit/registry-client.ts'
import { startUpstream, type Upstream, type UpstreamOptions } from '../../kit/upstream.ts'

// One digest in several repositories and registries at once: bytes are shared, rights and lies are not.

const mebibyte = 1024 * 1024

async function startUpstreams(
  t: TestContext,
  entries: Readonly<Record<string, { kind?: 'registry' | 'outport'; options?: UpstreamOptions }>>,
): Promise<{ edge: TestEdge; upstreams: Upstream[] }> {
  const upstreams: Upstream[] = []
  const configured: object[] = []
  for (const [id, { kind = 'registry', options = {} }] of Object.entries(entries)) {
    const upstream = await startUpstream(options)
    t.after(() => upstream.close())
    upstreams.push(upstream)
    configured.push({ id, kind, names: [], url: upstream.url.origin, tag_ttl: '1h' })
  }
  return { edge: await startTestEdge(t, { edge: { upstreams: configured } }), upstreams }
}

function only(upstreams: readonly Upstream[]): Upstream {
  const [upstream] = upstreams
  assert.ok(upstream)
  return upstream
}

function getBlob(client: RegistryClient, path: string, digest: Digest): Promise<Answer> {
  return client.request('GET', `/v2/${path}/blobs/${digest}`)
}

test('two registries that are asked for one digest at once never mix their bytes: the liar alone fails', async (t) => {
  const { edge, upstreams } = await startUpstreams(t, {
    honest: { options: { pace: 16 * mebibyte } },
    liar: { options: { pace: 16 * mebibyte } },
  })
  const [honest, liar] = upstreams
  assert.ok(honest && liar)
  const content = bytesOf('shared by two', 6 * mebibyte)
  const digest = honest.addBlob('team/app', content)
  liar.addBlob('team/app', content)
  liar.fault({ digest, method: 'GET' }, { flipBit: 2 * mebibyte })
  const client = edge.mirrorClient()
  const [right, wrong] = await Promise.all([
    getBlob(client, 'honest/team/app', digest),
    getBlob(edge.mirrorClient(), 'liar/team/app', digest).catch(() => undefined),
  ])
  assert.ok(right.body.equals(content))
  assert.ok(wrong === undefined || wrong.status !== 200 || wrong.body.length < content.length)
  await waitFor('the end of both fills', async () => {
    return (await edge.metric('outport_edge_fills_running')) === 0
  })
  const before = honest.delivered(digest).gets
  const held = await getBlob(client, 'honest/team/app', digest)
  assert.ok(held.body.equals(content))
  assert.equal(honest.delivered(digest).gets, before, 'it is held')
})

test('repositories that fetch one digest at once are all held afterwards', async (t) => {
  const { edge, upstreams } = await startUpstreams(t, {
    hub: { options: { pace: 16 * mebibyte } },
  })
  const upstream = only(upstreams)
  const content = bytesOf('base layer', 4 * mebibyte)
  const names = ['one', 'two', 'three'].map((name) => `team/${name}`)
  const digests = names.map((name) => upstream.addBlob(name, content))
  const [digest] = digests
  assert.ok(digest)
  const answers = await Promise.all(
    names.map((name) => getBlob(edge.mirrorClient(), `hub/${name}`, digest)),
  )
  for (const { body } of answers) assert.ok(body.equals(content))
  await waitFor('all fills to be stored', () => {
    const stored = edge.log.filter(({ msg, reason }) => msg === 'fill done' && reason === 'stored')
    return stored.length === names.length
  })
  await upstream.down()
  for (const name of names) {
    const held = await getBlob(edge.mirrorClient(), `hub/${name}`, digest)
    assert.ok(held.body.equals(content), name)
  }
  assert.equal(await edge.metric('outport_edge_cache_blobs'), 1)
  assert.ok(!edge.log.some(({ msg }) => String(msg).includes('cannot be written')))
})

test('one manifest asked for in many repositories at once is given to all', async (t) => {
  const { edge, upstreams } = await startUpstreams(t, { hub: {} })
  const upstream = only(upstreams)
  const document = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] }
  const names = Array.from({ length: 12 }, (_, index) => `team/app${index}`)
  const digests = names.map((name) => upstream.addManifest(name, document, { tag: 'v1' }))
  const answers = await Promise.all(
    names.map((name, index) =>
      edge.mirrorClient().request('GET', `/v2/hub/${name}/manifests/${digests[index] ?? ''}`),
    ),
  )
  assert.deepEqual(
    answers.map(({ status }) => status),
    names.map(() => 200),
  )
})

test('a repository of a primary that lacks the digest does not spoil it for one that has it', async (t) => {
  const { edge, upstreams } = await startUpstreams(t, { other: { kind: 'outport' } })
  const upstream = only(upstreams)
  const content = bytesOf('of team b', mebibyte)
  const digest = upstream.addBlob('team/b', content)
  upstream.addBlob('team/a', Buffer.from('something else'))
  upstream.fault({ path: /team\/a/, method: 'GET' }, { status: 404, delayHeaders: 300 })
  const lacking = getBlob(edge.mirrorClient(), 'other/team/a', digest)
  await waitFor('the first request', () => upstream.requests.length > 0)
  const [refused, given] = await Promise.all([
    lacking,
    getBlob(edge.mirrorClient(), 'other/team/b', digest),
  ])
  assert.equal(refused.status, 404)
  assert.equal(given.status, 200)
  assert.ok(given.body.equals(content))
})

test('after a fill that failed, those who ask again at once all get the blob, and it is fetched once', async (t) => {
  const { edge, upstreams } = await startUpstreams(t, {
    other: { kind: 'outport', options: { pace: 8 * mebibyte } },
  })
  const upstream = only(upstreams)
  const content = bytesOf('second try', 4 * mebibyte)
  const digest = upstream.addBlob('team/app', content)
  upstream.fault({ digest, method: 'GET', times: 1 }, { status: 503, delayHeaders: 50 })
  const pull = async () => {
    for (let tries = 0; tries < 20; tries++) {
      const answer = await getBlob(edge.mirrorClient(), 'other/team/app', digest)
      if (answer.status !== 503) return answer
    }
    throw new Error('never answered')
  }
  const answers = await Promise.all(Array.from({ length: 10 }, pull))
  for (const { status, body } of answers) {
    assert.equal(status, 200)
    assert.ok(body.equals(content))
  }
  assert.equal(upstream.delivered(digest).bytes, content.length)
  await upstream.down()
  assert.equal((await getBlob(edge.mirrorClient(), 'other/team/app', digest)).status, 200)
})

test('a manifest that was first asked for as a blob is held as a manifest once it was one', async (t) => {
  const { edge, upstreams } = await startUpstreams(t, { hub: {} })
  const upstream = only(upstreams)
  const document = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] }
  const digest = upstream.addManifest('team/app', document, { tag: 'v1' })
  upstream.addBlob('team/app', Buffer.from(JSON.stringify(document)))
  const client = edge.mirrorClient()
  assert.equal((await getBlob(client, 'hub/team/app', digest)).status, 200)
  const before = upstream.delivered(digest).gets
  for (let times = 0; times < 3; times++) {
    const manifest = await client.request('GET', `/v2/hub/team/app/manifests/${digest}`)
    assert.equal(manifest.headers['content-type'], mediaTypes.ociIndex)
  }
  assert.equal(upstream.delivered(digest).gets, before + 1)
})

test('a cache that cannot be written passes everything through, and says so', async (t) => {
  const { edge, upstreams } = await startUpstreams(t, { hub: {} })
  const upstream = only(upstreams)
  const parts = join(edge.data, 'edge', 'parts')
  // A file where a folder should be: that stops root, too.
  await rm(parts, { recursive: true })
  await writeFile(parts, '')
  const content = bytesOf('proxied', 2 * mebibyte)
  const layer = upstream.addBlob('team/app', content)
  const document = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] }
  const manifest = upstream.addManifest('team/app', document, { tag: 'v1' })
  const client = edge.mirrorClient()
  for (let times = 0; times < 3; times++) {
    assert.ok((await getBlob(client, 'hub/team/app', layer)).body.equals(content))
    const byTag = await client.request('GET', '/v2/hub/team/app/manifests/v1')
    assert.equal(byTag.status, 200)
    assert.equal(digestOf(byTag.body), manifest)
  }
  assert.ok(edge.log.some(({ msg }) => String(msg).includes('cannot be written')))
  // It heals by itself.
  await rm(parts)
  await mkdir(parts, { mode: 0o700 })
  await waitFor('the blob to be held', async () => {
    assert.equal((await getBlob(client, 'hub/team/app', layer)).status, 200)
    return (await edge.metric('outport_edge_cache_blobs')) > 0
  })
})

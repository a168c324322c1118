import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import type { IncomingMessage } from 'node:http'
import { get } from 'node:https'
import { join } from 'node:path'
import { before, describe, test, type TestContext } from 'node:test'
import { clientEdgesPath, parseClientEdges } from '../../../shared/discovery/client-edges.ts'
import { identityFiles } from '../../../shared/replication/identity-files.ts'
import { createRule } from '../../kit/api.ts'
import { waitFor } from '../../kit/clock.ts'
import { startFakeConsul, type FakeConsul } from '../../kit/consul.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { blobsOf, createImage, pushImage } from '../../kit/images.ts'

const ids = ['a', 'b', 'c'] as const
let stand: FedStand
let edges: readonly TestEdge[] = []
let consul: FakeConsul

before(async (t) => {
  const after = t as unknown as TestContext
  stand = await startFedStand(after, {
    scopes: { a: ['*'], b: ['*'], c: ['*'], narrow: ['library'] },
    primary: { client_edges: ['127.0.0.*'] },
  })
  const api = stand.primary.client(stand.primary.admin)
  await stand.primary.createProject('secret', { isPublic: false })
  for (const id of [...ids, 'narrow']) {
    const answer = await api.request('PUT', `/api/v2.0/edges/${id}`, {
      body: Buffer.from(JSON.stringify({ site: 'rack' })),
      headers: { 'Content-Type': 'application/json' },
    })
    assert.equal(answer.status, 200)
  }
  consul = await startFakeConsul(after)
  const edge = { peers: { port: 0 }, consul: { address: consul.url.origin } }
  // Clients are not sent to a host that nobody named.
  const urls = { a: 'http://127.0.0.1:0', b: 'http://localhost:0', c: undefined }
  edges = await Promise.all(
    ids.map((id) => {
      const external_url = urls[id]
      return stand.startEdge(after, {
        id,
        edge: { ...edge, ...(external_url && { external_url }) },
      })
    }),
  )
  // Each tells where it is with its first lease, and hears of the others by the log.
  await waitFor('the roster', async () => {
    const rows = await stand.primary.records.selectFrom('edges').select('peer_url').execute()
    return rows.filter(({ peer_url }) => peer_url !== '').length === ids.length
  })
  const { seq } = await stand.primary.records
    .selectFrom('event_head')
    .select('seq')
    .executeTakeFirstOrThrow()
  for (const edge of edges)
    await waitFor(
      'the roster at an edge',
      async () => (await edge.metric('outport_edge_log_seq')) >= seq,
    )
})

/** How many blobs and manifests the primary has given since. */
const given = (from: number) =>
  stand.primaryLog
    .slice(from)
    .filter(
      ({ method, status, route }) =>
        method === 'GET' && status === 200 && (route === 'manifest' || route === 'blob'),
    ).length

/** A request by the certificate of an edge. @returns the status */
async function askAsEdge(
  { data }: TestEdge,
  {
    url,
    path,
    headers,
  }: {
    readonly url: string
    readonly path: string
    readonly headers: Readonly<Record<string, string>>
  },
): Promise<number | undefined> {
  const read = (name: string) => readFile(join(data, 'edge/own-identity', name))
  const [key, cert, ca] = await Promise.all([
    read(identityFiles.key),
    read(identityFiles.certificate),
    read(identityFiles.edgeCa),
  ])
  const asked = get(new URL(path, url), {
    ...{ key, cert, ca, headers },
    checkServerIdentity: () => undefined,
  })
  const [answer] = (await once(asked, 'response')) as [IncomingMessage]
  answer.resume()
  await once(answer, 'end')
  return answer.statusCode
}

test('the primary tells clients of the edges on hosts that its administrator named', async () => {
  const ask = async () =>
    parseClientEdges(await (await fetch(new URL(clientEdgesPath, stand.primary.url))).json())
  const [one] = edges
  const listed = await waitFor('the edge', async () => {
    const found = await ask()
    return found.length > 0 && found
  })
  assert.deepEqual(listed, [{ id: 'a', url: one?.url.origin, site: 'rack', region: undefined }])
})

describe('a site', () => {
  test('fetches what all its edges are asked for once', async () => {
    const image = createImage({ seed: 'once', layers: 4, layerBytes: 200_000 })
    await pushImage(stand.primary.client(stand.primary.admin), 'secret/app', image, 'v1')
    const from = stand.primaryLog.length
    await Promise.all(
      edges.map(async (edge) => {
        const client = edge.client(stand.primary.admin, 'bearer')
        const manifest = await client.request('GET', '/v2/secret/app/manifests/v1')
        assert.equal(manifest.headers['docker-content-digest'], image.manifest.digest)
        for (const { digest, bytes } of blobsOf(image)) {
          const blob = await client.request('GET', `/v2/secret/app/blobs/${digest}`)
          assert.deepEqual(blob.body, bytes)
        }
      }),
    )
    assert.equal(given(from), blobsOf(image).length + 1, 'each blob and the manifest, once')
    const pulls = async () =>
      (await stand.primary.records.selectFrom('repositories').select('pull_count').execute())
        .map(({ pull_count }) => pull_count)
        .join(' ')
    await waitFor('the pulls', async () => (await pulls()) >= '3')
    assert.equal(await pulls(), '3', 'what clients pulled at each, and not what edges fetched')
    const sent = await Promise.all(
      edges.map((edge) => edge.metric('outport_edge_peer_bytes_total')),
    )
    assert.ok(sent.reduce((sum, bytes) => sum + bytes, 0) > 0)
  })

  test('answers another edge that wants only what is held, and fetches nothing for it', async () => {
    const image = createImage({ seed: 'held by one' })
    await pushImage(stand.primary.client(stand.primary.admin), 'secret/app', image, 'held')
    const [one, other] = edges
    assert.ok(one && other)
    const { peer_url: url } = await stand.primary.records
      .selectFrom('edges')
      .select('peer_url')
      .where('id', '=', 'b')
      .executeTakeFirstOrThrow()
    const from = stand.primaryLog.length
    const path = `/v2/primary/secret/app/manifests/${image.manifest.digest}`
    const ask = (headers: Readonly<Record<string, string>>) =>
      askAsEdge(one, { url, path, headers })
    const { seq } = await stand.primary.records
      .selectFrom('event_head')
      .select('seq')
      .executeTakeFirstOrThrow()
    await waitFor(
      'the repository at the edge',
      async () => (await other.metric('outport_edge_log_seq')) >= seq,
    )
    assert.equal(await ask({ 'cache-control': 'only-if-cached' }), 404)
    assert.equal(given(from), 0)
    assert.equal(await ask({}), 200)
    assert.equal(await ask({ 'cache-control': 'only-if-cached' }), 200)
    assert.equal(given(from), 1)
  })

  test('shares out what a rule brings to all of its edges', async () => {
    const api = stand.primary.client(stand.primary.admin)
    await createRule(api, { name: 'rack', repositories: 'secret/big', sites: ['rack'] })
    const received = async (edge: TestEdge, upstream: string) =>
      edge.metric('outport_edge_upstream_bytes_total', { upstream })
    const before = await Promise.all(edges.map((edge) => received(edge, 'primary')))
    const layerBytes = 9 * 2 ** 20
    await pushImage(api, 'secret/big', createImage({ seed: 'big', layers: 1, layerBytes }), 'v1')
    for (const edge of edges)
      await waitFor(
        'the blob',
        async () => (await edge.metric('outport_edge_cache_bytes')) > layerBytes,
      )
    const from = await Promise.all(
      edges.map(async (edge, n) => (await received(edge, 'primary')) - (before[n] ?? 0)),
    )
    const sum = from.reduce((all, bytes) => all + bytes, 0)
    assert.ok(sum < 1.1 * layerBytes, `the primary gave ${sum} bytes`)
    for (const bytes of from) assert.ok(bytes >= 2 ** 20, 'each edge is the home of some')
  })

  test('goes on when one of its edges is gone', async () => {
    const [, , gone] = edges
    const watches = () =>
      consul.requests.filter(({ path }) => path === '/v1/health/service/outport-edge').length
    const before = watches()
    await gone?.stop()
    // What they are told ends a watch each, and each asks again.
    await waitFor('the others to know', () => watches() >= before + 2)
    const from = stand.primaryLog.length
    const image = createImage({ seed: 'without one', layers: 6, layerBytes: 100_000 })
    await pushImage(stand.primary.client(stand.primary.admin), 'secret/app', image, 'v2')
    for (const edge of edges.slice(0, 2)) {
      const client = edge.client(stand.primary.admin, 'bearer')
      await client.request('GET', '/v2/secret/app/manifests/v2')
      for (const { digest, bytes } of blobsOf(image)) {
        const blob = await client.request('GET', `/v2/secret/app/blobs/${digest}`)
        assert.deepEqual(blob.body, bytes)
      }
    }
    assert.equal(given(from), blobsOf(image).length + 1, 'they agree who is the home now')
  })

  test('gives an edge nothing of a project that it may not read', async (t) => {
    const narrow = await stand.startEdge(t, { id: 'narrow' })
    const image = createImage({ seed: 'not for all' })
    await pushImage(stand.primary.client(stand.primary.admin), 'secret/app', image, 'v3')
    const client = narrow.client(stand.primary.admin, 'bearer')
    const answer = await client.request('GET', '/v2/secret/app/manifests/v3')
    assert.equal(answer.status, 401)
  })
})

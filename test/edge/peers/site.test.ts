import assert from 'node:assert/strict'
import { before, describe, test, type TestContext } from 'node:test'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { blobsOf, createImage, pushImage } from '../../kit/images.ts'

const ids = ['a', 'b', 'c'] as const
let stand: FedStand
let edges: readonly TestEdge[] = []

before(async (t) => {
  const after = t as unknown as TestContext
  stand = await startFedStand(after, {
    scopes: { a: ['*'], b: ['*'], c: ['*'], narrow: ['library'] },
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
  edges = await Promise.all(
    ids.map((id) => stand.startEdge(after, { id, edge: { peers: { port: 0 } } })),
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
    const sent = await Promise.all(
      edges.map((edge) => edge.metric('outport_edge_peer_bytes_total')),
    )
    assert.ok(sent.reduce((sum, bytes) => sum + bytes, 0) > 0)
  })

  test('shares out what a rule brings to all of its edges', async () => {
    const api = stand.primary.client(stand.primary.admin)
    const post = async (path: string, body: object): Promise<number> => {
      const answer = await api.request('POST', `/api/v2.0${path}`, {
        body: Buffer.from(JSON.stringify(body)),
        headers: { 'Content-Type': 'application/json' },
      })
      assert.equal(answer.status, 201)
      return Number(answer.headers['location']?.split('/').at(-1))
    }
    const selector = { sites: ['rack'] }
    const id = await post('/registries', { name: 'rack', type: 'outport-edges', selector })
    await post('/replication/policies', {
      name: 'rack',
      dest_registry: { id },
      enabled: true,
      override: true,
      trigger: { type: 'event_based' },
      filters: [{ type: 'name', value: 'secret/big' }],
    })
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
    await gone?.stop()
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

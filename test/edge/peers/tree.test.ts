import assert from 'node:assert/strict'
import { before, describe, test, type TestContext } from 'node:test'
import { readVia } from '../../../edge/sources/hops.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { blobsOf, createImage, pushImage } from '../../kit/images.ts'
import { blobsGiven, startPeerStand, type PeerStand } from '../../kit/peers.ts'

let world: PeerStand<'leaf' | 'left' | 'right'>

before(async (t) => {
  world = await startPeerStand(t as unknown as TestContext, {
    leaf: { site: 'leaf', edge: { parent: { id: 'left' } } },
    left: { site: 'left', edge: { peers: { port: 0, children: true }, parent: { id: 'right' } } },
    right: { site: 'right', edge: { peers: { port: 0, children: true }, parent: { id: 'left' } } },
  })
  await world.stand.primary.createProject('secret', { isPublic: false })
})

/** Pulls all that an image has, and says how many of its blobs the primary gave for that. */
async function pullAll(edge: TestEdge, seed: string, isPushed = true): Promise<number> {
  const { stand } = world
  const image = createImage({ seed, layers: 3, layerBytes: 200_000 })
  if (isPushed)
    await pushImage(stand.primary.client(stand.primary.admin), 'secret/app', image, 'v1')
  const from = stand.primaryLog.length
  const client = edge.client(stand.primary.admin, 'bearer')
  await client.request('GET', '/v2/secret/app/manifests/v1')
  for (const { digest, bytes } of blobsOf(image)) {
    const blob = await client.request('GET', `/v2/secret/app/blobs/${digest}`)
    assert.deepEqual(blob.body, bytes)
  }
  return blobsGiven(stand, from)
}

describe('edges as a tree', () => {
  test('a miss is asked of the parent, and parents in a circle ask the upstream once', async () => {
    const { leaf, left, right } = world.edges
    assert.equal(await pullAll(leaf, 'by the parent'), 4)
    for (const edge of [left, right])
      assert.ok((await edge.metric('outport_edge_peer_bytes_total')) > 600_000)
    const looped = { route: 'blob', method: 'GET', status: '5xx' }
    assert.equal(await left.metric('outport_http_requests_total', looped), 4)
    assert.equal(await right.metric('outport_http_requests_total', looped), 0)
    assert.equal(await pullAll(left, 'by the parent', false), 0)
  })
})

describe('the way that a request came', () => {
  const from = (via: string | undefined) => readVia(via, { asker: 'b', me: 'c' })
  const statusOf = (via: string): unknown => {
    try {
      return from(via)
    } catch (error) {
      return error instanceof OciError ? error.status : error
    }
  }

  test('ends with who asks, by its certificate', () => {
    assert.deepEqual(from(undefined), ['b'])
    assert.deepEqual(from('a, b'), ['a', 'b'])
    assert.deepEqual(from('a, x'), ['a', 'x', 'b'])
  })

  test('is refused when it is a circle, endless, or none', () => {
    assert.equal(statusOf('a, c, b'), 508)
    assert.equal(statusOf(Array.from({ length: 9 }, (_, n) => `e${n}`).join(',')), 508)
    assert.equal(statusOf('a, https://example.com'), 400)
    assert.equal(statusOf('a,'.repeat(200)), 400)
  })
})

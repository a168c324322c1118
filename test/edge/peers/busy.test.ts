import assert from 'node:assert/strict'
import { before, describe, test, type TestContext } from 'node:test'
import type { Digest } from '../../../shared/oci/digest.ts'
import { createHomes } from '../../../shared/site/home.ts'
import { waitFor } from '../../kit/clock.ts'
import { blobsOf, createImage, pushImage } from '../../kit/images.ts'
import { blobsGiven, startPeerStand, type PeerStand } from '../../kit/peers.ts'

const site = ['a', 'b', 'c'] as const
type Id = (typeof site)[number] | 'below'
let world: PeerStand<Id>

before(async (t) => {
  const peers = { port: 0, uploads: 1, upload_rate: '2MiB', children: true }
  const edge = { peers }
  world = await startPeerStand(t as unknown as TestContext, {
    a: { site: 'rack', edge },
    b: { site: 'rack', edge },
    c: { site: 'rack', edge },
    below: { site: 'branch', edge: { parent: { id: 'a' } } },
  })
  await world.stand.primary.createProject('secret', { isPublic: false })
})

/** Pushes an image with one layer of so many bytes. */
async function pushed(seed: string, layerBytes: number) {
  const image = createImage({ seed, layers: 1, layerBytes })
  const { primary } = world.stand
  await pushImage(primary.client(primary.admin), 'secret/app', image, seed)
  const layer = blobsOf(image).find(({ bytes }) => bytes.length >= layerBytes)
  assert.ok(layer)
  return layer
}

const pull = (id: Id, digest: Digest) =>
  world.edges[id]
    .client(world.stand.primary.admin, 'bearer')
    .request('GET', `/v2/secret/app/blobs/${digest}`)

/** The home of a digest in the site, and the others. */
function homeOf(digest: Digest) {
  const [home, first, second] = createHomes(site.map((id) => ({ id }))).rank({ digest })
  assert.ok(home && first && second)
  return { home: home.id, first: first.id, second: second.id }
}

const sentBy = (id: Id) => world.edges[id].metric('outport_edge_peer_bytes_total')

describe('a site under load', () => {
  test('whoever finds the home busy gets the blob from who is receiving it', async () => {
    const { digest, bytes } = await pushed('busy', 3_000_000)
    const { home, first, second } = homeOf(digest)
    const from = world.stand.primaryLog.length
    const one = pull(first, digest)
    await waitFor(
      'the first to receive it',
      async () => (await world.edges[first].metric('outport_edge_fills_running')) === 1,
    )
    const other = await pull(second, digest)
    assert.deepEqual(other.body, bytes)
    assert.deepEqual((await one).body, bytes)
    assert.equal(blobsGiven(world.stand, from), 1)
    for (const id of [home, first]) assert.equal(await sentBy(id), bytes.length)
  })

  test('a parent that ends in the middle is passed by at the same byte', async () => {
    const { digest, bytes } = await pushed('cut', 3_000_000)
    assert.deepEqual((await pull('a', digest)).body, bytes)
    const from = world.stand.primaryLog.length
    const client = pull('below', digest)
    const received = () =>
      world.edges.below.metric('outport_edge_upstream_bytes_total', { upstream: 'peers' })
    await waitFor('some of it', async () => (await received()) > 500_000)
    await world.edges.a.stop()
    assert.deepEqual((await client).body, bytes)
    assert.equal(blobsGiven(world.stand, from), 1)
    assert.ok((await received()) < bytes.length)
  })
})

import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { waitFor } from '../../kit/clock.ts'
import { restartTestEdge, startTestEdge, type TestEdge } from '../../kit/edge.ts'
import { blobsOf, createImage, createIndex, manifestsOf, type Image } from '../../kit/images.ts'
import { offerImage, startUpstream, type Upstream } from '../../kit/upstream.ts'

const mebibyte = 2 ** 20

interface World {
  readonly upstream: Upstream
  readonly edge: TestEdge
  restart(): Promise<World>
}

/** An edge with room for 16 MiB, and some images pinned. */
async function startWorld(t: TestContext, pins: readonly object[]): Promise<World> {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  const options = {
    edge: {
      upstreams: [{ id: 'docker.io', url: upstream.url.origin, tag_ttl: '0s' }],
      cache: { size: '16MiB', memory: '64KiB', pins },
    },
  }
  const worldOf = (edge: TestEdge): World => ({
    upstream,
    edge,
    restart: async () => worldOf(await restartTestEdge(t, edge, options)),
  })
  return worldOf(await startTestEdge(t, options))
}

const layerOf = (seed: string): Image => createImage({ seed, layers: 1, layerBytes: 2 * mebibyte })

function offer({ upstream }: World, repository: string, tag: string, image: Image): void {
  offerImage(upstream, { repository, tag }, image)
}

/** Pulls an image as a client does: its tag, and then all that it is made of. */
async function pull({ edge }: World, path: string, image: Image): Promise<void> {
  const get = async (rest: string) => {
    const { status } = await edge.mirrorClient().request('GET', `/v2/${path.split(':')[0]}/${rest}`)
    assert.equal(status, 200, rest)
  }
  await get(`manifests/${path.split(':')[1]}`)
  for (const { digest } of manifestsOf(image)) await get(`manifests/${digest}`)
  for (const { digest } of blobsOf(image)) await get(`blobs/${digest}`)
}

async function pullOthers(world: World, count = 12, name = 'other'): Promise<void> {
  for (let n = 0; n < count; n++) {
    const image = layerOf(`${name} ${n}`)
    offer(world, `library/${name}`, `v${n}`, image)
    await pull(world, `library/${name}:v${n}`, image)
  }
  await waitFor(
    'some to go',
    async () => (await world.edge.metric('outport_edge_evicted_blobs_total')) > 0,
  )
}

/** Whether the image is here whole, with no upstream to ask. */
async function isHeld(world: World, path: string, image: Image): Promise<boolean> {
  await world.upstream.down()
  try {
    await pull(world, path, image)
    return true
  } catch {
    return false
  } finally {
    await world.upstream.up()
  }
}

/** Pulls others until this image's layer has gone: what was slow to fetch stays longer. */
async function pushOut(world: World, path: string, image: Image): Promise<void> {
  const [repository] = path.split(':')
  const layer = blobsOf(image).find(({ bytes }) => bytes.length === 2 * mebibyte)
  assert.ok(layer)
  const isThere = async (): Promise<boolean> => {
    await world.upstream.down()
    try {
      // It is no use of it.
      const { status } = await world.edge
        .mirrorClient()
        .request('HEAD', `/v2/${repository}/blobs/${layer.digest}`)
      return status === 200
    } finally {
      await world.upstream.up()
    }
  }
  for (let round = 1; await isThere(); round++) {
    assert.ok(round <= 10, 'it never goes')
    await pullOthers(world, 12, `round-${round}`)
  }
}

test('what a pinned tag names stays, whoever needs room, and after a restart', async (t) => {
  let world = await startWorld(t, [{ upstream: 'docker.io', repository: 'library/base' }])
  const index = createIndex({ children: [layerOf('amd64'), layerOf('arm64')] })
  const loose = layerOf('loose')
  offer(world, 'library/base', 'latest', index)
  offer(world, 'library/loose', 'latest', loose)
  await pull(world, 'library/base:latest', index)
  await pull(world, 'library/loose:latest', loose)
  await pushOut(world, 'library/loose:latest', loose)
  world = await world.restart()
  await pullOthers(world, 12, 'behind')
  world = await world.restart()
  assert.ok(await isHeld(world, 'library/base:latest', index))
  assert.ok(!(await isHeld(world, 'library/loose:latest', loose)))
  const pinned = await world.edge.metric('outport_edge_cache_pinned_bytes')
  assert.ok(pinned > 4 * mebibyte && pinned < 5 * mebibyte, String(pinned))
})

test('what a pinned tag has moved away from goes, but for what its new image has too', async (t) => {
  const world = await startWorld(t, [{ upstream: 'docker.io', repository: 'library/**' }])
  const before = createImage({ seed: 'app', layers: 2, layerBytes: 2 * mebibyte })
  offer(world, 'library/app', 'latest', before)
  await pull(world, 'library/app:latest', before)
  const pinnedBytes = () => world.edge.metric('outport_edge_cache_pinned_bytes')
  await waitFor('all to be pinned', async () => (await pinnedBytes()) > 4 * mebibyte)
  // Of the same seed, it has the first of these layers.
  const after = createImage({ seed: 'app', layers: 1, layerBytes: 2 * mebibyte })
  offer(world, 'library/app', 'latest', after)
  await pull(world, 'library/app:latest', after)
  await waitFor('one layer to be let go', async () => (await pinnedBytes()) < 3 * mebibyte)
  assert.ok((await pinnedBytes()) > 2 * mebibyte)
})

test('pins of more than their part of the cache leave room for others', async (t) => {
  const world = await startWorld(t, [{ upstream: 'docker.io', repository: 'library/other' }])
  await pullOthers(world, 12)
  const { metric } = world.edge
  const capacity = await metric('outport_edge_cache_capacity_bytes')
  await waitFor(
    'the pins to be within their part',
    async () => (await metric('outport_edge_cache_pinned_bytes')) <= 0.8 * capacity,
  )
  const late = layerOf('late')
  offer(world, 'library/late', 'latest', late)
  await pull(world, 'library/late:latest', late)
  await waitFor('it to be stored', () => isHeld(world, 'library/late:latest', late))
})

test('of a repository only the references that are named are pinned', async (t) => {
  const [kept, byDigest, loose] = ['kept', 'by digest', 'loose'].map(layerOf)
  assert.ok(kept && byDigest && loose)
  const references = ['v1', byDigest.manifest.digest]
  const world = await startWorld(t, [
    { upstream: 'docker.io', repository: 'library/app', references },
  ])
  offer(world, 'library/app', 'v1', kept)
  offer(world, 'library/app', 'v2', byDigest)
  offer(world, 'library/app', 'v3', loose)
  await pull(world, 'library/app:v1', kept)
  await pull(world, 'library/app:v2', byDigest)
  await pull(world, 'library/app:v3', loose)
  await pushOut(world, 'library/app:v3', loose)
  assert.ok(await isHeld(world, 'library/app:v1', kept))
  assert.ok(await isHeld(world, 'library/app:v2', byDigest))
})

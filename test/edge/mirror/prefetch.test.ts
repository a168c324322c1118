import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import type { Digest } from '../../../shared/oci/digest.ts'
import { waitFor } from '../../kit/clock.ts'
import { restartTestEdge, startTestEdge, type TestEdge } from '../../kit/edge.ts'
import { blobsOf, createImage, createIndex, type Image } from '../../kit/images.ts'
import { offerImage, startUpstream, type Upstream } from '../../kit/upstream.ts'

interface World {
  readonly upstream: Upstream
  readonly edge: TestEdge
  restart(): Promise<World>
}

async function startWorld(t: TestContext, prefetch: string, limits: object = {}): Promise<World> {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  const options = {
    edge: { upstreams: [{ id: 'docker.io', url: upstream.url.origin, prefetch, limits }] },
  }
  const worldOf = (edge: TestEdge): World => ({
    upstream,
    edge,
    restart: async () => worldOf(await restartTestEdge(t, edge, options)),
  })
  return worldOf(await startTestEdge(t, options))
}

function offer({ upstream }: World, name: string, image: Image): void {
  offerImage(upstream, { repository: `library/${name}`, tag: 'v1' }, image)
}

async function ask({ edge }: World, path: string, method = 'GET'): Promise<void> {
  const { status } = await edge.mirrorClient().request(method, `/v2/library/${path}`)
  assert.equal(status, 200, path)
}

/** An index of an image for amd64 and one for arm64. */
function indexOf(seed: string) {
  const amd64 = createImage({ seed: `${seed} amd64`, layers: 3, layerBytes: 300_000 })
  const arm64 = createImage({ seed: `${seed} arm64`, layers: 3, layerBytes: 300_000 })
  return { amd64, arm64, index: createIndex({ children: [amd64, arm64] }) }
}

const digestsOf = (image: Image): Digest[] => [
  image.manifest.digest,
  ...blobsOf(image).map(({ digest }) => digest),
]

async function arrived(world: World, image: Image): Promise<void> {
  const { upstream, edge } = world
  const count = digestsOf(image).length - 1
  await waitFor('all of it to be asked for', () =>
    Promise.resolve(blobsOf(image).every(({ digest }) => upstream.delivered(digest).gets > 0)),
  )
  await waitFor(
    'all of it to be held',
    async () => (await edge.metric('outport_edge_prefetched_total', { outcome: 'held' })) >= count,
  )
}

/** Whatever was begun is over by then: a request that is asked for later is answered. */
async function assertUnasked(world: World, image: Image): Promise<void> {
  await ask(world, 'marker/manifests/v1')
  const gets = digestsOf(image).map((digest) => world.upstream.delivered(digest).gets)
  assert.ok(
    gets.every((count) => count === 0),
    String(gets),
  )
}

test('all that a new manifest names is here before anybody asks for it', async (t) => {
  const world = await startWorld(t, 'on')
  const { index, amd64, arm64 } = indexOf('app')
  offer(world, 'app', index)
  await ask(world, 'app/manifests/v1')
  await arrived(world, amd64)
  await arrived(world, arm64)
  await waitFor('everything', async () => {
    const held = await world.edge.metric('outport_edge_prefetched_total', { outcome: 'held' })
    return held === 2 + 8
  })
  await world.upstream.down()
  for (const image of [amd64, arm64]) {
    await ask(world, `app/manifests/${image.manifest.digest}`)
    for (const { digest } of blobsOf(image)) await ask(world, `app/blobs/${digest}`)
  }
})

test('a HEAD is no pull: what its manifest names is fetched when a client gets that', async (t) => {
  const world = await startWorld(t, 'on')
  const { index, amd64 } = indexOf('app')
  offer(world, 'app', index)
  offer(world, 'marker', createImage({ seed: 'marker', layers: 0 }))
  await ask(world, 'app/manifests/v1', 'HEAD')
  await assertUnasked(world, amd64)
  await ask(world, `app/manifests/${index.manifest.digest}`)
  await arrived(world, amd64)
})

test('of an index the platforms count that were served before, also after a restart', async (t) => {
  let world = await startWorld(t, 'platforms')
  const first = indexOf('first')
  offer(world, 'first', first.index)
  offer(world, 'marker', createImage({ seed: 'marker', layers: 0 }))
  await ask(world, 'first/manifests/v1')
  await assertUnasked(world, first.arm64)
  // A client of arm64, which now tells what its layers are.
  await ask(world, `first/manifests/${first.arm64.manifest.digest}`)
  await arrived(world, first.arm64)
  for (const name of ['second', 'third']) {
    const next = indexOf(name)
    offer(world, name, next.index)
    await ask(world, `${name}/manifests/v1`)
    await arrived(world, next.arm64)
    await assertUnasked(world, next.amd64)
    world = await world.restart()
  }
})

test('nothing is fetched ahead when nobody said so', async (t) => {
  const world = await startWorld(t, 'off')
  const { amd64 } = indexOf('app')
  offer(world, 'app', amd64)
  offer(world, 'marker', createImage({ seed: 'marker', layers: 0 }))
  await ask(world, 'app/manifests/v1')
  const blobs = { ...amd64, manifest: createImage({ seed: 'none' }).manifest }
  await assertUnasked(world, blobs)
})

test('a client goes before all that is to be fetched ahead', async (t) => {
  const world = await startWorld(t, 'on', { connections: 1 })
  const { upstream, edge } = world
  const image = createImage({ seed: 'app', layers: 6, layerBytes: 200_000 })
  const other = createImage({ seed: 'other', layers: 1, layerBytes: 200_000 })
  offer(world, 'app', image)
  offer(world, 'other', other)
  const wanted = other.blobs[1]
  assert.ok(wanted)
  upstream.setPace(2_000_000)
  await ask(world, 'app/manifests/v1')
  await ask(world, `other/blobs/${wanted.digest}`)
  const held = await edge.metric('outport_edge_prefetched_total', { outcome: 'held' })
  assert.ok(held < 7, `the client waited for ${held} others`)
  upstream.setPace(undefined)
  await arrived(world, image)
})

test('what fails is nobody else’s trouble, and its client may still have it', async (t) => {
  const world = await startWorld(t, 'on')
  const image = createImage({ seed: 'app', layers: 1, layerBytes: 100_000 })
  offer(world, 'app', image)
  const [config, layer] = image.blobs
  assert.ok(config && layer)
  const { upstream, edge } = world
  const heal = upstream.fault({ digest: layer.digest }, { status: 404 })
  await ask(world, 'app/manifests/v1')
  await waitFor(
    'the layer to fail',
    async () => (await edge.metric('outport_edge_prefetched_total', { outcome: 'failed' })) === 1,
  )
  heal()
  await ask(world, `app/blobs/${layer.digest}`)
  assert.equal(upstream.delivered(config.digest).gets, 1)
})

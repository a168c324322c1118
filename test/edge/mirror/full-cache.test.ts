import assert from 'node:assert/strict'
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import type { Digest } from '../../../shared/oci/digest.ts'
import { mediaTypes } from '../../../shared/oci/media-types.ts'
import { waitFor } from '../../kit/clock.ts'
import { restartTestEdge, startTestEdge, type TestEdge } from '../../kit/edge.ts'
import { bytesOf } from '../../kit/images.ts'
import { startUpstream, type Upstream } from '../../kit/upstream.ts'

const mebibyte = 2 ** 20
const cacheBytes = 8 * mebibyte

interface World {
  readonly upstream: Upstream
  readonly edge: TestEdge
  /** Starts the edge again: for a moment after its end a fill keeps its file, for those who still come to it. */
  restart(): Promise<World>
}

/** An edge with room for 8 MiB, which mirrors one open registry. */
async function startWorld(t: TestContext): Promise<World> {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  const options = {
    edge: {
      upstreams: [{ id: 'docker.io', url: upstream.url.origin, tag_ttl: '0s' }],
      // Nothing is to be served from memory that is not on the disk.
      cache: { size: '8MiB', memory: '64KiB' },
    },
  }
  const worldOf = (edge: TestEdge): World => ({
    upstream,
    edge,
    restart: async () => worldOf(await restartTestEdge(t, edge, options)),
  })
  return worldOf(await startTestEdge(t, options))
}

function addLayer({ upstream }: World, seed: string, bytes: number) {
  const content = bytesOf(seed, bytes)
  return { content, digest: upstream.addBlob('library/app', content) }
}

async function pull({ edge }: World, digest: Digest): Promise<Buffer> {
  const answer = await edge.mirrorClient().request('GET', `/v2/library/app/blobs/${digest}`)
  assert.equal(answer.status, 200)
  return answer.body
}

async function bytesOnDisk({ edge }: World): Promise<number> {
  const entries = await readdir(join(edge.data, 'edge'), { recursive: true, withFileTypes: true })
  const blobs = entries.filter(
    (entry) => entry.isFile() && /\/(blobs|parts)/.test(entry.parentPath),
  )
  const sizes = blobs.map(async ({ parentPath, name }) => {
    // One may go while they are counted.
    const found = await stat(join(parentPath, name)).catch(() => undefined)
    return found?.size ?? 0
  })
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0)
}

test('more than fits is served, and the cache stays within its size', async (t) => {
  let world = await startWorld(t)
  const layers = Array.from({ length: 12 }, (_, n) => addLayer(world, `layer ${n}`, mebibyte))
  const pullAll = async (): Promise<void> => {
    for (const [n, { digest, content }] of layers.entries()) {
      assert.ok((await pull(world, digest)).equals(content))
      assert.ok((await bytesOnDisk(world)) <= cacheBytes)
      if (n % 4 === 3) world = await world.restart()
    }
  }
  await pullAll()
  const { upstream, edge } = world
  assert.equal(await edge.metric('outport_edge_cache_capacity_bytes'), cacheBytes)
  const held = await edge.metric('outport_edge_cache_blobs')
  assert.ok(held >= 6 && held <= 7, `${held} are held`)
  // What went is fetched again, and right.
  await pullAll()
  const gets = layers.map(({ digest }) => upstream.delivered(digest).gets)
  assert.ok(gets.includes(2) && gets.every((count) => count <= 2), String(gets))
})

test('a blob that is larger than the cache is passed on whole, with one warning and a metric', async (t) => {
  const world = await startWorld(t)
  const { edge } = world
  const small = addLayer(world, 'small', mebibyte)
  await pull(world, small.digest)
  const large = addLayer(world, 'large', 2 * cacheBytes)
  for (let times = 0; times < 2; times++)
    assert.ok((await pull(world, large.digest)).equals(large.content))
  assert.equal(await edge.metric('outport_edge_cache_failing'), 1)
  const warnings = edge.log.filter(({ msg }) => msg?.startsWith('the cache cannot be written'))
  assert.equal(warnings.length, 1)
  // Nothing had to go for it.
  await world.upstream.down()
  assert.ok((await pull(world, small.digest)).equals(small.content))
})

test('when a tag moves, the layers of its old image go before others', async (t) => {
  let world = await startWorld(t)
  const { upstream } = world
  const [base, old, other] = ['base', 'old', 'other'].map((seed) =>
    addLayer(world, seed, 2 * mebibyte),
  )
  assert.ok(base && old && other)
  const tagImage = (...layers: (typeof base)[]) =>
    upstream.addManifest(
      'library/app',
      {
        schemaVersion: 2,
        mediaType: mediaTypes.ociManifest,
        config: {
          mediaType: 'application/vnd.oci.image.config.v1+json',
          digest: base.digest,
          size: 2 * mebibyte,
        },
        layers: layers.map(({ digest }) => ({
          mediaType: 'application/vnd.oci.image.layer.v1.tar',
          digest,
          size: 2 * mebibyte,
        })),
      },
      { tag: 'latest' },
    )
  const resolve = () => world.edge.mirrorClient().request('GET', '/v2/library/app/manifests/latest')
  tagImage(base, old)
  assert.equal((await resolve()).status, 200)
  for (const { digest } of [base, old, old, old]) await pull(world, digest)
  await pull(world, other.digest)
  tagImage(base)
  assert.equal((await resolve()).status, 200)
  // What is done behind an answer is done when it has stopped.
  world = await world.restart()
  const { edge } = world
  const next = addLayer(world, 'next', 2 * mebibyte)
  await pull(world, next.digest)
  await waitFor(
    'one to go',
    async () => (await edge.metric('outport_edge_evicted_blobs_total')) > 0,
  )
  await upstream.down()
  const again = await world.restart()
  for (const { digest } of [base, other, next]) await pull(again, digest)
  const gone = await again.edge.mirrorClient().request('GET', `/v2/library/app/blobs/${old.digest}`)
  assert.notEqual(gone.status, 200)
})

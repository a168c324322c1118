import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { readdir, rm } from 'node:fs/promises'
import { connect, createServer, type AddressInfo } from 'node:net'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { test, type TestContext } from 'node:test'
import { openCacheIndex } from '../../../edge/cache/cache-index.ts'
import { createDiskHealth } from '../../../edge/cache/disk-health.ts'
import { digestOf, type Digest } from '../../../shared/oci/digest.ts'
import { createTestClock, waitFor } from '../../kit/clock.ts'
import { startTestEdge, type TestEdge } from '../../kit/edge.ts'
import { only, readFrom, withFills } from '../../kit/fill.ts'
import { createRecordingLog } from '../../kit/http-server.ts'
import { bytesOf } from '../../kit/images.ts'
import { mountSmallDisk, noSmallDisk, type SmallDisk } from '../../kit/mounts.ts'
import type { Answer } from '../../kit/registry-client.ts'
import { createScriptedSource } from '../../kit/source.ts'
import { tempFolder } from '../../kit/temp.ts'
import { addImage, startUpstream, type Upstream } from '../../kit/upstream.ts'

// A disk that fails under a running edge. What a fill does with a failing sink: test/shared/fill/fill.test.ts.

const mebibyte = 2 ** 20
const app = 'library/app'
const failing = 'outport_edge_cache_failing'

interface TestImage {
  readonly tag: string
  readonly manifest: Digest
  readonly layer: Digest
  readonly content: Buffer
}

interface World {
  readonly upstream: Upstream
  /** What the edge takes for the upstream. */
  readonly gate: Gate
  readonly edge: TestEdge
  /** The edge's clocks jump: it calls a disk well that has refused nothing for half a minute. */
  jump(): void
  /** Starts the edge again on what is on the disk. */
  restart(): Promise<World>
}

/** An edge with its cache under `data`, which mirrors one open registry. */
async function startWorld(t: TestContext, data: string): Promise<World> {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  const gate = await startGate(t, Number(upstream.url.port))
  const jump = jumpingClocks(t)
  const options = {
    data,
    edge: {
      upstreams: [{ id: 'docker.io', url: gate.url, tag_ttl: '0s' }],
      // No layer is to be served from memory that is not on the disk.
      cache: { memory: '64KiB' },
    },
  }
  const worldOf = (edge: TestEdge): World => ({
    upstream,
    gate,
    edge,
    jump,
    async restart() {
      await edge.stop()
      return worldOf(await startTestEdge(t, options))
    },
  })
  return worldOf(await startTestEdge(t, options))
}

interface Gate {
  readonly url: string
  /** Lets so many bytes more come from the upstream, and no others until `release`. */
  hold(afterBytes: number): { readonly isHolding: boolean; release(): void }
}

async function startGate(t: TestContext, port: number): Promise<Gate> {
  let leftBytes = Infinity
  let released = Promise.withResolvers<void>()
  const ignore = (): void => undefined
  const server = createServer((near) => {
    const far = connect(port, '127.0.0.1')
    // Either side may end whenever it likes: that is then the other's end.
    pipeline(near, far).catch(ignore)
    const held = async function* (chunks: AsyncIterable<Buffer>) {
      for await (const chunk of chunks) {
        leftBytes -= chunk.length
        if (leftBytes < 0) await released.promise
        yield chunk
      }
    }
    pipeline(far, held, near).catch(ignore)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close())
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    hold(afterBytes) {
      leftBytes = afterBytes
      released = Promise.withResolvers<void>()
      return {
        get isHolding() {
          return leftBytes < 0
        },
        release() {
          leftBytes = Infinity
          released.resolve()
        },
      }
    },
  }
}

function jumpingClocks(t: TestContext): () => void {
  let aheadMs = 0
  for (const clock of [performance, Date]) {
    const now = clock.now.bind(clock)
    t.mock.method(clock, 'now', () => now() + aheadMs)
  }
  return () => {
    aheadMs += 31_000
  }
}

/** A disk for one edge; undefined, and the test is skipped, where there can be none. */
async function diskFor(t: TestContext): Promise<SmallDisk | undefined> {
  const disk = await mountSmallDisk(24 * mebibyte)
  if (disk === undefined) {
    t.skip(noSmallDisk)
    return undefined
  }
  // Before the edge's own end, which removes its folder there.
  t.after(() => disk.setReadOnly(false))
  return disk
}

function addImages<Name extends string>(
  { upstream }: World,
  ...tags: readonly Name[]
): Record<Name, TestImage> {
  const images = tags.map((tag) => {
    const image = addImage(upstream, app, { tag, seed: tag, bytes: 2 * mebibyte + tag.length })
    return [tag, { tag, ...image }]
  })
  return Object.fromEntries(images) as Record<Name, TestImage>
}

/** @returns where the edge had it from: `disk`, or the upstream's id, also while a fill is passed on that is not kept */
async function pullLayer({ edge }: World, { layer, content }: TestImage): Promise<unknown> {
  const answer = await edge.mirrorClient().request('GET', `/v2/${app}/blobs/${layer}`)
  assert.equal(answer.status, 200)
  assert.ok(answer.body.equals(content))
  const id = answer.headers['x-request-id']
  // It is logged once it is over.
  const line = await waitFor('the request in the log', () =>
    edge.log.find(({ msg, requestId }) => msg === 'request' && requestId === id),
  )
  return line.source
}

async function pullTag({ edge }: World, { tag, manifest }: TestImage): Promise<Answer> {
  const answer = await edge.mirrorClient().request('GET', `/v2/${app}/manifests/${tag}`)
  assert.deepEqual([answer.status, answer.headers['docker-content-digest']], [200, manifest])
  return answer
}

async function pullManifest({ edge }: World, { manifest }: TestImage): Promise<void> {
  const answer = await edge.mirrorClient().request('GET', `/v2/${app}/manifests/${manifest}`)
  assert.equal(answer.status, 200)
  assert.equal(digestOf(answer.body), manifest)
}

/** As a client does: the tag, what it names, the layer. @returns as `pullLayer` */
async function pullImage(world: World, image: TestImage): Promise<unknown> {
  await pullTag(world, image)
  await pullManifest(world, image)
  return pullLayer(world, image)
}

/** What is asked for of these comes right, and is not kept: after a moment the upstream has to give it again. */
async function assertProxied(world: World, images: readonly TestImage[]): Promise<void> {
  const bytesOf = ({ layer }: TestImage) => world.upstream.delivered(layer).bytes
  for (const image of images) {
    const before = bytesOf(image)
    await waitFor('the upstream to be asked', async () => {
      await pullImage(world, image)
      return bytesOf(image) >= before + image.content.length
    })
  }
}

/** The layer comes from the disk, and nobody asks the upstream. */
async function assertHeld(world: World, image: TestImage): Promise<void> {
  world.upstream.forgetRequests()
  assert.equal(await pullLayer(world, image), 'disk')
  assert.deepEqual(world.upstream.requests, [])
}

/** What was said of the disk, and all else that went wrong. */
function troubles({ edge }: World): readonly string[] {
  return edge.log.filter(({ level }) => level === 'warn' || level === 'error').map(({ msg }) => msg)
}

const wellAgain = 'the cache can be written again'
const oneWarning = ['the cache cannot be written: blobs are passed on without being kept']

async function assertFailing(world: World): Promise<void> {
  // The client has its last byte before the fill comes to its end.
  await waitFor('the metric', async () => (await world.edge.metric(failing)) === 1)
  assert.deepEqual(troubles(world), oneWarning)
  assert.ok(!world.edge.log.some(({ msg }) => msg === wellAgain))
}

/** The disk is well: the image is stored with a next pull, and that is told of once. */
async function assertHeals(world: World, image: TestImage): Promise<void> {
  world.jump()
  await pullUntilHeld(world, image)
  assert.equal(await world.edge.metric(failing), 0)
  await assertHeld(world, image)
  assert.deepEqual(troubles(world), oneWarning)
  assert.equal(world.edge.log.filter(({ msg }) => msg === wellAgain).length, 1)
}

/** Pulls until it is held: for a moment after its end, a fill that could not be kept is there for those who come. */
async function pullUntilHeld(world: World, image: TestImage): Promise<void> {
  await waitFor(
    'the layer to come from the disk',
    async () => (await pullImage(world, image)) === 'disk',
  )
}

/** Started again while the upstream is away, the edge has the image with its tag. */
async function assertSurvives(
  world: World,
  image: TestImage,
  { withTag = true } = {},
): Promise<void> {
  await world.upstream.down()
  const again = await world.restart()
  if (withTag) assert.match((await pullTag(again, image)).headers.warning ?? '', /^110 /)
  await pullManifest(again, image)
  assert.equal(await pullLayer(again, image), 'disk')
}

/** Begins a pull, and does something while its fill stands still in the middle. */
async function pullAround(
  world: World,
  image: TestImage,
  meanwhile: () => Promise<unknown>,
): Promise<void> {
  const parts = join(world.edge.data, 'edge/parts')
  const held = world.gate.hold(mebibyte)
  const pulled = pullLayer(world, image)
  try {
    await waitFor('half a file', async () => held.isHolding && (await readdir(parts)).length > 0)
    await meanwhile()
  } finally {
    held.release()
    await pulled
  }
}

test('a disk that fills up in the middle of a fill: all is passed on, with one warning and a metric, until there is room', async (t) => {
  const disk = await diskFor(t)
  if (disk === undefined) return
  const world = await startWorld(t, join(disk.folder, 'data'))
  const images = addImages(world, 'cut', 'one', 'two', 'later')
  await pullAround(world, images.cut, () => disk.fill())
  await assertFailing(world)
  // The room that the given up fill left is taken too.
  await disk.fill()
  await assertProxied(world, [images.one, images.two, images.cut])
  // More records than the index's log has room for in its last page: its end is torn.
  for (let times = 0; times < 50; times++) await pullTag(world, images.two)
  await assertFailing(world)
  await disk.free()
  await assertHeals(world, images.later)
  await assertSurvives(world, images.later)
})

test('a disk that becomes read-only: what is held is served, all else passed on, until it can be written', async (t) => {
  const disk = await diskFor(t)
  if (disk === undefined) return
  const world = await startWorld(t, join(disk.folder, 'data'))
  const images = addImages(world, 'held', 'cut', 'one', 'two', 'later')
  await pullUntilHeld(world, images.held)
  await pullAround(world, images.cut, () => disk.setReadOnly(true))
  await assertFailing(world)
  await assertProxied(world, [images.one, images.two, images.cut])
  await assertHeld(world, images.held)
  await assertFailing(world)
  await disk.setReadOnly(false)
  await assertHeals(world, images.later)
  await assertSurvives(world, images.later)
})

for (const missing of ['parts', '.']) {
  test(`a folder that is removed in the middle of a fill (${missing}) costs that blob its place, and is made again`, async (t) => {
    const world = await startWorld(t, await tempFolder(t))
    const folder = join(world.edge.data, 'edge', missing)
    const images = addImages(world, 'held', 'cut', 'later', 'last')
    await pullUntilHeld(world, images.held)
    await pullAround(world, images.cut, () => rm(folder, { recursive: true }))
    await assertFailing(world)
    for (const image of [images.held, images.later]) await pullUntilHeld(world, image)
    await assertHeals(world, images.last)
    // With the index the tags are gone, which the upstream knows; the rest stands beside the blobs.
    await assertSurvives(world, images.last, { withTag: missing !== '.' })
  })
}

test('a folder with all that is held may be removed: it is fetched again, and nothing is told', async (t) => {
  const world = await startWorld(t, await tempFolder(t))
  const images = addImages(world, 'held', 'cut')
  await pullUntilHeld(world, images.held)
  const blobs = join(world.edge.data, 'edge/blobs')
  await pullAround(world, images.cut, () => rm(blobs, { recursive: true }))
  for (const image of [images.cut, images.held]) {
    await pullUntilHeld(world, image)
    await assertHeld(world, image)
  }
  assert.deepEqual(troubles(world), [])
  await assertSurvives(world, images.cut)
})

test('an index whose compaction failed on a full disk takes records again, and has lost none', async (t) => {
  const disk = await diskFor(t)
  if (disk === undefined) return
  const jump = jumpingClocks(t)
  const folder = join(disk.folder, 'index')
  let index = await openCacheIndex(folder)
  t.after(() => index.close())
  let count = 0
  const putOne = async (): Promise<boolean> => {
    try {
      await index.putDocument(`${count}`, randomBytes(512).toString('hex'))
      count++
      return true
    } catch {
      return false
    }
  }
  // LevelDB compacts at 4 MiB. There is room for the log then, and none for what is made of it.
  while (count < 3000) assert.ok(await putOne())
  await disk.fill(1.5 * mebibyte)
  while (await putOne()) assert.ok(count < 10_000)
  await disk.free()
  jump()
  for (let times = 0; times < 100; times++) assert.ok(await putOne())
  const assertAll = (): void => {
    for (let n = 0; n < count; n++) assert.equal(typeof index.document(`${n}`), 'string', `${n}`)
  }
  assertAll()
  await index.close()
  index = await openCacheIndex(folder)
  assertAll()
})

test('EIO of a sink, blob after blob, is one warning; half a minute after the last it is over with the next blob', async () => {
  const clock = createTestClock()
  const { log, lines } = createRecordingLog()
  const health = createDiskHealth(log, clock.now)
  await withFills({}, async ({ join, ended, disk, diskErrors }) => {
    const fillOne = async (seed: string) => {
      const content = bytesOf(seed, 2 * mebibyte)
      const reader = await join(digestOf(content), only(createScriptedSource(content)))
      assert.ok((await readFrom(reader)).equals(content))
    }
    disk.fail('write', 'EIO')
    for (const [n, seed] of ['one', 'two', 'three'].entries()) {
      await fillOne(seed)
      assert.equal((await ended(n + 1)).kind, 'unstored')
      assert.equal(diskErrors.length, n + 1)
      health.failed(diskErrors[n])
      // Small things may be written all the same.
      health.worked()
      assert.ok(health.isFailing())
      assert.match(health.refusal() ?? '', /EIO/)
      clock.advance(20_000)
    }
    disk.fail('write', 'EIO', Infinity)
    clock.advance(10_000)
    assert.equal(health.refusal(), undefined, 'clients may come, so that it is tried again')
    await fillOne('four')
    assert.equal((await ended(4)).kind, 'stored')
    health.worked()
    assert.ok(!health.isFailing())
  })
  assert.deepEqual(
    lines.map(({ msg }) => msg),
    [...oneWarning, wellAgain],
  )
})

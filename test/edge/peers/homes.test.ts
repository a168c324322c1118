import assert from 'node:assert/strict'
import { before, test, type TestContext } from 'node:test'
import { bytesOf, contentOf, pushBlob, type Content } from '../../kit/images.ts'
import { startPeerStand, waitListed, type PeerStand } from '../../kit/peers.ts'

// Blobs whose pieces are listed: each part has its home in the site.

const mib = 1024 * 1024
const ids = ['a', 'b', 'c'] as const
let world: PeerStand<(typeof ids)[number]>

before(async (t) => {
  // A home that stands still because its machine does is no slow one: who is asked instead of it fetches a part again.
  const site = { site: 'rack', edge: { peer_wait: '30s' } }
  world = await startPeerStand(
    t as unknown as TestContext,
    { a: site, b: site, c: site },
    { primary: { piece_lists: { from: '8MiB' } } },
  )
  await world.stand.primary.createProject('secret', { isPublic: false })
})

/** Pushes a blob, and waits until its list is known at all edges. */
async function listed(seed: string): Promise<Content> {
  const blob = contentOf(bytesOf(seed, 24 * mib + 5))
  const { client, admin } = world.stand.primary
  await pushBlob(client(admin), 'secret/app', blob)
  await waitListed(world.stand, blob, Object.values(world.edges))
  return blob
}

const get = (id: (typeof ids)[number], { digest }: Content) =>
  world.edges[id]
    .client(world.stand.primary.admin, 'bearer')
    .request('GET', `/v2/secret/app/blobs/${digest}`)

/** What these edges have received from the primary meanwhile. */
async function whileReceived(
  pull: () => Promise<void>,
  of: readonly (typeof ids)[number][] = ids,
): Promise<readonly number[]> {
  const fromPrimary = () =>
    Promise.all(
      of.map((id) =>
        world.edges[id].metric('outport_edge_upstream_bytes_total', { upstream: 'primary' }),
      ),
    )
  const earlier = await fromPrimary()
  await pull()
  return (await fromPrimary()).map((bytes, index) => bytes - (earlier[index] ?? 0))
}

const sumOf = (received: readonly number[]) => received.reduce((all, bytes) => all + bytes, 0)

/** More than lists of pieces. */
const some = mib
/** A part that came twice is more. */
const once = 24 * mib + 5 + some

test('each edge of the site gets some parts from the primary for the one that is asked, and they are shared', async () => {
  const blob = await listed('one asks')
  const received = await whileReceived(async () => {
    assert.deepEqual((await get('a', blob)).body, blob.bytes)
  })
  for (const bytes of received) assert.ok(bytes > some, `each has some of ${String(received)}`)
  const sum = sumOf(received)
  assert.ok(sum >= blob.bytes.length && sum < once, `${sum} bytes came from the primary`)
  const again = await whileReceived(async () => {
    for (const id of ids) assert.deepEqual((await get(id, blob)).body, blob.bytes)
  })
  assert.ok(again.every((bytes) => bytes < some))
})

test('when all are asked at once the site gets one copy from the primary', async () => {
  const blob = await listed('all ask')
  const received = await whileReceived(async () => {
    const bodies = await Promise.all(ids.map(async (id) => (await get(id, blob)).body))
    for (const body of bodies) assert.deepEqual(body, blob.bytes)
  })
  for (const bytes of received) assert.ok(bytes > some, `each has some of ${String(received)}`)
  assert.ok(sumOf(received) < once, `${sumOf(received)} bytes came from the primary`)
})

test('the parts of a home that is gone come from the next one', async () => {
  const blob = await listed('one is gone')
  await world.edges.b.stop()
  const received = await whileReceived(async () => {
    assert.deepEqual((await get('a', blob)).body, blob.bytes)
    assert.deepEqual((await get('c', blob)).body, blob.bytes)
  }, ['a', 'c'])
  for (const bytes of received) assert.ok(bytes > some, `each has some of ${String(received)}`)
  assert.ok(sumOf(received) < once, `${sumOf(received)} bytes came from the primary`)
})

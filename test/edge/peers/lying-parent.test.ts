import assert from 'node:assert/strict'
import { open, readFile, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { blobFile } from '../../../edge/cache/blob-files.ts'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { bytesOf, contentOf, pushBlob, type Content } from '../../kit/images.ts'
import { startPeerStand, waitListed, type PeerStand } from '../../kit/peers.ts'

// A parent whose disk flipped a byte of what it holds, without a word: nobody there notices, and it gives that on.

const mib = 1024 * 1024
/** From here on a blob has a list of its pieces. */
const listedFrom = 6 * mib
/** No client gets the end of a body before it is proved. */
const withheldBytes = 64 * 1024
/** A time of change that a file system gives back as it was set. */
const longAgo = new Date(Date.UTC(2001, 0, 1))

let world: PeerStand<'region' | 'plain' | 'listed'>

before(async (t) => {
  const child = { edge: { parent: { id: 'region' } } }
  world = await startPeerStand(
    t as unknown as TestContext,
    {
      region: { site: 'region', edge: { peers: { port: 0, children: true } } },
      // One for each test: whoever was lied to leaves its parent alone for a while.
      plain: { site: 'plain', ...child },
      listed: { site: 'listed', ...child },
    },
    { primary: { piece_lists: { from: listedFrom } } },
  )
  await world.stand.primary.createProject('secret', { isPublic: false })
})

const fileOf = ({ data }: TestEdge, { digest }: Content): string =>
  blobFile(join(data, 'edge'), digest)

async function get(edge: TestEdge, { digest }: Content, range?: string) {
  const client = edge.client(world.stand.primary.admin, 'bearer')
  return client.request('GET', `/v2/secret/app/blobs/${digest}`, {
    headers: range === undefined ? {} : { Range: `bytes=${range}` },
  })
}

/** Pulls a blob as far as it comes. */
async function pull(edge: TestEdge, { digest }: Content): Promise<Buffer> {
  const { username, password } = world.stand.primary.admin
  const basic = Buffer.from(`${username}:${password}`).toString('base64')
  const scope = 'service=outport&scope=repository:secret/app:pull'
  const answer = await fetch(new URL(`/service/token?${scope}`, edge.url), {
    headers: { authorization: `Basic ${basic}` },
  })
  const { token } = (await answer.json()) as { readonly token: string }
  const { status, body } = await fetch(new URL(`/v2/secret/app/blobs/${digest}`, edge.url), {
    headers: { authorization: `Bearer ${token}` },
  })
  assert.equal(status, 200)
  assert.ok(body)
  const arriving: AsyncIterable<Uint8Array> = body
  const chunks: Uint8Array[] = []
  try {
    for await (const chunk of arriving) chunks.push(chunk)
  } catch {
    // It was cut.
  }
  return Buffer.concat(chunks)
}

/** Has the parent hold a blob, proved, and one of its bytes wrong since then. */
async function rotAtParent(blob: Content, at: number): Promise<void> {
  const { region } = world.edges
  const file = fileOf(region, blob)
  assert.deepEqual((await get(region, blob)).body, blob.bytes)
  await held(region, blob)
  await utimes(file, longAgo, longAgo)
  assert.deepEqual((await get(region, blob)).body, blob.bytes, 'proved once more, as of then')
  const handle = await open(file, 'r+')
  await handle.write(Buffer.of(blob.bytes.readUInt8(at) ^ 1), 0, 1, at)
  await handle.close()
  await utimes(file, longAgo, longAgo)
  const given = (await get(region, blob)).body
  assert.equal(given.length, blob.bytes.length)
  assert.ok(!given.equals(blob.bytes), 'the parent does not notice')
}

/** Waits until an edge keeps what it was given. */
async function held(edge: TestEdge, { digest }: Content): Promise<void> {
  await waitFor('it to be kept', () =>
    edge.log.some(
      (line) =>
        line.msg === 'fill done' && line['digest'] === digest && line['reason'] === 'stored',
    ),
  )
}

const blamed = ({ log }: TestEdge) =>
  log
    .filter(({ msg }) => msg?.includes('other bytes') === true)
    .map(({ upstream, digest }) => ({ upstream, digest }))

/** Bytes that an edge received of a blob, over all its tries. */
const received = ({ log }: TestEdge, { digest }: Content): number =>
  log
    .filter((line) => line.msg === 'fill done' && line['digest'] === digest)
    .reduce((sum, line) => sum + Number(line['receivedBytes']), 0)

test('a child of a parent that flips a byte never gives it whole, names the parent, and keeps what is right', async () => {
  const { plain } = world.edges
  const { primary } = world.stand
  const blob = contentOf(bytesOf('plain', 4 * mib + 5))
  await pushBlob(primary.client(primary.admin), 'secret/app', blob)
  await rotAtParent(blob, 2 * mib + 77)

  const first = await Promise.all(Array.from({ length: 4 }, () => pull(plain, blob)))
  for (const body of first) {
    const isCut = body.length <= blob.bytes.length - withheldBytes
    assert.ok(isCut || body.equals(blob.bytes), `${body.length} bytes`)
  }
  assert.deepEqual(await pull(plain, blob), blob.bytes, 'who asks again gets what is right')
  await held(plain, blob)
  assert.deepEqual(await readFile(fileOf(plain, blob)), blob.bytes)
  assert.deepEqual(blamed(plain), [{ upstream: 'peer.region', digest: blob.digest }])
})

test('with a list of the pieces no client is cut, and only the wrong piece comes twice', async () => {
  const { listed } = world.edges
  const { primary } = world.stand
  const blob = contentOf(bytesOf('listed', 7 * mib + 5))
  await pushBlob(primary.client(primary.admin), 'secret/app', blob)
  await waitListed(world.stand, blob, [world.edges.region, listed])
  await rotAtParent(blob, 3 * mib + 77)

  const start = 3 * mib + 70
  const [range, ...whole] = await Promise.all([
    get(listed, blob, `${start}-${start + 9}`),
    get(listed, blob),
    get(listed, blob),
  ])
  assert.equal(range.status, 206)
  assert.deepEqual(range.body, blob.bytes.subarray(start, start + 10))
  for (const { body } of whole) assert.deepEqual(body, blob.bytes)
  await held(listed, blob)
  assert.deepEqual(await readFile(fileOf(listed, blob)), blob.bytes)
  assert.deepEqual(blamed(listed), [{ upstream: 'peer.region', digest: blob.digest }])
  assert.equal(await listed.metric('outport_edge_wrong_pieces_total', { upstream: 'peers' }), 1)
  assert.equal(await listed.metric('outport_edge_wrong_pieces_total'), 1)
  assert.ok(received(listed, blob) <= blob.bytes.length + mib, `${received(listed, blob)} bytes`)
})

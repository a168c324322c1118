import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readFile } from 'node:fs/promises'
import { createServer } from 'node:https'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { identityFiles } from '../../../shared/replication/identity-files.ts'
import { createHomes } from '../../../shared/site/home.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { bytesOf, contentOf, pushBlob, type Content } from '../../kit/images.ts'
import { startPeerStand, waitListed, type PeerStand } from '../../kit/peers.ts'

// A site of two, one of which gives wrong bytes of what it is the home of.

const mib = 1024 * 1024
let world: PeerStand<'honest' | 'liar'>

before(async (t) => {
  const site = { site: 'rack' }
  const after = t as unknown as TestContext
  world = await startPeerStand(
    after,
    { honest: site, liar: site },
    { primary: { piece_lists: { from: '2MiB' } } },
  )
  await world.stand.primary.createProject('secret', { isPublic: false })
})

/** A blob that the liar is asked for first. */
function createBlob(seed: string): Content {
  const homes = createHomes(['honest', 'liar'].map((id) => ({ id })))
  const bytes = bytesOf(seed, 4 * mib + 5)
  for (let last = 0; ; last++) {
    bytes.writeUInt8(last, bytes.length - 1)
    const blob = contentOf(bytes)
    if (homes.home({ digest: blob.digest })?.id === 'liar') return blob
  }
}

/** Pushes a blob, and waits until its list is known at the honest edge. */
async function listed(blob: Content): Promise<void> {
  const { client, admin } = world.stand.primary
  await pushBlob(client(admin), 'secret/app', blob)
  await waitListed(world.stand, blob, [world.edges.honest])
}

/** Takes the place of an edge on its port, with its certificate, and flips one byte of each blob that it is given. */
async function lieFor(
  t: TestContext,
  { data }: TestEdge,
  { port, blobs, flipAt }: { port: number; blobs: readonly Content[]; flipAt: number },
): Promise<readonly string[]> {
  const read = (name: string) => readFile(join(data, 'edge/own-identity', name))
  const [key, cert] = await Promise.all([read(identityFiles.key), read(identityFiles.certificate)])
  const asked: string[] = []
  const server = createServer({ key, cert }, (request, response) => {
    const known = blobs.find(({ digest }) => request.url?.endsWith(digest) === true)
    if (known === undefined) return void response.writeHead(404).end()
    asked.push(request.url ?? '')
    const body = Buffer.from(known.bytes)
    body.writeUInt8(body.readUInt8(flipAt) ^ 1, flipAt)
    const [, from = '0', to = ''] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? []
    const end = to === '' ? body.length : Number(to) + 1
    response.writeHead(request.headers.range === undefined ? 200 : 206, {
      'Content-Length': end - Number(from),
      'Content-Range': `bytes ${from}-${end - 1}/${body.length}`,
    })
    response.end(body.subarray(Number(from), end))
  })
  server.listen(port, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  return asked
}

test('a neighbour that flips one byte is named, no client sees it, and it is left alone', async (t) => {
  const [first, second] = [createBlob('first'), createBlob('second')]
  await listed(first)
  await listed(second)
  const { honest, liar } = world.edges
  const { peer_url: url } = await world.stand.primary.records
    .selectFrom('edges')
    .select('peer_url')
    .where('id', '=', 'liar')
    .executeTakeFirstOrThrow()
  await liar.stop()
  const port = Number(new URL(url).port)
  const asked = await lieFor(t, liar, { port, blobs: [first, second], flipAt: 2 * mib + 77 })
  const client = honest.client(world.stand.primary.admin, 'bearer')
  const get = (digest: string, range?: string) =>
    client.request('GET', `/v2/secret/app/blobs/${digest}`, {
      headers: range === undefined ? {} : { Range: `bytes=${range}` },
    })

  const start = 2 * mib + 70
  const [range, whole] = await Promise.all([
    get(first.digest, `${start}-${start + 9}`),
    get(first.digest),
  ])
  assert.equal(range.status, 206)
  assert.deepEqual(range.body, first.bytes.subarray(start, start + 10))
  assert.deepEqual(whole.body, first.bytes)
  assert.ok(asked.length > 0, 'it was asked')
  assert.equal(await honest.metric('outport_edge_wrong_pieces_total', { upstream: 'peers' }), 1)
  assert.equal(await honest.metric('outport_edge_wrong_pieces_total', { upstream: 'several' }), 0)
  const blamed = honest.log.filter(({ msg }) => msg?.includes('other bytes') === true)
  assert.deepEqual(
    blamed.map(({ upstream, digest }) => ({ upstream, digest })),
    [{ upstream: 'peer.liar', digest: first.digest }],
  )

  const before = asked.length
  assert.deepEqual((await get(second.digest)).body, second.bytes)
  assert.equal(asked.length, before, 'it is not asked any more')
})

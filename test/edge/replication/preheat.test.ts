import assert from 'node:assert/strict'
import { before, describe, test, type TestContext } from 'node:test'
import { askApi } from '../../kit/api.ts'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { blobsOf, createImage, createIndex, pushImage, type Image } from '../../kit/images.ts'
import type { RegistryClient } from '../../kit/registry-client.ts'

let stand: FedStand
let api: RegistryClient
let north: TestEdge
let ending: Pick<TestContext, 'after'>

/** `south` never starts, `narrow` may not read the project, `late` starts when a preheat waits for it. */
before(async (t) => {
  ending = t as unknown as TestContext
  stand = await startFedStand(ending, {
    scopes: { north: ['*'], south: ['*'], narrow: ['other'], late: ['*'] },
  })
  api = stand.primary.client(stand.primary.admin)
  await stand.primary.createProject('apps', { isPublic: false })
  await stand.primary.createProject('other', { isPublic: false })
  await send('PUT', '/edges/narrow', { scope: ['other'] })
  north = await stand.startEdge(ending, { id: 'north' })
})

interface Shown {
  readonly id: number
  readonly status: string
  readonly digest: string
  readonly held: number
  readonly edges: readonly {
    readonly id: string
    readonly status: string
    readonly reason: string
    readonly held_bytes: number
    readonly blobs: readonly { readonly digest: string; readonly status: string }[]
  }[]
}

async function ask(method: string, path: string, body?: object, client = api) {
  const answer = await askApi(client, method, path, body)
  return { ...answer, shown: () => answer.json() as Shown }
}

async function send(method: string, path: string, body?: object) {
  const answer = await ask(method, path, body)
  assert.ok(answer.status < 300, `${method} ${path}: ${answer.status} ${String(answer.body)}`)
  return answer
}

const preheat = async (body: object) => (await send('POST', '/preheat', body)).shown().id
const look = async (id: number) => (await send('GET', `/preheat/${id}`)).shown()

async function push(name: string, seed: string): Promise<Image> {
  const image = createImage({ seed, layers: 2 })
  await pushImage(api, `apps/${name}`, image, 'v1')
  return image
}

const pinned = () => north.metric('outport_edge_cache_pinned_bytes')

describe('a preheat', () => {
  test('has the edges that it names fetch an image, and ends when they hold all of it', async () => {
    const image = await push('web', 'preheated')
    const id = await preheat({ image: 'apps/web:v1', edges: ['north'], deadline: '5m' })
    await waitFor('the end', async () => (await look(id)).status === 'Succeed')
    const { digest, edges } = await look(id)
    assert.equal(digest, image.manifest.digest)
    assert.deepEqual(
      edges.map(({ id: edge, status, reason }) => [edge, status, reason]),
      [['north', 'held', '']],
    )
    const digests = [image.manifest.digest, ...blobsOf(image).map((blob) => blob.digest)].sort()
    assert.deepEqual(edges[0]?.blobs.map((blob) => blob.digest).sort(), digests)

    const client = north.client(stand.primary.admin, 'bearer')
    assert.equal((await client.request('GET', '/v2/apps/web/manifests/v1')).status, 200)
    const from = stand.primaryLog.length
    for (const blob of blobsOf(image))
      assert.equal((await client.request('GET', `/v2/apps/web/blobs/${blob.digest}`)).status, 200)
    const asked = stand.primaryLog.slice(from).filter(({ route }) => route === 'blob')
    assert.deepEqual(asked, [], 'a pull of what was preheated asks for nothing')
  })

  test('that is asked for again while it runs is the one that runs; the next one is another', async () => {
    await push('same', 'same')
    const before = await pinned()
    const body = { image: 'apps/same:v1', edges: ['south', 'north'], deadline: '5m' }
    const first = await ask('POST', '/preheat', body)
    assert.equal(first.status, 201)
    const { id } = first.shown()
    assert.equal(first.headers['location'], `/api/v2.0/preheat/${id}`)
    const again = await ask('POST', '/preheat', { ...body, edges: ['north', 'south'] })
    assert.deepEqual([again.status, again.shown().id], [200, id])
    await waitFor('one of two', async () => (await look(id)).held === 1)
    const { status, edges } = await look(id)
    assert.equal(status, 'Running')
    assert.deepEqual(
      edges.map((edge) => [edge.id, edge.status, edge.reason]),
      [
        ['south', 'fetching', 'the edge was never heard of'],
        ['north', 'held', ''],
      ],
    )
    await waitFor('the pins', async () => (await pinned()) > before)
    await send('PUT', `/preheat/${id}`, { status: 'Stopped' })
    assert.deepEqual(
      [(await look(id)).status, (await look(id)).edges[0]?.status],
      ['Stopped', 'missing'],
    )
    await waitFor('no pins of it', async () => (await pinned()) === before)
    const next = await preheat({ ...body, edges: ['south'] })
    assert.notEqual(next, id)
    await send('PUT', `/preheat/${next}`, { status: 'Stopped' })
  })

  test('ends at its deadline with the reason of each edge that lacks something, and then pins nothing', async () => {
    const index = createIndex({
      children: [createImage({ seed: 'amd' }), createImage({ seed: 'arm' })],
    })
    await pushImage(api, 'apps/multi', index, 'v1')
    const [before, pinnedBefore] = [await north.metric('outport_edge_cache_blobs'), await pinned()]
    const id = await preheat({
      image: `apps/multi@${index.manifest.digest}`,
      platforms: ['linux/amd64'],
      edges: { names: ['*'] },
      deadline: '5s',
    })
    await send('POST', '/edges/late/suspend')
    await waitFor('the pins', async () => (await pinned()) > pinnedBefore)
    await waitFor('the end', async () => (await look(id)).status === 'Failed')
    const { edges } = await look(id)
    assert.deepEqual(
      Object.fromEntries(edges.map((edge) => [edge.id, [edge.status, edge.reason]])),
      {
        north: ['held', ''],
        south: ['missing', 'the edge was never heard of'],
        narrow: ['missing', "the project is not in the edge's scope"],
        late: ['missing', 'the edge is suspended'],
      },
    )
    assert.deepEqual([...new Set(edges[1]?.blobs.map(({ status }) => status))].length, 1)
    await waitFor('no pins of it', async () => (await pinned()) === pinnedBefore)
    await send('POST', '/edges/late/resume')
    // The index, and one image of config, layer and manifest.
    const child = blobsOf(createImage({ seed: 'amd' })).length + 1
    assert.equal(await north.metric('outport_edge_cache_blobs'), before + 1 + child)
  })

  test('is known to an edge that comes later, from its snapshot', async () => {
    await push('later', 'later')
    const id = await preheat({ image: 'apps/later:v1', edges: ['late'], deadline: '5m' })
    await stand.startEdge(ending, { id: 'late' })
    await waitFor('the end', async () => (await look(id)).status === 'Succeed')
  })
})

test('what cannot be preheated is refused in words', async () => {
  await push('app', 'refused')
  const image = 'apps/app:v1'
  for (const [body, status, said] of [
    [{ image: 'apps/app:v2', edges: ['north'] }, 404, /no image apps\/app:v2/],
    [{ image: 'app', edges: ['north'] }, 400, /project\/repository:tag/],
    [{ image, edges: ['nowhere'] }, 400, /no edge nowhere/],
    [{ image, edges: { sites: ['nowhere'] } }, 400, /none/],
    [{ image }, 400, /edges or registry_id/],
    [{ image, registry_id: 77 }, 400, /no registry 77/],
    [{ image, edges: ['north'], deadline: '25h' }, 400, /within 24h/],
    [{ image, edges: ['north'], deadline: '2020-01-01T00:00:00Z' }, 400, /within 24h/],
    [{ image, edges: ['north'], platforms: ['amd64'] }, 400, /platforms/],
    [{ image: 'nothing/app:v1', edges: ['north'] }, 404, /no such project/],
  ] as const) {
    const answer = await ask('POST', '/preheat', body)
    assert.equal(answer.status, status, JSON.stringify(body))
    assert.match(String(answer.body), said)
  }
  assert.equal((await ask('GET', '/preheat/99999')).status, 404)
})

test('who administers a project preheats its images, at edges that may read it', async () => {
  const { primary } = stand
  const person = await primary.createUser()
  await primary.setRole('apps', person.username, 1)
  const client = primary.client(person)
  const body = (edges: readonly string[]) => ({ image: 'apps/web:v1', edges, deadline: '5m' })
  const begun = await ask('POST', '/preheat', body(['north']), client)
  assert.equal(begun.status, 201)
  const path = `/preheat/${begun.shown().id}`
  assert.equal((await ask('GET', path, undefined, client)).status, 200)
  // To them there is no such edge.
  assert.equal((await ask('POST', '/preheat', body(['narrow']), client)).status, 400)
  assert.equal((await ask('GET', '/preheat', undefined, client)).status, 403)

  const other = await primary.createUser()
  await primary.setRole('apps', other.username, 2)
  const stranger = primary.client(other)
  for (const [method, at, sent] of [
    ['POST', '/preheat', body(['north'])],
    ['GET', path, undefined],
    ['GET', '/preheat/99999', undefined],
    ['PUT', path, { status: 'Stopped' }],
  ] as const)
    assert.equal((await ask(method, at, sent, stranger)).status, 403, `${method} ${at}`)
})

import assert from 'node:assert/strict'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import type { Digest } from '../../../shared/oci/digest.ts'
import { callApi, createRule } from '../../kit/api.ts'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { blobsOf, createImage, pushImage, type Image } from '../../kit/images.ts'
import type { RegistryClient } from '../../kit/registry-client.ts'

// An edge whose pins may take 3.2 MiB, and images of 2.

const mebibyte = 2 ** 20
const edgeOptions = {
  id: 'small',
  edge: { cache: { size: '4MiB', memory: '64KiB', scrub: '32MiB' } },
}
let stand: FedStand
let api: RegistryClient
let edge: TestEdge
let ending: Pick<TestContext, 'after'>

before(async (t) => {
  ending = t as unknown as TestContext
  stand = await startFedStand(ending, { scopes: { small: ['*'] } })
  api = stand.primary.client(stand.primary.admin)
  await stand.primary.createProject('open', { isPublic: true })
  await callApi(api, 'PUT', '/edges/small', { site: 'oulu' })
  edge = await stand.startEdge(ending, edgeOptions)
})

const imageOf = (seed: string): Image => createImage({ seed, layers: 2, layerBytes: mebibyte })
const client = () => edge.client(stand.primary.admin, 'bearer')
const answered = async (path: string) =>
  (await client().request('GET', `/v2/open/${path}`)).headers['docker-content-digest']
const pinned = () => edge.metric('outport_edge_cache_pinned_bytes')
const blobGets = () =>
  stand.primaryLog.filter(({ method, route }) => method === 'GET' && route === 'blob').length

/** How often all of something that a rule brings came here. */
const heldBy = ({ log }: TestEdge) =>
  log.filter(({ msg }) => msg === 'what a rule brings is here').length

async function pathOf(digest: Digest): Promise<string> {
  const [, hex = ''] = digest.split(':')
  const entries = await readdir(edge.data, { recursive: true, withFileTypes: true })
  const entry = entries.find(({ name, parentPath }) => name === hex && /\/blobs/.test(parentPath))
  assert.ok(entry)
  return join(entry.parentPath, entry.name)
}

interface Task {
  readonly status: string
  readonly status_text: string
}

test('what pins have no room for ends with NO_SPACE, is answered as it comes, and is brought once there is room', async () => {
  const [first, second] = [imageOf('first'), imageOf('second')]
  const rule = await createRule(api, {
    name: 'room',
    repositories: 'open/room',
    sites: ['oulu'],
    serve: 'complete',
  })
  await pushImage(api, 'open/room', first, 'v1')
  await waitFor('it', async () => (await answered('room/manifests/v1')) === first.manifest.digest)
  const before = blobGets()
  await pushImage(api, 'open/room', second, 'v1')
  let task: Task | undefined
  await waitFor('the task to fail', async () => {
    const executions = await callApi(api, 'GET', `/replication/executions?policy_id=${rule}`)
    const [execution] = executions.json() as readonly { readonly id: number }[]
    const tasks = await callApi(api, 'GET', `/replication/executions/${execution?.id}/tasks`)
    task = (tasks.json() as readonly Task[])[0]
    return task?.status === 'Failed'
  })
  assert.match(task?.status_text ?? '', /: NO_SPACE: \d+ bytes more/)
  assert.equal(await answered('room/manifests/v1'), second.manifest.digest)
  assert.equal(blobGets(), before, 'nothing of it was fetched')
  for (const { digest, bytes } of blobsOf(second)) {
    const blob = await client().request('GET', `/v2/open/room/blobs/${digest}`)
    assert.deepEqual(blob.body, bytes)
  }
  await waitFor('the first alone to be pinned', async () => (await pinned()) < 2.2 * mebibyte)
  // What it answered it answers on.
  await edge.stop()
  edge = await stand.startEdge(ending, { ...edgeOptions, data: edge.data })
  assert.equal(await answered('room/manifests/v1'), second.manifest.digest)
  for (const { digest } of blobsOf(first))
    assert.equal((await client().request('HEAD', `/v2/open/room/blobs/${digest}`)).status, 200)

  const gone = `/v2/open/room/manifests/${first.manifest.digest}`
  assert.equal((await api.request('DELETE', gone)).status, 202)
  await waitFor('the second in its place', () => heldBy(edge) === 1)
  assert.ok((await pinned()) > 2 * mebibyte && (await pinned()) < 2.2 * mebibyte)
})

test('what a rule brought and the disk lost comes again before anybody asks', async () => {
  const image = createImage({ seed: 'lost', layers: 1, layerBytes: mebibyte / 2 })
  await createRule(api, {
    name: 'lost',
    repositories: 'open/lost',
    sites: ['oulu'],
    serve: 'complete',
  })
  const before = heldBy(edge)
  await pushImage(api, 'open/lost', image, 'v1')
  await waitFor('all of it', () => heldBy(edge) === before + 1)
  const [, layer] = blobsOf(image)
  assert.ok(layer)
  const path = await pathOf(layer.digest)
  await writeFile(path, Buffer.alloc(mebibyte / 2))
  await waitFor('what it lacked', () => heldBy(edge) === before + 2)
  assert.equal(await answered('lost/manifests/v1'), image.manifest.digest)
  assert.deepEqual(await readFile(path), layer.bytes)
})

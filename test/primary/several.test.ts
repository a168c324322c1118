import assert from 'node:assert/strict'
import { mkdir, mkdtemp, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { before, test } from 'node:test'
import { startPrimary } from '../../primary/main.ts'
import { createLogger } from '../../shared/observability/log.ts'
import { expectStatus } from '../conformance/target.ts'
import { atEnd } from '../kit/at-end.ts'
import { waitFor } from '../kit/clock.ts'
import {
  bytesOf,
  contentOf,
  createImage,
  pushBlob,
  pushImage,
  pushManifest,
} from '../kit/images.ts'
import { startTestPrimary, type TestPrimary } from '../kit/primary.ts'
import { createRegistryClient, type RegistryClient } from '../kit/registry-client.ts'

// Two primaries on one database and one blob store, behind a load balancer that knows nothing of sessions.

let primary: TestPrimary
let one: RegistryClient
let two: RegistryClient
before(async () => {
  primary = await startTestPrimary()
  const folder = await mkdtemp(join(tmpdir(), 'outport-second-'))
  const data = join(folder, 'data')
  await mkdir(data)
  await symlink(primary.blobFolder, join(data, 'blobs'))
  const listeners = primary.config.primary.listeners.map((listener) => ({ ...listener, port: 0 }))
  const second = await startPrimary(
    { ...primary.config, data, primary: { ...primary.config.primary, listeners } },
    { log: createLogger({ level: 'error' }), processMetrics: false },
  )
  one = primary.client(primary.admin)
  two = createRegistryClient({
    baseUrl: second.urls['primary'] ?? '',
    credentials: primary.admin,
  })
  atEnd(async () => {
    two.close()
    await second.stop(1000)
    await rm(folder, { recursive: true, force: true })
  })
})

const repository = 'library/several'

test('either goes on with an upload that the other began, and both know how far it is', async () => {
  const content = contentOf(bytesOf('alternating', 400_000))
  const opened = await one.request('POST', `/v2/${repository}/blobs/uploads/`)
  const location = String(opened.headers.location)
  for (const [index, client] of [one, two, one, two].entries()) {
    const start = index * 100_000
    const patched = await client.request('PATCH', location, {
      body: content.bytes.subarray(start, start + 100_000),
      headers: { 'Content-Range': `${start}-${start + 99_999}` },
    })
    expectStatus(patched, 202)
    for (const each of [one, two]) {
      const status = await each.request('GET', location)
      assert.equal(status.headers.range, `0-${start + 99_999}`)
    }
  }
  expectStatus(await one.request('PUT', location, { query: { digest: content.digest } }), 201)
  for (const client of [one, two]) {
    expectStatus(await client.request('HEAD', `/v2/${repository}/blobs/${content.digest}`), 200)
    const got = await client.request('GET', `/v2/${repository}/blobs/${content.digest}`)
    assert.deepEqual(got.body, content.bytes)
  }
})

test('what one has accepted is at the other at once', async () => {
  const image = createImage({ seed: 'read your writes' })
  for (const blob of image.blobs) {
    expectStatus(await pushBlob(one, repository, blob), 201)
    expectStatus(await two.request('HEAD', `/v2/${repository}/blobs/${blob.digest}`), 200)
  }
  expectStatus(await pushManifest(two, repository, image.manifest, 'v1'), 201)
  expectStatus(await one.request('HEAD', `/v2/${repository}/manifests/v1`), 200)
})

test('what one has mounted is at the other at once', async () => {
  for (const [name, mounter, other] of [
    ['here', one, two],
    ['there', two, one],
  ] as const) {
    const content = contentOf(bytesOf(`mounted ${name}`, 1000))
    expectStatus(await pushBlob(one, repository, content), 201)
    const path = `/v2/library/mounted/blobs/${content.digest}`
    for (const each of [one, two]) expectStatus(await each.request('HEAD', path), 404)
    const mounted = await mounter.request('POST', '/v2/library/mounted/blobs/uploads/', {
      query: { mount: content.digest, from: repository },
    })
    expectStatus(mounted, 201)
    expectStatus(await other.request('HEAD', path), 200)
    expectStatus(await mounter.request('HEAD', path), 200)
  }
})

test('what one changes, the other stops remembering within a second', async () => {
  const [image, next] = [createImage({ seed: 'one' }), createImage({ seed: 'two' })]
  for (const each of [image, next]) await pushImage(one, repository, each)
  const digestAt = async (client: RegistryClient) =>
    (await client.request('HEAD', `/v2/${repository}/manifests/moving`)).headers[
      'docker-content-digest'
    ]
  for (const { manifest } of [image, next, image]) {
    await pushManifest(one, repository, manifest, 'moving')
    assert.equal(await digestAt(one), manifest.digest)
    const movedAt = performance.now()
    await waitFor('the other to follow', async () => (await digestAt(two)) === manifest.digest)
    assert.ok(performance.now() - movedAt < 1000)
  }
  const [, layer] = next.blobs
  const path = `/v2/${repository}/blobs/${layer?.digest}`
  expectStatus(await two.request('GET', path), 200)
  const manifest = `/v2/${repository}/manifests/${next.manifest.digest}`
  expectStatus(await one.request('DELETE', manifest), 202)
  expectStatus(await one.request('DELETE', path), 202)
  await waitFor('the other to follow', async () => (await two.request('GET', path)).status === 404)
  await waitFor(
    'the other to follow',
    async () => (await two.request('GET', manifest)).status === 404,
  )
})

test('a member who is removed at one is refused at the other within a second', async () => {
  await primary.createProject('several', { isPublic: false })
  await pushImage(one, 'several/app', createImage({ seed: 'private' }), 'v1')
  const user = await primary.createUser()
  await primary.setRole('several', user.username, 3)
  const client = createRegistryClient({ baseUrl: two.baseUrl, credentials: user })
  const path = '/v2/several/app/manifests/v1'
  expectStatus(await client.request('GET', path), 200)
  const members = await one.request('GET', '/api/v2.0/projects/several/members')
  const member = (members.json() as { id: number; entity_name: string }[]).find(
    (entry) => entry.entity_name === user.username,
  )
  const removed = await one.request(
    'DELETE',
    `/api/v2.0/projects/several/members/${member?.id ?? 0}`,
  )
  expectStatus(removed, 200)
  await waitFor(
    'the other to refuse',
    async () => (await client.request('GET', path)).status === 401,
    {
      timeoutMs: 1000,
    },
  )
  client.close()
})

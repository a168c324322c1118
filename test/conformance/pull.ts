import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { digestOf } from '../../shared/oci/digest.ts'
import { blobsOf, manifestsOf, type Content, type Image } from '../kit/images.ts'
import type { RegistryClient } from '../kit/registry-client.ts'
import { expectStatus } from './target.ts'

/** Content that is there already; a mirror is asked for it, a registry had it pushed. */
export interface PullTarget {
  readonly client: RegistryClient
  readonly repository: string
  readonly image: Image
  readonly tag: string
}

/** What a client may read. [conformance suite, TestHead and TestPull; distribution-spec, Pull] */
export function describePull(name: string, open: () => Promise<PullTarget>): void {
  describe(`${name}: pull`, () => {
    let target: PullTarget | undefined
    before(async () => {
      target = await open()
    })
    const get = (): PullTarget => {
      assert.ok(target)
      return target
    }
    describeManifests(get)
    describeBlobs(get)
    describeAbsent(get)
  })
}

/** Asserts that a manifest can be read by a reference, byte by byte. */
export async function expectManifest(
  client: RegistryClient,
  { path, manifest }: { readonly path: string; readonly manifest: Content },
): Promise<void> {
  const headers = { Accept: [manifest.mediaType, 'application/vnd.oci.image.index.v1+json'] }
  for (const method of ['HEAD', 'GET']) {
    const answer = await client.request(method, path, { headers })
    expectStatus(answer, 200)
    assert.equal(answer.headers['content-type'], manifest.mediaType)
    assert.equal(answer.headers['content-length'], String(manifest.bytes.length))
    assert.equal(answer.headers['docker-content-digest'], manifest.digest)
    assert.deepEqual(answer.body, method === 'GET' ? manifest.bytes : Buffer.alloc(0))
  }
}

/** Asserts that a blob can be read, byte by byte. */
export async function expectBlob(
  client: RegistryClient,
  { repository, blob }: { readonly repository: string; readonly blob: Content },
): Promise<void> {
  for (const method of ['HEAD', 'GET']) {
    const answer = await client.request(method, `/v2/${repository}/blobs/${blob.digest}`)
    expectStatus(answer, 200)
    assert.equal(answer.headers['content-length'], String(blob.bytes.length))
    assert.equal(answer.headers['docker-content-digest'], blob.digest)
    assert.deepEqual(answer.body, method === 'GET' ? blob.bytes : Buffer.alloc(0))
  }
}

function describeManifests(get: () => PullTarget): void {
  test('manifests are read by digest, as they were pushed', async () => {
    const { client, repository, image } = get()
    for (const manifest of manifestsOf(image)) {
      await expectManifest(client, {
        path: `/v2/${repository}/manifests/${manifest.digest}`,
        manifest,
      })
    }
  })

  test('a manifest is read by tag, with its digest', async () => {
    const { client, repository, image, tag } = get()
    await expectManifest(client, {
      path: `/v2/${repository}/manifests/${tag}`,
      manifest: image.manifest,
    })
  })

  test('a manifest GET with a body is answered as one without', async () => {
    const { client, repository, image, tag } = get()
    const answer = await client.request('GET', `/v2/${repository}/manifests/${tag}`, {
      body: Buffer.from('what is this'),
      headers: { Accept: image.manifest.mediaType },
    })
    expectStatus(answer, 200)
    assert.deepEqual(answer.body, image.manifest.bytes)
  })
}

function describeBlobs(get: () => PullTarget): void {
  test('blobs are read whole', async () => {
    const { client, repository, image } = get()
    for (const blob of blobsOf(image)) await expectBlob(client, { repository, blob })
  })

  test('blobs are read in parts', async () => {
    const { client, repository, image } = get()
    for (const blob of blobsOf(image)) {
      const size = blob.bytes.length
      if (size < 3) continue
      const answer = await client.request('GET', `/v2/${repository}/blobs/${blob.digest}`, {
        headers: { Range: 'bytes=1-' },
      })
      expectStatus(answer, 206)
      assert.equal(answer.headers['content-range'], `bytes 1-${size - 1}/${size}`)
      assert.deepEqual(answer.body, blob.bytes.subarray(1))
    }
  })
}

function describeAbsent(get: () => PullTarget): void {
  test('an unknown tag, digest and blob are not found', async () => {
    const { client, repository } = get()
    const unknown = digestOf(Buffer.from('nobody ever pushed this'))
    for (const path of [`manifests/no-such-tag`, `manifests/${unknown}`, `blobs/${unknown}`]) {
      for (const method of ['HEAD', 'GET']) {
        expectStatus(await client.request(method, `/v2/${repository}/${path}`), 404)
      }
    }
  })

  test('what is no tag is not found, and what is no digest neither or refused', async () => {
    const { client, repository } = get()
    expectStatus(
      await client.request('GET', `/v2/${repository}/manifests/.INVALID_MANIFEST_NAME`),
      404,
    )
    for (const path of ['manifests/sha256:baddigeststring', 'blobs/sha256:baddigeststring']) {
      expectStatus(await client.request('GET', `/v2/${repository}/${path}`), 400, 404)
    }
  })
}

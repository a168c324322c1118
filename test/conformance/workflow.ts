import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { mediaTypes } from '../../shared/oci/media-types.ts'
import {
  blobsOf,
  createIndex,
  createImage,
  manifestsOf,
  pushBlob,
  pushManifest,
} from '../kit/images.ts'
import { createDataSets, type DataSet } from './data-sets.ts'
import { expectBlob, expectManifest } from './pull.ts'
import { createTargetHolder, expectStatus, type OpenTarget } from './target.ts'

type Holder = ReturnType<typeof createTargetHolder>

/**
 * Each data set is pushed, listed, read, asked for referrers, and deleted again, manifests before blobs.
 * [conformance suite, TestAll]
 */
export function describeWorkflow(name: string, open: OpenTarget): void {
  describe(`${name}: push, discover, pull and delete`, () => {
    const holder = createTargetHolder(open)
    before(() => holder.open())
    describeEmpty(holder)
    for (const dataSet of createDataSets(`${name} ${Date.now()}`)) describeDataSet(dataSet, holder)
    describeTagParameters(holder)
  })
}

function describeEmpty(holder: Holder): void {
  test('ping answers', async () => {
    expectStatus(await holder.get().client.request('GET', '/v2/'), 200)
  })

  test('a repository without content lists no tags, and no referrers of anything', async () => {
    const { client, repository } = holder.get()
    expectStatus(await client.request('GET', `/v2/${repository}-never-pushed/tags/list`), 200, 404)
    const digest = createImage({ seed: 'nothing refers to this' }).manifest.digest
    const listed = await client.request('GET', `/v2/${repository}-never-pushed/referrers/${digest}`)
    expectStatus(listed, 200)
    assert.equal(listed.headers['content-type'], mediaTypes.ociIndex)
    assert.deepEqual(listed.json(), {
      schemaVersion: 2,
      mediaType: mediaTypes.ociIndex,
      manifests: [],
    })
  })
}

function describeDataSet({ name, images, tags }: DataSet, holder: Holder): void {
  const manifests = images.flatMap(manifestsOf)
  const blobs = images.flatMap(blobsOf)
  test(name, async () => {
    const { client, repository } = holder.get()
    for (const blob of blobs) expectStatus(await pushBlob(client, repository, blob), 201)
    for (const manifest of manifests) {
      const pushed = await pushManifest(client, repository, manifest)
      expectStatus(pushed, 201)
      assert.equal(pushed.headers['docker-content-digest'], manifest.digest)
      assert.equal(pushed.headers['oci-subject'], subjectOf(manifest.bytes))
      const { location } = pushed.headers
      assert.ok(location)
      await expectManifest(client, { path: location, manifest })
    }
    for (const [tag, image] of tags) {
      expectStatus(await pushManifest(client, repository, image.manifest, tag), 201)
    }

    const listed = await client.request('GET', `/v2/${repository}/tags/list`)
    expectStatus(listed, 200)
    const all = (listed.json() as { tags: string[] }).tags
    for (const tag of tags.keys()) assert.ok(all.includes(tag), `${tag} is listed`)

    for (const [tag, image] of tags) {
      await expectManifest(client, {
        path: `/v2/${repository}/manifests/${tag}`,
        manifest: image.manifest,
      })
    }
    for (const manifest of manifests) {
      await expectManifest(client, {
        path: `/v2/${repository}/manifests/${manifest.digest}`,
        manifest,
      })
    }
    for (const blob of blobs) await expectBlob(client, { repository, blob })
    await expectReferrers({ name, images, tags }, holder)

    for (const tag of tags.keys()) {
      const path = `/v2/${repository}/manifests/${tag}`
      expectStatus(await client.request('DELETE', path), 202)
      expectStatus(await client.request('HEAD', path), 404)
    }
    const after = await client.request('GET', `/v2/${repository}/tags/list`)
    assert.equal((after.json() as { tags: string[] }).tags.length, all.length - tags.size)
    for (const manifest of manifests.toReversed()) {
      const path = `/v2/${repository}/manifests/${manifest.digest}`
      expectStatus(await client.request('DELETE', path), 202)
      expectStatus(await client.request('HEAD', path), 404)
    }
    for (const blob of blobs) {
      const path = `/v2/${repository}/blobs/${blob.digest}`
      expectStatus(await client.request('DELETE', path), 202, 404)
      expectStatus(await client.request('HEAD', path), 404)
    }
  })
}

interface ReferrerDescriptor {
  readonly mediaType: string
  readonly digest: string
  readonly size: number
  readonly artifactType?: string
  readonly annotations?: Readonly<Record<string, string>>
}

/** Every subject lists exactly those that refer to it, filtered and not. */
async function expectReferrers({ images }: DataSet, holder: Holder): Promise<void> {
  const { client, repository } = holder.get()
  const goals = new Map<string, ReferrerDescriptor[]>()
  for (const { manifest } of images) {
    const document = JSON.parse(manifest.bytes.toString()) as {
      artifactType?: string
      config?: { mediaType: string }
      annotations?: Record<string, string>
    }
    const subject = subjectOf(manifest.bytes)
    if (subject === undefined) continue
    const artifactType = document.artifactType ?? document.config?.mediaType
    const descriptor = {
      mediaType: manifest.mediaType,
      digest: manifest.digest,
      size: manifest.bytes.length,
      ...(artifactType !== undefined && { artifactType }),
      ...(document.annotations !== undefined && { annotations: document.annotations }),
    }
    goals.set(subject, [...(goals.get(subject) ?? []), descriptor])
  }
  for (const [subject, expected] of goals) {
    const path = `/v2/${repository}/referrers/${subject}`
    const listed = await client.request('GET', path)
    expectStatus(listed, 200)
    assert.equal(listed.headers['content-type'], mediaTypes.ociIndex)
    assert.equal(listed.headers['oci-filters-applied'], undefined)
    assert.deepEqual((listed.json() as { manifests: unknown }).manifests, expected)
    for (const artifactType of new Set(expected.map((descriptor) => descriptor.artifactType))) {
      if (artifactType === undefined) continue
      const filtered = await client.request('GET', path, { query: { artifactType } })
      expectStatus(filtered, 200)
      assert.equal(filtered.headers['oci-filters-applied'], 'artifactType')
      assert.deepEqual(
        (filtered.json() as { manifests: unknown }).manifests,
        expected.filter((descriptor) => descriptor.artifactType === artifactType),
      )
    }
  }
}

/** A push by digest may set tags; the header says which. [distribution-spec dev, end-7b] */
function describeTagParameters(holder: Holder): void {
  for (const algorithm of ['sha256', 'sha512'] as const) {
    test(`tag parameters of a push by ${algorithm}`, async () => {
      const { client, repository } = holder.get()
      const child = createImage({ seed: `tag parameters ${algorithm} ${Date.now()}`, algorithm })
      const { manifest } = createIndex({ children: [child], algorithm })
      for (const blob of child.blobs) expectStatus(await pushBlob(client, repository, blob), 201)
      expectStatus(await pushManifest(client, repository, child.manifest), 201)
      const tag = Array.from({ length: 12 }, (_, index) => `param-${algorithm}-${index}`)
      const pushed = await client.request('PUT', `/v2/${repository}/manifests/${manifest.digest}`, {
        query: { tag },
        body: manifest.bytes,
        headers: { 'Content-Type': manifest.mediaType },
      })
      expectStatus(pushed, 201)
      assert.deepEqual(String(pushed.headers['oci-tag']).split(', '), tag)
      for (const name of tag) {
        await expectManifest(client, { path: `/v2/${repository}/manifests/${name}`, manifest })
      }
      expectStatus(
        await client.request('DELETE', `/v2/${repository}/manifests/${manifest.digest}`),
        202,
      )
      for (const name of tag) {
        expectStatus(await client.request('HEAD', `/v2/${repository}/manifests/${name}`), 404)
      }
    })
  }
}

function subjectOf(bytes: Buffer): string | undefined {
  return (JSON.parse(bytes.toString()) as { subject?: { digest: string } }).subject?.digest
}

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createManifests } from '../../../primary/store/manifests.ts'
import { createTags } from '../../../primary/store/tags.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import { mediaTypes } from '../../../shared/oci/media-types.ts'
import type { Tag } from '../../../shared/oci/reference.ts'
import { contentOf, createImage, createIndex } from '../../kit/images.ts'
import { waitForLock } from '../../kit/postgres.ts'
import { createRegistryRecords, testActor } from '../../kit/registry-records.ts'

const hasCode = (code: string) => (error: unknown) =>
  error instanceof OciError && error.code === code

test('a manifest, its tags and its events commit together, or not at all', async (t) => {
  const { records, addImage, putManifest, facts } = await createRegistryRecords(t)
  const image = createImage({ seed: 'together' })
  await assert.rejects(
    putManifest('library/app', image.manifest, { tags: ['v1'] }),
    hasCode('MANIFEST_BLOB_UNKNOWN'),
  )
  assert.deepEqual(await facts(), [])
  assert.equal((await records.selectFrom('repositories').selectAll().execute()).length, 0)

  const repository = await addImage('library/app', image, ['v2', 'v1'])
  assert.deepEqual(
    (await facts()).map((fact) => ('tag' in fact ? `${fact.type} ${fact.tag}` : fact.type)),
    ['repository', 'manifest', 'tag v1', 'tag v2'],
  )
  const stored = await createManifests(records).get(repository.id, image.manifest.digest)
  assert.deepEqual(stored?.content, image.manifest.bytes)
  const audit = await records.selectFrom('audit').select(['operation', 'resource']).execute()
  assert.deepEqual(audit.map((row) => row.resource).sort(), ['library/app:v1', 'library/app:v2'])
})

test('what is pushed again makes no event, unless a tag moves', async (t) => {
  const { addImage, putManifest, facts } = await createRegistryRecords(t)
  const [one, two] = [createImage({ seed: 'one' }), createImage({ seed: 'two' })]
  await addImage('library/app', one, ['latest'])
  await addImage('library/app', two)
  const before = (await facts()).length
  await putManifest('library/app', one.manifest, { tags: ['latest'] })
  assert.equal((await facts()).length, before)
  await putManifest('library/app', two.manifest, { tags: ['latest'] })
  assert.deepEqual(
    (await facts()).slice(before).map((fact) => fact.type),
    ['tag'],
  )
})

test('a removed manifest takes its tags, under one deletion', async (t) => {
  const { records, addImage, putManifest, facts } = await createRegistryRecords(t)
  const image = createImage({ seed: 'removed' })
  const repository = await addImage('library/app', image, ['a', 'b'])
  const manifests = createManifests(records)
  const order = { repository, digest: image.manifest.digest, actor: testActor }
  const before = (await facts()).length
  assert.deepEqual(await manifests.remove(order, new Date()), { tags: ['a', 'b'] })
  assert.equal(await manifests.remove(order, new Date()), undefined)
  assert.deepEqual(
    (await facts()).slice(before).map((fact) => fact.type),
    ['tag-deleted', 'tag-deleted', 'manifest-deleted'],
  )
  const deletions = [
    ...(await records.selectFrom('tags').select('deletion_id').execute()),
    ...(await records.selectFrom('manifests').select('deletion_id').execute()),
  ].map((row) => row.deletion_id)
  assert.equal(new Set(deletions).size, 1)
  assert.notEqual(deletions[0], null)
  await putManifest('library/app', image.manifest, { tags: ['a'] })
  assert.deepEqual(
    await createTags(records).list({ repositoryId: repository.id, after: '', limit: undefined }),
    ['a'],
  )
})

test('a project that is deleted while a push runs refuses it', async (t) => {
  const { records, addImage, putManifest, projectId } = await createRegistryRecords(t)
  const [image, next] = [
    createImage({ seed: 'project' }),
    createImage({ seed: 'project next', layers: 0 }),
  ]
  await addImage('library/app', image)
  let pushing: Promise<unknown> | undefined
  await records.transaction().execute(async (trx) => {
    await trx.selectFrom('projects').select('id').where('id', '=', projectId).forUpdate().execute()
    pushing = putManifest('library/app', image.manifest, { tags: ['late'] })
    pushing.catch(() => undefined)
    await waitForLock(records)
    await trx
      .updateTable('projects')
      .set({ deleted_at: new Date() })
      .where('id', '=', projectId)
      .execute()
  })
  assert.ok(pushing)
  await assert.rejects(pushing, hasCode('NAME_UNKNOWN'))
  await assert.rejects(putManifest('library/new', next.manifest), hasCode('NAME_UNKNOWN'))
})

test('a manifest takes condemned blobs back, and the collector finds them needed', async (t) => {
  const { records, addBlob, putManifest } = await createRegistryRecords(t)
  const image = createImage({ seed: 'condemned' })
  for (const blob of image.blobs) await addBlob('library/app', blob)
  await records
    .updateTable('blobs')
    .set({ state: 'condemned', condemned_at: new Date(0) })
    .execute()
  await records
    .updateTable('links')
    .set({ condemned_at: new Date(0) })
    .execute()
  await putManifest('library/app', image.manifest)
  const blobs = await records.selectFrom('blobs').select(['state', 'condemned_at']).execute()
  assert.ok(blobs.every((row) => row.state === 'live' && row.condemned_at === null))
  const links = await records.selectFrom('links').select('condemned_at').execute()
  assert.ok(links.every((row) => row.condemned_at === null))
})

test('a manifest waits for a collector that holds its blob, and is refused when the blob went', async (t) => {
  const { records, addBlob, putManifest } = await createRegistryRecords(t)
  const image = createImage({ seed: 'collected', layers: 1 })
  for (const blob of image.blobs) await addBlob('library/app', blob)
  const [, layer] = image.blobs
  assert.ok(layer)
  let pushing: Promise<unknown> | undefined
  await records.transaction().execute(async (trx) => {
    await trx
      .selectFrom('blobs')
      .select('key')
      .where('digest', '=', layer.digest)
      .forUpdate()
      .execute()
    pushing = putManifest('library/app', image.manifest)
    pushing.catch(() => undefined)
    await waitForLock(records)
    await trx
      .updateTable('blobs')
      .set({ state: 'gone' })
      .where('digest', '=', layer.digest)
      .execute()
  })
  assert.ok(pushing)
  await assert.rejects(pushing, hasCode('MANIFEST_BLOB_UNKNOWN'))
})

test('of very many missing blobs, the first are named and the others counted', async (t) => {
  const { putManifest } = await createRegistryRecords(t)
  const image = createImage({ seed: 'many', layers: 0 })
  const document = JSON.parse(image.manifest.bytes.toString()) as object
  const layers = Array.from({ length: 5000 }, (_, number) => ({
    mediaType: 'application/octet-stream',
    digest: digestOf(Buffer.from(String(number))),
    size: 1,
  }))
  const manifest = contentOf(Buffer.from(JSON.stringify({ ...document, layers })), {
    mediaType: mediaTypes.ociManifest,
  })
  await assert.rejects(putManifest('library/app', manifest), (error) => {
    assert.ok(error instanceof OciError)
    assert.equal(error.entries.length, 101)
    assert.ok(error.entries.every(({ code }) => code === 'MANIFEST_BLOB_UNKNOWN'))
    // The config is missing too.
    assert.match(error.entries.at(-1)?.message ?? '', /4901 more/)
    return true
  })
})

test('sparse manifests may name what is not there, and still link nothing', async (t) => {
  const { records, putManifest } = await createRegistryRecords(t)
  const image = createImage({ seed: 'sparse' })
  const index = createIndex({ children: [], absent: [image.manifest] })
  await assert.rejects(putManifest('library/app', index.manifest), hasCode('MANIFEST_BLOB_UNKNOWN'))
  await putManifest('library/app', index.manifest, { sparse: true })
  await putManifest('library/app', image.manifest, { sparse: true })
  assert.deepEqual(await records.selectFrom('links').selectAll().execute(), [])
})

test('pushes that lock the same rows in opposite tag order all succeed', async (t) => {
  const { records, addImage, putManifest } = await createRegistryRecords(t)
  const images = ['a', 'b', 'c'].map((seed) => createImage({ seed, layers: 1 }))
  let repositoryId = 0
  for (const image of images) repositoryId = (await addImage('library/app', image)).id
  const names = ['t1', 't2', 't3', 't4']
  await Promise.all(
    Array.from({ length: 30 }, (_, index) => {
      const image = images[index % images.length]
      assert.ok(image)
      const tags = index % 2 === 0 ? names : names.toReversed()
      return putManifest('library/app', image.manifest, { tags })
    }),
  )
  const tags = createTags(records)
  const digests = await Promise.all(names.map((name) => tags.resolve(repositoryId, name as Tag)))
  assert.equal(new Set(digests).size, 1, 'the last push moved all of them')
})

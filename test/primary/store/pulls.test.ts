import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createManifests } from '../../../primary/store/manifests.ts'
import { createPulls } from '../../../primary/store/pulls.ts'
import { createImage, createIndex } from '../../kit/images.ts'
import { createRegistryRecords } from '../../kit/registry-records.ts'

test('a pull is a GET by tag, or by digest of what no index names; every GET renews the time', async (t) => {
  const { records, addImage } = await createRegistryRecords(t)
  const child = createImage({ seed: 'child' })
  const index = createIndex({ children: [child] })
  const repository = await addImage('library/app', index, ['v1', 'v2'])
  const manifests = createManifests(records)
  const [top, inner] = [
    await manifests.get(repository.id, index.manifest.digest),
    await manifests.get(repository.id, child.manifest.digest),
  ]
  assert.ok(top && inner)
  const lastAt = new Date('2026-01-02T03:04:05.678Z')
  const counted = { repositoryId: repository.id, lastAt }
  await createPulls(records).add([
    { ...counted, manifestId: top.id, digest: top.digest, byTag: 3, byDigest: 2, tags: ['v1'] },
    { ...counted, manifestId: inner.id, digest: inner.digest, byTag: 1, byDigest: 50, tags: [] },
  ])
  const row = await records.selectFrom('repositories').select('pull_count').executeTakeFirst()
  assert.equal(row?.pull_count, 6)
  const times = await records.selectFrom('manifests').select('pulled_at').execute()
  assert.deepEqual(times, [{ pulled_at: lastAt }, { pulled_at: lastAt }])
  const tags = await records
    .selectFrom('tags')
    .select(['name', 'pulled_at'])
    .orderBy('name')
    .execute()
  assert.deepEqual(tags, [
    { name: 'v1', pulled_at: lastAt },
    { name: 'v2', pulled_at: null },
  ])
})

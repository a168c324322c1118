import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createStoredBlobs } from '../../../primary/store/stored-blobs.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import { bytesOf, contentOf, createImage } from '../../kit/images.ts'
import { waitForLock } from '../../kit/postgres.ts'
import { createRegistryRecords } from '../../kit/registry-records.ts'

const blob = contentOf(bytesOf('stored', 100))

test('a digest keeps its first copy, and each repository its own link', async (t) => {
  const { records, addBlob } = await createRegistryRecords(t)
  const first = await addBlob('library/one', blob)
  const second = await addBlob('library/two', blob)
  assert.equal(first.kept, first.key)
  assert.equal(second.kept, first.key)
  assert.equal((await records.selectFrom('blobs').selectAll().execute()).length, 1)
  assert.equal((await records.selectFrom('links').selectAll().execute()).length, 2)
  assert.equal((await records.selectFrom('uploads').selectAll().execute()).length, 0)
})

test('a condemned copy becomes live again with the next upload, a gone one is replaced', async (t) => {
  const { records, addBlob } = await createRegistryRecords(t)
  const first = await addBlob('library/one', blob)
  await records
    .updateTable('blobs')
    .set({ state: 'condemned', condemned_at: new Date(0) })
    .execute()
  await records
    .updateTable('links')
    .set({ condemned_at: new Date(0) })
    .execute()
  assert.equal((await addBlob('library/one', blob)).kept, first.key)
  const links = await records.selectFrom('links').select('condemned_at').execute()
  assert.deepEqual(links, [{ condemned_at: null }])
  await records.updateTable('blobs').set({ state: 'gone' }).execute()
  const next = await addBlob('library/one', blob)
  assert.equal(next.kept, next.key)
  assert.equal((await records.selectFrom('blobs').selectAll().execute()).length, 2)
})

test('uploads of one digest at once agree on one copy', async (t) => {
  const { addBlob } = await createRegistryRecords(t)
  const results = await Promise.all(
    Array.from({ length: 12 }, (_, index) => addBlob(`library/r${index}`, blob)),
  )
  assert.equal(new Set(results.map((result) => result.kept)).size, 1)
})

test('an upload whose claim was taken over commits nothing', async (t) => {
  const { records, addBlob } = await createRegistryRecords(t)
  const { repository } = await addBlob('library/one', contentOf(bytesOf('other', 1)))
  const storedBlobs = createStoredBlobs(records)
  const id = '00000000-0000-4000-8000-000000000000'
  await records
    .insertInto('uploads')
    .values({
      id,
      key: 'k',
      repository_id: repository.id,
      owner: 'user:1',
      algorithm: null,
      claimed_by: 'the sweeper',
      claimed_until: new Date(),
    })
    .execute()
  const received = {
    uploadId: id,
    claimedBy: 'me',
    key: 'k',
    repositoryId: repository.id,
    digest: blob.digest,
    size: 1,
  }
  assert.equal(await storedBlobs.commit(received, new Date()), undefined)
  assert.equal(
    (await records.selectFrom('blobs').selectAll().where('key', '=', 'k').execute()).length,
    0,
  )
})

test('a mount needs the source to have the blob at that moment', async (t) => {
  const { records, addBlob, projectId } = await createRegistryRecords(t)
  const { repository: from } = await addBlob('library/one', blob)
  const storedBlobs = createStoredBlobs(records)
  const mount = (name: string) =>
    storedBlobs.mount(
      { digest: blob.digest, from, to: { projectId, name: parseRepositoryName(name) } },
      new Date(),
    )
  const mounted = await mount('library/two')
  assert.equal(mounted?.name, 'library/two')
  await records.deleteFrom('links').where('repository_id', '=', from.id).execute()
  assert.equal(await mount('library/three'), undefined)
  const names = await records.selectFrom('repositories').select('name').execute()
  assert.deepEqual(names.map((row) => row.name).sort(), ['library/one', 'library/two'])
})

test('a revival takes back the link and the copy, and fails once the copy is gone', async (t) => {
  const { records, addBlob } = await createRegistryRecords(t)
  const { repository } = await addBlob('library/one', blob)
  const storedBlobs = createStoredBlobs(records)
  const revive = () => storedBlobs.revive({ repositoryId: repository.id, digest: blob.digest })
  await records
    .updateTable('blobs')
    .set({ state: 'condemned', condemned_at: new Date(0) })
    .execute()
  await records
    .updateTable('links')
    .set({ condemned_at: new Date(0) })
    .execute()
  assert.equal(await revive(), true)
  assert.equal(
    (await records.selectFrom('blobs').select('state').executeTakeFirst())?.state,
    'live',
  )
  await records.updateTable('blobs').set({ state: 'gone' }).execute()
  assert.equal(await revive(), false)
})

test('a blob that a manifest needs is not unlinked, not even by a deletion that raced the push', async (t) => {
  const { records, addBlob, putManifest } = await createRegistryRecords(t)
  const image = createImage({ seed: 'race', layers: 1 })
  let repository
  for (const content of image.blobs) ({ repository } = await addBlob('library/app', content))
  const [, layer] = image.blobs
  assert.ok(repository && layer)
  const order = { repository, digest: layer.digest }
  let unlinking: Promise<boolean> | undefined
  await records.transaction().execute(async (trx) => {
    // What a push holds while it commits.
    await trx
      .selectFrom('links')
      .select('digest')
      .where('digest', '=', layer.digest)
      .forKeyShare()
      .execute()
    unlinking = createStoredBlobs(records).unlink(order, new Date())
    unlinking.catch(() => undefined)
    await waitForLock(records)
    await putManifest('library/app', image.manifest)
  })
  assert.ok(unlinking)
  await assert.rejects(
    unlinking,
    (error) =>
      error instanceof OciError &&
      error.code === 'UNSUPPORTED' &&
      error.message.includes(image.manifest.digest),
  )
})

test('sources are those that hold the digest, public and own projects first', async (t) => {
  const { records, addBlob, createProject, caller, userId } = await createRegistryRecords(t)
  const { repository } = await addBlob('library/one', blob)
  const hidden = await createProject('hidden', false)
  const own = await createProject('own', false)
  for (const [projectId, name] of [
    [hidden, 'hidden/a'],
    [own, 'own/b'],
  ] as const) {
    const row = await records
      .insertInto('repositories')
      .values({ project_id: projectId, name, description: '' })
      .returning('id')
      .executeTakeFirstOrThrow()
    await records
      .insertInto('links')
      .values({ repository_id: row.id, digest: blob.digest })
      .execute()
  }
  await records
    .insertInto('members')
    .values({ project_id: own, user_id: userId, role_id: 3 })
    .execute()
  const found = await createStoredBlobs(records).sources({ digest: blob.digest, caller })
  assert.deepEqual(
    found.map((source) => source.repository.name),
    [repository.name, 'own/b', 'hidden/a'],
  )
  assert.deepEqual(
    found.map((source) => source.roleId),
    [undefined, 3, undefined],
  )
})

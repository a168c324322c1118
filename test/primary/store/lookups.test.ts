import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sql } from 'kysely'
import { createLookups } from '../../../primary/store/lookups.ts'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import { bytesOf, contentOf, type Content } from '../../kit/images.ts'
import { createRegistryRecords } from '../../kit/registry-records.ts'

const name = parseRepositoryName('library/app')
const anonymous = { kind: 'anonymous', access: undefined } as const

test('one look-up answers project, caller, role, repository, link and copy', async (t) => {
  const { records, caller, userId, projectId, addBlob } = await createRegistryRecords(t)
  const lookups = createLookups(records)
  const blob = contentOf(bytesOf('blob', 10))
  const before = await lookups.find({ repository: name, caller, digest: blob.digest })
  assert.deepEqual(before.access.project, { id: projectId, name: 'library', public: true })
  assert.equal(before.access.repository, undefined)
  assert.equal(before.blob, undefined)

  const { repository, key } = await addBlob(name, blob)
  await records
    .insertInto('members')
    .values({ project_id: projectId, user_id: userId, role_id: 2 })
    .execute()
  const after = await lookups.find({ repository: name, caller, digest: blob.digest })
  assert.deepEqual(after, {
    access: {
      caller: { kind: 'user', id: userId, admin: false },
      project: { id: projectId, name: 'library', public: true },
      roleId: 2,
      repository,
    },
    blob: { digest: blob.digest, key, size: 10, condemned: false },
  })
  const stranger = await lookups.find({ repository: name, caller: anonymous, digest: blob.digest })
  assert.equal(stranger.access.roleId, undefined)
  assert.equal(stranger.blob?.key, key)
})

test('a blob counts only through a link of this repository, and not once it is gone', async (t) => {
  const { records, caller, addBlob } = await createRegistryRecords(t)
  const lookups = createLookups(records)
  const blob = contentOf(bytesOf('linked', 10))
  const { repository } = await addBlob(name, blob)
  const find = async (text: string) =>
    (await lookups.find({ repository: parseRepositoryName(text), caller, digest: blob.digest }))
      .blob
  assert.equal(await find('library/other'), undefined)
  await records
    .updateTable('links')
    .set({ condemned_at: new Date() })
    .where('repository_id', '=', repository.id)
    .execute()
  assert.equal((await find('library/app'))?.condemned, true)
  await records.updateTable('links').set({ condemned_at: null }).execute()
  await records.updateTable('blobs').set({ state: 'condemned' }).execute()
  assert.equal((await find('library/app'))?.condemned, true)
  await records.updateTable('blobs').set({ state: 'gone' }).execute()
  assert.equal(await find('library/app'), undefined)
})

test('a blob of another repository stays unknown once the database has counted its rows and plans anew', async (t) => {
  const { records, caller, addBlob } = await createRegistryRecords(t)
  const lookups = createLookups(records)
  const blobs = Array.from({ length: 50 }, (_, index) => contentOf(bytesOf(`${index}`, 10)))
  for (const blob of blobs) await addBlob('library/other', blob)
  const [foreign, own] = blobs
  assert.ok(foreign && own)
  await addBlob(name, own)
  // What autovacuum does sooner or later: with few rows another order of the joins then looks best.
  await sql`ANALYZE`.execute(records)
  const find = async ({ digest }: Content) =>
    (await lookups.find({ repository: name, caller, digest })).blob
  assert.equal(await find(foreign), undefined)
  assert.equal((await find(own))?.digest, own.digest)
})

test('deleted names are not found, and a new one of that name inherits nothing', async (t) => {
  const { records, caller, projectId, addBlob, createProject } = await createRegistryRecords(t)
  const lookups = createLookups(records)
  const blob = contentOf(bytesOf('inherit', 10))
  await addBlob(name, blob)
  await records
    .updateTable('projects')
    .set({ deleted_at: new Date() })
    .where('id', '=', projectId)
    .execute()
  assert.equal((await lookups.find({ repository: name, caller })).access.project, undefined)
  const again = await createProject('library')
  const found = await lookups.find({ repository: name, caller, digest: blob.digest })
  assert.equal(found.access.project?.id, again)
  assert.equal(found.access.repository, undefined)
  assert.equal(found.blob, undefined)
})

test('accounts that are gone, disabled or expired have no facts', async (t) => {
  const { records, userId, projectId } = await createRegistryRecords(t)
  const lookups = createLookups(records)
  const robot = await records
    .insertInto('robots')
    .values({
      name: 'robot$library+ci',
      description: '',
      project_id: projectId,
      secret_hash: 'x',
      disabled: false,
      duration_days: 30,
      expires_at: new Date(Date.now() + 60_000),
      permissions: JSON.stringify([{ kind: 'project', namespace: 'library', access: [] }]),
      creator_kind: 'user',
      creator_id: userId,
    })
    .returning('id')
    .executeTakeFirstOrThrow()
  await records
    .insertInto('edges')
    .values({
      id: 'e1',
      name: 'edge one',
      credential_hash: 'x',
      scope: JSON.stringify([projectId]),
      accept_people: false,
    })
    .execute()
  const user = { kind: 'user', id: userId, name: 'someone', access: undefined } as const
  const machine = {
    kind: 'robot',
    id: robot.id,
    name: 'robot$library+ci',
    access: undefined,
  } as const
  const edge = { kind: 'edge', id: 'e1', name: 'edge$e1', access: undefined } as const
  const factsOf = async (caller: typeof user | typeof machine | typeof edge) => {
    const [alone, found] = [
      await lookups.caller(caller),
      await lookups.find({ repository: name, caller }),
    ]
    assert.deepEqual(alone, found.access.caller)
    return alone
  }
  assert.equal((await factsOf(machine))?.kind, 'robot')
  assert.deepEqual(await factsOf(edge), { kind: 'edge', id: 'e1', scope: [projectId] })
  for (const change of [{ disabled: true }, { disabled: false, expires_at: new Date(0) }]) {
    await records.updateTable('robots').set(change).execute()
    assert.equal(await factsOf(machine), undefined)
  }
  for (const change of [{ suspended: true }, { suspended: false, deleted_at: new Date() }]) {
    await records.updateTable('edges').set(change).execute()
    assert.equal(await factsOf(edge), undefined)
  }
  await records.updateTable('users').set({ deleted_at: new Date() }).execute()
  assert.equal(await factsOf(user), undefined)
  assert.deepEqual(await lookups.caller(anonymous), { kind: 'anonymous' })
})

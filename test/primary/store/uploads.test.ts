import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test, type TestContext } from 'node:test'
import { createUploads } from '../../../primary/store/uploads.ts'
import { parseRepositoryName } from '../../../shared/oci/reference.ts'
import { createRegistryRecords } from '../../kit/registry-records.ts'

async function open(t: TestContext) {
  const { records, projectId, facts } = await createRegistryRecords(t)
  const uploads = createUploads(records)
  const create = async (options: { owner?: string; name?: string; maxOpen?: number } = {}) => {
    const { owner = 'user:1', name = 'library/app', maxOpen = 100 } = options
    const id = randomUUID()
    const place = { projectId, name: parseRepositoryName(name) }
    const repository = await uploads.create(
      {
        id,
        key: id.replaceAll('-', ''),
        place,
        owner,
        algorithm: 'sha512',
        maxOpen,
        claim: undefined,
      },
      new Date(),
    )
    return repository && { id, repositoryId: repository.id, owner }
  }
  return { records, uploads, create, facts }
}

const claim = { by: 'one', forMs: 30_000 }

test('a session makes its repository once, and tells of it', async (t) => {
  const { create, facts } = await open(t)
  const sessions = await Promise.all(Array.from({ length: 5 }, () => create()))
  assert.equal(new Set(sessions.map((session) => session?.repositoryId)).size, 1)
  assert.deepEqual(
    (await facts()).map((fact) => fact.type),
    ['repository'],
  )
})

test('a session is found by its repository and its owner only', async (t) => {
  const { uploads, create } = await open(t)
  const session = await create()
  const other = await create({ name: 'library/other' })
  assert.ok(session && other)
  assert.equal((await uploads.find(session))?.algorithm, 'sha512')
  for (const wrong of [
    { owner: 'user:2' },
    { repositoryId: other.repositoryId },
    { id: randomUUID() },
  ]) {
    assert.equal(await uploads.find({ ...session, ...wrong }), undefined)
    assert.equal(await uploads.claim({ ...session, ...wrong }, claim), undefined)
  }
})

test('one request writes a session at a time; a claim that lapsed is free', async (t) => {
  const { uploads, create } = await open(t)
  const session = await create()
  assert.ok(session)
  const claims = await Promise.all([uploads.claim(session, claim), uploads.claim(session, claim)])
  assert.equal(claims.filter((result) => result === 'busy').length, 1)
  await uploads.release(session.id, 'another')
  assert.equal(await uploads.claim(session, claim), 'busy')
  await uploads.release(session.id, 'one')
  assert.notEqual(await uploads.claim(session, { by: 'two', forMs: 0 }), 'busy')
  assert.notEqual(await uploads.claim(session, claim), 'busy')
  await uploads.releaseAll('one')
  assert.notEqual(await uploads.claim(session, { by: 'two', forMs: 1000 }), 'busy')
})

test('an account has so many open sessions and no more', async (t) => {
  const { create } = await open(t)
  assert.ok(await create({ maxOpen: 2 }))
  assert.ok(await create({ maxOpen: 2 }))
  assert.equal(await create({ maxOpen: 2 }), undefined)
  assert.ok(await create({ maxOpen: 2, owner: 'user:2' }))
})

test('only sessions that nobody went on with, and nobody writes, expire', async (t) => {
  const { records, uploads, create } = await open(t)
  const [idle, written, fresh] = [await create(), await create(), await create()]
  assert.ok(idle && written && fresh)
  const old = new Date(Date.now() - 3_600_000)
  await records
    .updateTable('uploads')
    .set({ updated_at: old })
    .where('id', 'in', [idle.id, written.id])
    .execute()
  await uploads.claim(written, claim)
  const order = { idleMs: 1_800_000, claim: { by: 'sweeper', forMs: 30_000 }, limit: 10 }
  const expired = await uploads.claimExpired(order)
  assert.deepEqual(
    expired.map((session) => session.id),
    [idle.id],
  )
  assert.equal(await uploads.claim(idle, claim), 'busy')
  assert.deepEqual(await uploads.claimExpired(order), [])
  assert.equal(await uploads.remove(idle.id, 'one'), false)
  assert.equal(await uploads.remove(idle.id, 'sweeper'), true)
  assert.equal(await uploads.find(idle), undefined)
})

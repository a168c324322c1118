import assert from 'node:assert/strict'
import { Readable } from 'node:stream'
import { test, type TestContext } from 'node:test'
import type { BlobStore } from '../../../primary/store/blobs.ts'
import { localDisk } from '../../../primary/store/disk.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { createTestUploads, type TestUploads } from '../../kit/upload-sessions.ts'

const bytes = Buffer.from('hello')
const digest = digestOf(bytes)
const chunk = () => ({ body: Readable.from([bytes]), length: bytes.length, range: undefined })

/** A point that some code waits at until the test, or its end, lets it go on. */
function createGate(t: TestContext) {
  const [reached, opened] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()]
  t.after(() => opened.resolve())
  return {
    reached: reached.promise,
    open: opened.resolve,
    async pass() {
      reached.resolve()
      await opened.promise
    },
  }
}

/** Makes sessions due for the sweeper, the first longest. */
async function age({ records }: TestUploads, ids: readonly string[]): Promise<void> {
  for (const [index, id] of ids.entries()) {
    await records
      .updateTable('uploads')
      .set({ updated_at: new Date(index * 1000) })
      .where('id', '=', id)
      .execute()
  }
}

/** The copies that the records know, and whether the bytes are there. */
async function copiesOf({ records, blobs }: TestUploads) {
  const rows = await records.selectFrom('blobs').select(['key', 'digest', 'state']).execute()
  return Promise.all(
    rows.map(async ({ key, ...row }) => ({ ...row, size: (await blobs.stat(key))?.size })),
  )
}

async function listed(store: BlobStore): Promise<readonly string[]> {
  const keys: string[] = []
  for await (const { key } of store.list()) keys.push(key)
  return keys
}

const stored = [{ digest, state: 'live', size: bytes.length }]

test('a sweeper whose claim lapsed takes nothing from an upload that was finished meanwhile', async (t) => {
  const removing = createGate(t)
  const kit = await createTestUploads(t, {
    adapt: ({ blobs }) => ({
      blobs: {
        ...blobs,
        async abort(key) {
          await removing.pass()
          await blobs.abort(key)
        },
      },
    }),
  })
  const { sessions, target } = kit
  const [first, second] = [await sessions.open(target), await sessions.open(target)]
  await age(kit, [first.id, second.id])
  const sweeping = sessions.sweep(60_000)
  await removing.reached
  await kit.lapse(second.id)
  await sessions.finish({ ...target, id: second.id }, { digest, chunk: chunk() })
  removing.open()
  const swept = await sweeping
  assert.deepEqual(await copiesOf(kit), stored)
  assert.equal(swept, 1)
})

test('a sweeper whose claim lapsed leaves a session that somebody went on with', async (t) => {
  const removing = createGate(t)
  const kit = await createTestUploads(t, {
    adapt: ({ blobs }) => ({
      blobs: {
        ...blobs,
        async abort(key) {
          await removing.pass()
          await blobs.abort(key)
        },
      },
    }),
  })
  const { sessions, target } = kit
  const [first, second] = [await sessions.open(target), await sessions.open(target)]
  await age(kit, [first.id, second.id])
  const sweeping = sessions.sweep(60_000)
  await removing.reached
  await kit.lapse(second.id)
  await sessions.receive({ ...target, id: second.id }, chunk())
  removing.open()
  assert.equal(await sweeping, 1)
  assert.equal((await sessions.status({ ...target, id: second.id })).held, bytes.length)
})

test('of a finish whose claim lapsed and a cancel of the same primary, one wins', async (t) => {
  const [committing, cancelling] = [createGate(t), createGate(t)]
  const kit = await createTestUploads(t, {
    adapt: ({ blobs, storedBlobs }) => ({
      storedBlobs: {
        ...storedBlobs,
        async commit(...received) {
          await committing.pass()
          return storedBlobs.commit(...received)
        },
      },
      blobs: {
        ...blobs,
        async abort(key) {
          await cancelling.pass()
          await blobs.abort(key)
        },
      },
    }),
  })
  const { sessions, target } = kit
  const { id } = await sessions.open(target)
  const finishing = sessions.finish({ ...target, id }, { digest, chunk: chunk() })
  await committing.reached
  await kit.lapse(id)
  const cancelled = sessions.cancel({ ...target, id })
  await cancelling.reached
  committing.open()
  await assert.rejects(finishing, { code: 'BLOB_UPLOAD_UNKNOWN' })
  cancelling.open()
  await cancelled
  assert.deepEqual(await copiesOf(kit), [])
  assert.deepEqual(await listed(kit.blobs), [])
})

test('a finish whose session was cancelled before its bytes were named finds it gone', async (t) => {
  const naming = createGate(t)
  const kit = await createTestUploads(t, {
    disk: {
      ...localDisk,
      async rename(from, to) {
        await naming.pass()
        await localDisk.rename(from, to)
      },
    },
  })
  const { sessions, target } = kit
  const { id } = await sessions.open(target)
  const finishing = sessions.finish({ ...target, id }, { digest, chunk: chunk() })
  await naming.reached
  await kit.lapse(id)
  await sessions.cancel({ ...target, id })
  naming.open()
  await assert.rejects(finishing, { code: 'BLOB_UPLOAD_UNKNOWN' })
  assert.deepEqual(await listed(kit.blobs), [])
})

test('a session whose bytes cannot be removed keeps no other from being swept, and is told', async (t) => {
  let failures = 1
  const kit = await createTestUploads(t, {
    adapt: ({ blobs }) => ({
      blobs: {
        ...blobs,
        abort: (key) =>
          failures-- > 0 ? Promise.reject(new Error('the disk is broken')) : blobs.abort(key),
      },
    }),
  })
  const { sessions, target } = kit
  const ids = [(await sessions.open(target)).id, (await sessions.open(target)).id]
  await age(kit, ids)
  await assert.rejects(sessions.sweep(60_000), (error) => {
    assert.ok(error instanceof AggregateError)
    assert.match(String(error.errors), /the disk is broken/)
    return true
  })
  assert.deepEqual(await kit.records.selectFrom('uploads').select('id').execute(), [])
})

test('a primary that starts again lets go of what its requests held, and of nothing else', async (t) => {
  const kit = await createTestUploads(t)
  const { sessions, target, records } = kit
  const ids = await Promise.all(
    ['test one', 'test two', 'tester one'].map(async (by) => {
      const { id } = await sessions.open(target)
      await records
        .updateTable('uploads')
        .set({ claimed_by: by, claimed_until: new Date(Date.now() + 60_000) })
        .where('id', '=', id)
        .execute()
      return id
    }),
  )
  await sessions.recover()
  const answers = await Promise.allSettled(
    ids.map((id) => sessions.receive({ ...target, id }, chunk())),
  )
  assert.deepEqual(
    answers.map(({ status }) => status),
    ['fulfilled', 'fulfilled', 'rejected'],
  )
})

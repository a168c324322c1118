import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Records } from '../../../primary/store/database.ts'
import { createPieceLists, wantLists } from '../../../primary/store/piece-lists.ts'
import { blobsOf, createImage, createIndex, type Content } from '../../kit/images.ts'
import { createRegistryRecords } from '../../kit/registry-records.ts'

const mib = 1024 * 1024
const imageOf = (seed: string, layerBytes = 8 * mib) => createImage({ seed, layers: 1, layerBytes })
const digestsOf = (blobs: readonly Content[]) => blobs.map(({ digest }) => digest).sort()

async function wanting(records: Records): Promise<readonly string[]> {
  const rows = await records.selectFrom('wanted_lists').select('digest').orderBy('digest').execute()
  return rows.map(({ digest }) => digest)
}

test('large blobs of manifests and of all that these name want a list, once, and nothing else does', async (t) => {
  const { records, addImage } = await createRegistryRecords(t)
  const [one, two, other] = [imageOf('one'), imageOf('two'), imageOf('other')]
  const index = createIndex({ children: [createIndex({ children: [one] })] })
  const { id: repositoryId } = await addImage('library/app', index)
  for (const image of [two, imageOf('small', 8 * mib - 1), other])
    await addImage('library/app', image)
  await addImage('library/elsewhere', index)
  const chosen = [index, two].map(({ manifest: { digest } }) => ({ repositoryId, digest }))
  const want = (manifests: typeof chosen) =>
    records.transaction().execute((trx) => wantLists(trx, manifests))

  assert.equal(await want(chosen), true)
  const layers = [...blobsOf(one), ...blobsOf(two)].filter(({ bytes }) => bytes.length >= 8 * mib)
  assert.deepEqual(await wanting(records), digestsOf(layers))
  assert.equal(await want(chosen), false, 'once')
  await records.updateTable('blobs').set({ piece_list: one.manifest.digest }).execute()
  await records.deleteFrom('wanted_lists').execute()
  assert.equal(await want(chosen), false, 'nor what has one')
  assert.equal(await want([]), false)
})

test('who pushes what a rule is about to select does not wait for that', async (t) => {
  const { records, addImage } = await createRegistryRecords(t)
  const image = imageOf('one')
  const { id: repositoryId } = await addImage('library/app', image)
  const { digest } = image.manifest
  await records.transaction().execute(async (trx) => {
    assert.equal(await wantLists(trx, [{ repositoryId, digest }]), true)
    await addImage('library/elsewhere', image)
  })
  assert.equal((await wanting(records)).length, 1)
})

test('the newest comes first, of those that are large and of those that rules want', async (t) => {
  const { records, addBlob } = await createRegistryRecords(t)
  const blobs = ['large', 'wanted', 'unwanted', 'newest', 'listed'].map((seed) => {
    const [, layer] = imageOf(seed, seed === 'large' ? 10 * mib : 9 * mib).blobs
    assert.ok(layer)
    return { seed, ...layer }
  })
  for (const [day, blob] of blobs.entries()) {
    const { seed, digest } = blob
    const at = new Date(Date.UTC(2026, 0, 1 + day))
    await addBlob('library/app', blob)
    await records
      .updateTable('blobs')
      .set({ stored_at: at, piece_list: seed === 'listed' ? digest : null })
      .where('digest', '=', digest)
      .execute()
    if (seed !== 'unwanted')
      await records.insertInto('wanted_lists').values({ digest, wanted_at: at }).execute()
  }
  const lists = createPieceLists(records)
  const found: string[] = []
  const except: Content['digest'][] = []
  for (;;) {
    const blob = await lists.next(10 * mib, except)
    if (blob === undefined) break
    found.push(blobs.find(({ digest }) => digest === blob.digest)?.seed ?? '')
    except.push(blob.digest)
  }
  assert.deepEqual(found, ['newest', 'wanted', 'large'])
})

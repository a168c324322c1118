import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { createEvents } from '../../../primary/store/events.ts'
import { createTags } from '../../../primary/store/tags.ts'
import { streamOf } from '../../../shared/replication/events.ts'
import type { Tag } from '../../../shared/oci/reference.ts'
import { createImage } from '../../kit/images.ts'
import { createRegistryRecords } from '../../kit/registry-records.ts'

const tag = 'v1' as Tag

test('where a tag points is said with what moved it there last, numbered or not', async (t) => {
  const { records, addImage, putManifest } = await createRegistryRecords(t)
  const [tags, events] = [createTags(records), createEvents(records)]
  const sign = () => ({ payload: '', signatures: [] }) as never
  const [one, two] = [createImage({ seed: 'one' }), createImage({ seed: 'two' })]
  const repository = await addImage('library/app', one, ['v1', 'v1.1'])
  await addImage('library/other', one, ['v1'])
  await addImage('library/app', two)
  const waitingMoves = async () =>
    (await records.selectFrom('outbox').select(['id', 'body']).orderBy('id').execute())
      .map(({ id, body }) => ({ id, body, fact: (JSON.parse(body) as { fact: object }).fact }))
      .filter(({ fact }) => 'tag' in fact && fact.tag === tag)
      .filter(({ fact }) => 'repositoryId' in fact && fact.repositoryId === repository.id)
      .map(({ id, body }) => ({ id, bodyHash: createHash('sha256').update(body).digest('hex') }))

  const unnumbered = await tags.stateOf(repository, tag)
  assert.ok(typeof unnumbered === 'object')
  assert.equal(unnumbered.digest, one.manifest.digest)
  const [first] = await waitingMoves()
  assert.deepEqual(unnumbered.waiting, first)

  await putManifest('library/app', two.manifest, { tags: ['v1'] })
  const moved = await tags.stateOf(repository, tag)
  assert.ok(typeof moved === 'object')
  assert.deepEqual([moved.digest, moved.seq], [two.manifest.digest, unnumbered.seq])
  assert.deepEqual(moved.waiting, (await waitingMoves()).at(-1))
  assert.ok((moved.waiting?.id ?? 0) > (first?.id ?? Infinity))

  // What else waits in the project says nothing of this tag.
  await events.number(sign)
  await putManifest('library/app', two.manifest, { tags: ['v1.1'] })
  const { epoch, seq } = await events.head()
  assert.deepEqual(await tags.stateOf(repository, tag), { epoch, seq, digest: moved.digest })
  assert.equal(await tags.stateOf(repository, 'v2' as Tag), undefined)
})

test('behind a backlog nothing is said of a tag that waits in it', async (t) => {
  const { records, addImage } = await createRegistryRecords(t)
  const [tags, events] = [createTags(records), createEvents(records)]
  const fact = { type: 'project-deleted', projectId: 4711, name: 'none' } as const
  const row = { stream: streamOf(fact), body: JSON.stringify({ fact }) }
  await records.insertInto('outbox').values(Array(1000).fill(row)).execute()
  const repository = await addImage('library/app', createImage({ seed: 'late' }), ['v1'])
  assert.equal(await tags.stateOf(repository, tag), 'waits')
  await events.number(() => ({ payload: '', signatures: [] }) as never)
  assert.ok(typeof (await tags.stateOf(repository, tag)) === 'object')
})

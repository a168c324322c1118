import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createArtifacts } from '../../../primary/store/artifacts.ts'
import { createCatalog } from '../../../primary/store/catalog.ts'
import { createLabels } from '../../../primary/store/labels.ts'
import { createManifests } from '../../../primary/store/manifests.ts'
import { createProjects } from '../../../primary/store/projects.ts'
import { ApiError } from '../../../shared/api/errors.ts'
import { createImage } from '../../kit/images.ts'
import { waitForLock } from '../../kit/postgres.ts'
import {
  createRegistryRecords,
  testActor,
  type TestRegistryRecords,
} from '../../kit/registry-records.ts'

const hasCode = (code: string) => (error: unknown) =>
  error instanceof ApiError && error.code === code

const deed = { actor: testActor, now: new Date() }
const image = createImage({ seed: 'labels' })
const { digest } = image.manifest

/** An image in `library/app`, and how to look at its labels. */
async function createWorld(kit: TestRegistryRecords) {
  const { records, projectId } = kit
  const labels = createLabels(records)
  const artifacts = createArtifacts(records)
  const repository = await kit.addImage('library/app', image, ['v1'])
  const find = () =>
    artifacts.get(repository.id, { kind: 'digest', digest }, { withTags: false, withLabels: true })
  return {
    labels,
    repository,
    create: (name: string, options: { readonly global?: boolean } = {}) =>
      labels.create(
        {
          name,
          description: '',
          color: '',
          projectId: options.global === true ? undefined : projectId,
        },
        deed,
      ),
    async bearer() {
      const artifact = await find()
      assert.ok(artifact)
      return { artifact, repository }
    },
    labelsShown: async () => (await find())?.labels.map(({ name }) => name),
  }
}

test('a label and its rename are facts of its project, or of the system', async (t) => {
  const kit = await createRegistryRecords(t)
  const { records, projectId } = kit
  const { labels, create } = await createWorld(kit)
  const before = (await kit.facts()).length
  const [own, global] = [await create('own'), await create('everywhere', { global: true })]
  const text = { name: 'renamed', description: 'x', color: '#fff' }
  assert.ok(await labels.update(own, text, deed))
  assert.ok(await labels.remove(own, deed))
  assert.ok(!(await labels.update(own, text, deed)))
  assert.ok(!(await labels.remove(own, deed)))
  assert.ok(await labels.remove(global, deed))
  const rows = await records.selectFrom('outbox').select('stream').orderBy('id').execute()
  const facts = (await kit.facts()).slice(before)
  assert.deepEqual(
    facts.map((fact, index) => [rows[before + index]?.stream, fact]),
    [
      [`project:${projectId}`, { type: 'label', labelId: own, name: 'own', projectId }],
      ['system', { type: 'label', labelId: global, name: 'everywhere' }],
      [`project:${projectId}`, { type: 'label', labelId: own, name: 'renamed', projectId }],
      [`project:${projectId}`, { type: 'label-deleted', labelId: own, projectId }],
      ['system', { type: 'label-deleted', labelId: global }],
    ],
  )
  const audit = await records
    .selectFrom('audit')
    .select(['operation', 'resource', 'description', 'project_id'])
    .where('resource_type', '=', 'label')
    .orderBy('id')
    .execute()
  assert.deepEqual(
    audit.map((entry) => Object.values(entry).join(' ').trim()),
    [
      `create own  ${projectId}`,
      'create everywhere',
      `update own renamed to renamed ${projectId}`,
      `delete renamed  ${projectId}`,
      'delete everywhere',
    ],
  )
})

test('a deleted label is off its artifacts, and one of its name begins with none', async (t) => {
  const kit = await createRegistryRecords(t)
  const { labels, create, bearer, labelsShown } = await createWorld(kit)
  const [one, two] = [await create('one'), await create('two', { global: true })]
  await labels.attach(two, await bearer(), deed)
  await labels.attach(one, await bearer(), deed)
  await labels.remove(one, deed)
  assert.deepEqual(await labelsShown(), ['two'])
  assert.equal(await labels.get(one), undefined)
  const again = await create('one')
  assert.notEqual(again, one)
  assert.deepEqual(await labelsShown(), ['two'])
  await assert.rejects(labels.attach(one, await bearer(), deed), hasCode('NOT_FOUND'))
  await assert.rejects(labels.detach(one, await bearer(), deed), hasCode('NOT_FOUND'))
  await labels.detach(two, await bearer(), deed)
  const last = (await kit.facts()).at(-1)
  assert.ok(last?.type === 'manifest-labels')
  assert.deepEqual(last.labels, [], 'the deleted one is not among them')
})

test('a deleted manifest takes its labels along: pushed again, it has none', async (t) => {
  const kit = await createRegistryRecords(t)
  const { labels, repository, create, bearer, labelsShown } = await createWorld(kit)
  const label = await create('one')
  const former = await bearer()
  await labels.attach(label, former, deed)
  const order = { repository, digest, actor: testActor }
  await createManifests(kit.records).remove(order, new Date())
  await assert.rejects(labels.attach(label, former, deed), hasCode('NOT_FOUND'))
  await assert.rejects(labels.detach(label, former, deed), hasCode('NOT_FOUND'))
  await kit.putManifest('library/app', image.manifest)
  assert.deepEqual(await labelsShown(), [])

  // Who removes the row for good need not think of its labels.
  await kit.records.deleteFrom('manifests').where('id', '=', former.artifact.id).execute()
  assert.deepEqual(await kit.records.selectFrom('artifact_labels').selectAll().execute(), [])
})

test('a deleted project takes its labels along, under its own deletion', async (t) => {
  const kit = await createRegistryRecords(t)
  const { records, projectId } = kit
  const { labels, repository, create, bearer } = await createWorld(kit)
  const [own, global] = [await create('own'), await create('everywhere', { global: true })]
  await labels.attach(own, await bearer(), deed)
  const catalog = createCatalog(records)
  const found = await catalog.get(projectId, repository.name)
  assert.ok(found)
  await catalog.remove(found, deed)
  const before = (await kit.facts()).length
  assert.ok(await createProjects(records).remove(projectId, testActor, new Date()))
  assert.equal(await labels.get(own), undefined)
  assert.notEqual(await labels.get(global), undefined)
  assert.deepEqual((await kit.facts()).slice(before), [
    { type: 'label-deleted', labelId: own, projectId },
    { type: 'project-deleted', projectId, name: 'library' },
  ])
  const project = await records.selectFrom('projects').select('deletion_id').executeTakeFirst()
  const label = await records
    .selectFrom('labels')
    .select('deletion_id')
    .where('id', '=', own)
    .executeTakeFirst()
  assert.ok(project?.deletion_id)
  assert.equal(label?.deletion_id, project.deletion_id)
  await assert.rejects(create('late'), hasCode('NOT_FOUND'))
})

test('a label that is deleted while it is being attached is not attached', async (t) => {
  const kit = await createRegistryRecords(t)
  const { labels, create, bearer, labelsShown } = await createWorld(kit)
  const label = await create('one')
  const target = await bearer()
  let attaching: Promise<void> | undefined
  await kit.records.transaction().execute(async (trx) => {
    await trx.selectFrom('labels').select('id').where('id', '=', label).forUpdate().execute()
    attaching = labels.attach(label, target, deed)
    attaching.catch(() => undefined)
    await waitForLock(kit.records)
    await trx
      .updateTable('labels')
      .set({ deleted_at: new Date() })
      .where('id', '=', label)
      .execute()
  })
  assert.ok(attaching)
  await assert.rejects(attaching, hasCode('NOT_FOUND'))
  assert.deepEqual(await labelsShown(), [])
})

test('labels that are attached at once are all told, the last time all of them', async (t) => {
  const kit = await createRegistryRecords(t)
  const { labels, create, bearer } = await createWorld(kit)
  const ids = [await create('a'), await create('b'), await create('c'), await create('d')]
  const target = await bearer()
  await Promise.all(ids.map((id) => labels.attach(id, target, deed)))
  const told = (await kit.facts()).flatMap((fact) =>
    fact.type === 'manifest-labels' ? [fact.labels.length] : [],
  )
  assert.deepEqual(told, [1, 2, 3, 4])
})

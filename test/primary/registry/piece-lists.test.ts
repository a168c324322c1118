import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { listPieces } from '../../../primary/registry/piece-lists.ts'
import { createPieceLists } from '../../../primary/store/piece-lists.ts'
import { createSnapshots } from '../../../primary/store/snapshots.ts'
import { digestOf, type Digest } from '../../../shared/oci/digest.ts'
import type { EventBody } from '../../../shared/replication/events.ts'
import type { SnapshotLine } from '../../../shared/replication/feed.ts'
import { createHasher } from '../../../shared/stream/hasher.ts'
import { callApi, createRule } from '../../kit/api.ts'
import { waitFor } from '../../kit/clock.ts'
import {
  bytesOf,
  contentOf,
  createImage,
  createIndex,
  pushBlob,
  pushImage,
  type Content,
  type Image,
} from '../../kit/images.ts'
import { pieceListOf } from '../../kit/piece-lists.ts'
import { startTestPrimary, type TestPrimary } from '../../kit/primary.ts'
import type { RegistryClient } from '../../kit/registry-client.ts'

const mib = 1024 * 1024

let primary: TestPrimary
let client: RegistryClient

before(async () => {
  primary = await startTestPrimary({ primary: { piece_lists: { from: '2MiB' } } })
  client = primary.client(primary.admin)
  for (const project of ['one', 'two']) await primary.createProject(project, { isPublic: false })
})

const listOf = ({ bytes }: Content): Content => contentOf(pieceListOf(bytes))

const get = (repository: string, digest: Digest) =>
  client.request('GET', `/v2/${repository}/blobs/${digest}`)

/** The bodies of events that tell of a blob's list. */
async function told(digest: Digest, at = primary): Promise<readonly EventBody[]> {
  const rows = await at.records.selectFrom('events').select('body').orderBy('seq').execute()
  const bodies = rows.map(({ body }) => JSON.parse(String(body)) as EventBody)
  return bodies.filter(({ fact }) => fact.type === 'piece-list' && fact.digest === digest)
}

async function projectId(name: string, at = primary): Promise<number> {
  const { id } = await at.records
    .selectFrom('projects')
    .select('id')
    .where('name', '=', name)
    .executeTakeFirstOrThrow()
  return id
}

test('a large blob gets a list of its pieces, which goes wherever the blob goes, and nowhere else', async () => {
  const blob = contentOf(bytesOf('listed', 3 * mib + 5))
  const list = listOf(blob)
  const small = contentOf(bytesOf('small', 2 * mib - 1))
  await pushBlob(client, 'one/app', small)
  await pushBlob(client, 'one/app', blob)
  await waitFor('the list', async () => (await get('one/app', list.digest)).status === 200)
  assert.deepEqual((await get('one/app', list.digest)).body, list.bytes)
  assert.equal((await get('one/app', listOf(small).digest)).status, 404)
  assert.equal((await get('one/other', list.digest)).status, 404)

  const fact = { type: 'piece-list', digest: blob.digest, list: list.digest }
  const [one, two] = [await projectId('one'), await projectId('two')]
  await waitFor('the event', async () => (await told(blob.digest)).length === 1)
  const mount = { mount: blob.digest, from: 'one/app' }
  const mounted = await client.request('POST', '/v2/two/app/blobs/uploads/', { query: mount })
  assert.equal(mounted.status, 201)
  assert.equal((await get('two/app', list.digest)).status, 200)
  await pushBlob(client, 'two/pushed', blob)
  assert.equal((await get('two/pushed', list.digest)).status, 200)
  await waitFor('their events', async () => (await told(blob.digest)).length === 3)
  assert.deepEqual(
    (await told(blob.digest)).map(({ fact, skippable }) => ({ fact, skippable })),
    [one, two, two].map((projectId) => ({ fact: { ...fact, projectId }, skippable: true })),
  )

  const lines: SnapshotLine[] = []
  await createSnapshots(primary.records).read(`project:${two}`, async (line) => {
    lines.push(line)
  })
  assert.deepEqual(
    lines.filter((line) => 'pieceList' in line),
    [{ pieceList: { digest: blob.digest, list: list.digest }, skippable: true }],
  )

  const removed = await client.request('DELETE', `/v2/two/app/blobs/${blob.digest}`)
  assert.equal(removed.status, 202)
  assert.equal((await get('two/app', list.digest)).status, 404)
  assert.equal((await get('two/pushed', list.digest)).status, 200)
  const uploads = await primary.records.selectFrom('uploads').select('id').execute()
  assert.deepEqual(uploads, [], 'nothing is left half done')
})

test('what was there before is listed at the next start', async () => {
  const blob = contentOf(bytesOf('earlier', 2 * mib))
  await pushBlob(client, 'one/earlier', blob)
  const list = listOf(blob)
  await waitFor('the list', async () => (await get('one/earlier', list.digest)).status === 200)
  // As if it had been pushed to a primary that made none.
  await primary.records
    .updateTable('blobs')
    .set({ piece_list: null })
    .where('digest', '=', blob.digest)
    .execute()
  await primary.restart()
  await waitFor('the list to be named again', async () => {
    const row = await primary.records
      .selectFrom('blobs')
      .select('piece_list')
      .where('digest', '=', blob.digest)
      .executeTakeFirstOrThrow()
    return row.piece_list === list.digest
  })
})

test('bytes that are not what their digest says are not listed, and keep no other blob from it', async () => {
  const [right, wrong] = [bytesOf('right', 2 * mib), bytesOf('wrong', 2 * mib)]
  const blobs = [
    { digest: digestOf(bytesOf('another', 1)), key: 'wrong', size: wrong.length, repositoryId: 1 },
    { digest: digestOf(right), key: 'right', size: right.length, repositoryId: 1 },
  ]
  const listed: Digest[] = []
  const failed: [Digest, string][] = []
  const hasher = createHasher({ workerFromBytes: Infinity })
  const deps = {
    hasher,
    from: mib,
    primaryId: 'test',
    now: () => new Date(),
    records: {
      next: async (_from: number, except: readonly Digest[]) =>
        blobs.find(({ digest }) => ![...except, ...listed].includes(digest)),
      register: async () => undefined,
      commit: async () => true,
    },
    blobs: {
      open: async (key: string) => ({
        size: 2 * mib,
        read: async (into: Buffer, at: number) =>
          (key === 'right' ? right : wrong).copy(into, 0, at),
        close: async () => undefined,
      }),
      create: async () => undefined,
      append: async () => 0,
      commit: async () => ({ size: 1 }),
      remove: async () => true,
    },
    onListed: (digest: Digest) => void listed.push(digest),
    onFailed: (digest: Digest, error: unknown) => void failed.push([digest, String(error)]),
  }
  const { signal } = new AbortController()
  assert.equal(await listPieces(deps, { signal, maxMs: 60_000 }), true)
  assert.deepEqual(listed, [digestOf(right)])
  assert.deepEqual(failed, [[blobs[0]?.digest, 'Error: its bytes are not what its digest says']])
  assert.equal(await listPieces(deps, { signal, maxMs: 0 }), false)
  assert.equal(await listPieces(deps, { signal: AbortSignal.abort(), maxMs: 60_000 }), false)
})

test('what rules bring is listed from 8 MiB on: by event, by hand, and what an index names', async () => {
  const ruled = await startTestPrimary()
  await ruled.createProject('apps', { isPublic: false })
  const api = ruled.client(ruled.admin)
  const imageOf = (seed: string, layerBytes = 8 * mib + 1) =>
    createImage({ seed, layers: 1, layerBytes })
  const layerOf = (image: Image): Content => {
    const [, layer] = image.blobs
    assert.ok(layer)
    return layer
  }
  const listAt = async ({ digest }: Content): Promise<string | null> => {
    const row = await ruled.records
      .selectFrom('blobs')
      .select('piece_list')
      .where('digest', '=', digest)
      .executeTakeFirstOrThrow()
    return row.piece_list
  }
  const listed = (blob: Content) =>
    waitFor('the list', async () => (await listAt(blob)) === listOf(blob).digest)
  const group = { sites: ['berlin'] }

  const [before, after, manual] = [imageOf('before'), imageOf('after'), imageOf('manual')]
  const index = createIndex({ children: [imageOf('amd64'), imageOf('arm64', 8 * mib)] })
  const [small, other] = [imageOf('small', 8 * mib - 1), imageOf('other')]
  const unlisted = [small, other].map(layerOf)
  await pushImage(api, 'apps/other', other, 'v1')
  await pushImage(api, 'apps/app', before, 'v1')
  await createRule(api, { name: 'app', repositories: 'apps/app', ...group })
  await listed(layerOf(before))
  await pushImage(api, 'apps/app', small, 'v2')
  await pushImage(api, 'apps/app', after, 'v3')
  await pushImage(api, 'apps/app', index, 'v4')
  for (const image of [after, ...index.children]) await listed(layerOf(image))
  const fact = {
    type: 'piece-list',
    projectId: await projectId('apps', ruled),
    digest: layerOf(after).digest,
    list: listOf(layerOf(after)).digest,
  }
  await waitFor('the event', async () => (await told(layerOf(after).digest, ruled)).length === 1)
  assert.deepEqual(
    (await told(layerOf(after).digest, ruled)).map((body) => body.fact),
    [fact],
  )
  const list = await api.request('GET', `/v2/apps/app/blobs/${fact.list}`)
  assert.deepEqual(list.body, listOf(layerOf(after)).bytes)

  await pushImage(api, 'apps/manual', manual, 'v1')
  const rule = { name: 'manual', repositories: 'apps/manual', ...group }
  const policy = await createRule(api, { ...rule, trigger: { type: 'manual' } })
  assert.equal(await listAt(layerOf(manual)), null)
  await callApi(api, 'POST', '/replication/executions', { policy_id: policy })
  await listed(layerOf(manual))

  for (const blob of unlisted) assert.equal(await listAt(blob), null)
  const { next } = createPieceLists(ruled.records)
  assert.equal(await next(64 * mib, []), undefined, 'nothing is left to list')
  // As if it had been killed between the selection and the list.
  await ruled.records
    .updateTable('blobs')
    .set({ piece_list: null })
    .where('digest', '=', layerOf(after).digest)
    .execute()
  await ruled.records
    .insertInto('wanted_lists')
    .values({ digest: layerOf(after).digest })
    .execute()
  await ruled.restart()
  await listed(layerOf(after))
  for (const blob of unlisted) assert.equal(await listAt(blob), null)
})

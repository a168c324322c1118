import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { before, test } from 'node:test'
import { listPieces } from '../../../primary/registry/piece-lists.ts'
import { createSnapshots } from '../../../primary/store/snapshots.ts'
import { digestOf, type Digest } from '../../../shared/oci/digest.ts'
import type { EventBody } from '../../../shared/replication/events.ts'
import type { SnapshotLine } from '../../../shared/replication/feed.ts'
import { formatPieceList } from '../../../shared/replication/piece-list.ts'
import { createHasher } from '../../../shared/stream/hasher.ts'
import { waitFor } from '../../kit/clock.ts'
import { bytesOf, contentOf, pushBlob, type Content } from '../../kit/images.ts'
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

function listOf({ digest, bytes }: Content): Content {
  const hashes: Buffer[] = []
  for (let at = 0; at < bytes.length; at += mib)
    hashes.push(
      createHash('sha256')
        .update(bytes.subarray(at, at + mib))
        .digest(),
    )
  return contentOf(formatPieceList({ digest, size: bytes.length }, hashes))
}

const get = (repository: string, digest: Digest) =>
  client.request('GET', `/v2/${repository}/blobs/${digest}`)

/** The bodies of events that tell of a blob's list. */
async function told(digest: Digest): Promise<readonly EventBody[]> {
  const rows = await primary.records.selectFrom('events').select('body').orderBy('seq').execute()
  const bodies = rows.map(({ body }) => JSON.parse(String(body)) as EventBody)
  return bodies.filter(({ fact }) => fact.type === 'piece-list' && fact.digest === digest)
}

async function projectId(name: string): Promise<number> {
  const { id } = await primary.records
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

import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { before, test, type TestContext } from 'node:test'
import type { Records } from '../../../primary/store/database.ts'
import { createEdgeStandings } from '../../../primary/store/edge-standings.ts'
import { createEdges } from '../../../primary/store/edges.ts'
import { createManifests } from '../../../primary/store/manifests.ts'
import { createPullReports, type PullReports } from '../../../primary/store/pull-reports.ts'
import { createPulls } from '../../../primary/store/pulls.ts'
import type { RepositoryFacts } from '../../../primary/accounts/caller.ts'
import { parseManifest } from '../../../shared/oci/manifest.ts'
import { parseRepositoryName, type Tag } from '../../../shared/oci/reference.ts'
import type { ReportedPulls } from '../../../shared/replication/pulls.ts'
import { createImage, createIndex } from '../../kit/images.ts'
import { createRegistryRecords, testActor } from '../../kit/registry-records.ts'

const child = createImage({ seed: 'child' })
const index = createIndex({ children: [child] })
const absent = createImage({ seed: 'absent' })
const tag = 'v1' as Tag
let records: Records
let reports: PullReports
let repository: RepositoryFacts
let other: RepositoryFacts
const joined = new Date('2026-01-01T00:00:00Z')

before(async (t) => {
  const kit = await createRegistryRecords(t as unknown as TestContext)
  ;({ records } = kit)
  reports = createPullReports(records)
  repository = await kit.addImage('library/app', index, [tag])
  const otherId = await kit.createProject('other')
  other = await createManifests(records).put(
    {
      place: { projectId: otherId, name: parseRepositoryName('other/app') },
      digest: child.manifest.digest,
      content: child.manifest.bytes,
      manifest: parseManifest(child.manifest.bytes, child.manifest.mediaType),
      tags: [tag],
      conditions: { ifMatch: [], ifNoneMatch: [] },
      sparse: true,
      actor: testActor,
    },
    new Date(),
  )
  await records.updateTable('manifests').set({ pushed_at: joined }).execute()
  for (const [id, scope] of [
    ['wide', '*'],
    ['narrow', [kit.projectId]],
  ] as const)
    await createEdges(records).put(
      { id, name: id, scope, acceptsPeople: false },
      { secretHash: '', keepsKey: false, now: joined },
    )
})

async function countOf({ id }: RepositoryFacts): Promise<number> {
  const row = await records
    .selectFrom('repositories')
    .select('pull_count')
    .where('id', '=', id)
    .executeTakeFirstOrThrow()
  return row.pull_count
}

/** What a report adds to a repository's count. */
async function added(of: RepositoryFacts, work: () => Promise<unknown>): Promise<number> {
  const before = await countOf(of)
  await work()
  return (await countOf(of)) - before
}

const pull = (changes: Partial<ReportedPulls> = {}): ReportedPulls => ({
  repositoryId: repository.id,
  digest: index.manifest.digest,
  count: 1,
  agoMs: 0,
  ...changes,
})
const report = (...pulls: readonly ReportedPulls[]) => ({ log: randomUUID(), n: 1, pulls })
const now = new Date('2026-06-01T00:00:00Z')

test('a report counts as the primary counts its own, and once, also when two primaries get it', async () => {
  const told = report(
    pull({ tag, count: 3 }),
    pull({ count: 2 }),
    // An index of the repository names it.
    pull({ digest: child.manifest.digest, count: 50, agoMs: 1000 }),
  )
  const sum = await added(repository, async () => {
    const answers = await Promise.all([0, 1].map(() => reports.apply('wide', told, now)))
    assert.deepEqual(answers.map((answer) => answer?.isRepeated).sort(), [false, true])
    assert.deepEqual((await reports.apply('wide', told, now))?.n, 1)
  })
  assert.equal(sum, 5)
  const times = await records
    .selectFrom('manifests')
    .select('pulled_at')
    .where('repository_id', '=', repository.id)
    .orderBy('pulled_at')
    .execute()
  const earlier = new Date(now.getTime() - 1000)
  assert.deepEqual(times, [{ pulled_at: earlier }, { pulled_at: now }])
  const next = { ...told, n: 2 }
  assert.equal(await added(repository, () => reports.apply('wide', next, now)), 5)
})

test('what is foreign, or not there, does not count, and the rest does', async () => {
  const told = report(
    pull({ repositoryId: other.id, digest: child.manifest.digest, tag }),
    pull({ digest: absent.manifest.digest }),
    pull({ repositoryId: 2 ** 31 - 1 }),
    pull({ tag: 'never-there' as Tag }),
  )
  const sum = await added(other, async () => {
    const answer = await reports.apply('narrow', told, now)
    assert.deepEqual(answer?.lines, { counted: 1, cut: 0, outOfScope: 1, unknown: 2 })
  })
  assert.equal(sum, 0)
  const tags = await records
    .selectFrom('tags')
    .select('pulled_at')
    .where('name', '=', tag)
    .execute()
  assert.ok(tags.some(({ pulled_at }) => pulled_at === null))
})

test('a time does not go back, nor behind the push', async () => {
  const pulledAt = async () =>
    (
      await records
        .selectFrom('manifests')
        .select('pulled_at')
        .where('repository_id', '=', other.id)
        .executeTakeFirstOrThrow()
    ).pulled_at?.toISOString()
  const of = { repositoryId: other.id, digest: child.manifest.digest }
  await reports.apply('wide', report(pull({ ...of, agoMs: Number.MAX_SAFE_INTEGER })), now)
  assert.equal(await pulledAt(), joined.toISOString())
  await reports.apply('wide', report(pull(of)), now)
  await reports.apply('wide', report(pull({ ...of, agoMs: 60_000 })), now)
  const stored = await records
    .selectFrom('manifests')
    .select('id')
    .where('repository_id', '=', other.id)
    .executeTakeFirstOrThrow()
  const own = { manifestId: stored.id, byDigest: 1, byTag: 0, tags: [], lastAt: joined }
  await createPulls(records).add([{ ...of, ...own }])
  assert.equal(await pulledAt(), now.toISOString())
})

test('no edge can have served without end', async () => {
  const at = (seconds: number) => new Date(now.getTime() + seconds * 1000)
  const absurd = () => report(pull({ tag, count: Number.MAX_SAFE_INTEGER }))
  const first = await reports.apply('wide', absurd(), at(0))
  assert.deepEqual(first?.lines, { counted: 0, cut: 1, outOfScope: 0, unknown: 0 })
  assert.equal(await added(repository, () => reports.apply('wide', absurd(), at(0))), 0)
  assert.equal(await added(repository, () => reports.apply('wide', absurd(), at(2))), 100_000)
  // One that was as long away as it will has saved up a month.
  const month = 31 * 86_400 * 50_000
  assert.equal(await added(repository, () => reports.apply('wide', absurd(), at(1e8))), month)
  for (let log = 0; log < 8; log++) await reports.apply('wide', absurd(), at(1e8))
  const { logs } = await records
    .selectFrom('edge_pulls')
    .select('logs')
    .where('edge_id', '=', 'wide')
    .executeTakeFirstOrThrow()
  assert.equal(logs.length, 8, 'ever new logs are forgotten')
})

test('one that is suspended tells nothing', async () => {
  const deed = { actor: testActor, now }
  await createEdgeStandings(records).suspend('narrow', deed)
  assert.equal(await reports.apply('narrow', report(pull({ tag })), now), undefined)
  assert.equal(await reports.apply('nobody', report(pull({ tag })), now), undefined)
})

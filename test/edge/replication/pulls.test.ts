import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { sql } from 'kysely'
import { createIdentity } from '../../../edge/replication/identity.ts'
import { LinkRefusedError, openLink } from '../../../edge/replication/link.ts'
import type { ReportedPulls } from '../../../shared/replication/pulls.ts'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { createImage, createIndex, pushImage } from '../../kit/images.ts'
import { waitForLock } from '../../kit/postgres.ts'
import type { RegistryClient } from '../../kit/registry-client.ts'

let stand: FedStand
let edge: TestEdge
let ending: Pick<TestContext, 'after'>
let client: RegistryClient
let api: RegistryClient

before(async (t) => {
  ending = t as unknown as TestContext
  stand = await startFedStand(ending)
  edge = await stand.startEdge(ending)
  client = edge.client(stand.primary.admin, 'bearer')
  api = stand.primary.client(stand.primary.admin)
})

interface ShownRepository {
  readonly pull_count: number
}
interface ShownArtifact {
  readonly digest: string
  readonly pull_time: string
  readonly tags: readonly { readonly name: string; readonly pull_time: string }[] | null
}

async function countOf(name: string): Promise<number> {
  const answer = await api.request('GET', `/api/v2.0/projects/library/repositories/${name}`)
  return (answer.json() as ShownRepository).pull_count
}

/** What an artifact, and its tag, were pulled at. */
async function timesOf(name: string, digest: string) {
  const path = `/api/v2.0/projects/library/repositories/${name}/artifacts/${digest}?with_tag=true`
  const { pull_time, tags } = (await api.request('GET', path)).json() as ShownArtifact
  return { artifact: Date.parse(pull_time), tag: Date.parse(tags?.[0]?.pull_time ?? '') }
}

const told = (edge: TestEdge) =>
  waitFor('all to be told', async () => (await edge.metric('outport_edge_pulls_waiting')) === 0)

test('what is pulled at an edge is counted at its primary, and what the edge fetches is not', async () => {
  const child = createImage({ seed: 'child' })
  const index = createIndex({ children: [child] })
  await pushImage(api, 'library/counted', index, 'v1')
  const from = Date.now()
  const pull = (reference: string, method: 'GET' | 'HEAD' = 'GET', headers = {}) =>
    client.request(method, `/v2/library/counted/manifests/${reference}`, { headers })
  const { digest } = index.manifest
  const accept = { Accept: index.manifest.mediaType }
  assert.equal((await pull('v1', 'HEAD', accept)).status, 200)
  for (let time = 0; time < 3; time++) assert.equal((await pull('v1', 'GET', accept)).status, 200)
  assert.equal((await pull(child.manifest.digest)).status, 200)
  assert.equal((await pull(digest)).status, 200)
  const held = await pull('v1', 'GET', { ...accept, 'If-None-Match': `"${digest}"` })
  assert.equal(held.status, 304)
  await waitFor('the pulls', async () => (await countOf('counted')) >= 4)
  await told(edge)
  // Three by tag, and one by digest; not by digest what the index names, nor what the edge fetched.
  assert.equal(await countOf('counted'), 4)
  const times = await timesOf('counted', digest)
  assert.ok(times.artifact >= from - 1000 && times.tag >= from - 1000)
  assert.ok((await timesOf('counted', child.manifest.digest)).artifact >= from - 1000)
})

test('an edge that does not report is counted as anybody is, and no account gets out of it', async () => {
  const image = createImage({ seed: 'unreported' })
  await pushImage(api, 'library/unreported', image, 'v1')
  const { primary } = stand
  const own = primary.client({ username: 'edge$one', password: stand.secretOf('one') })
  const says = { 'Outport-Pulls': 'reported' }
  for (const [puller, headers] of [
    [own, {}],
    [own, says],
    [primary.client(), says],
    [api, says],
  ] as const) {
    const answer = await puller.request('GET', '/v2/library/unreported/manifests/v1', { headers })
    assert.equal(answer.status, 200)
  }
  await waitFor('the pulls', async () => (await countOf('unreported')) === 3)
})

test('pulls count once when the answer was lost and the edge started again', async () => {
  const image = createImage({ seed: 'again' })
  await pushImage(api, 'library/again', image, 'v1')
  const path = '/v2/library/again/manifests/v1'
  assert.equal((await client.request('GET', path)).status, 200)
  await waitFor('the first', async () => (await countOf('again')) === 1)
  await told(edge)
  const { records } = stand.primary
  await records.transaction().execute(async (trx) => {
    await sql`SELECT 1 FROM edges WHERE id = 'one' FOR NO KEY UPDATE`.execute(trx)
    assert.equal((await client.request('GET', path)).status, 200)
    // Its report is there, and waits; the edge is gone before the answer.
    await waitForLock(records)
    await edge.stop()
  })
  await waitFor('the second', async () => (await countOf('again')) === 2)
  edge = await stand.startEdge(ending, { data: edge.data })
  await told(edge)
  assert.equal(await countOf('again'), 2)
  const metrics = await (await fetch(new URL('/metrics', stand.primary.metricsUrl))).text()
  assert.match(metrics, /outport_primary_pull_reports_total\{[^}]*outcome="repeated"[^}]*\} 1\n/)
})

test('an edge that says nonsense, or reports without end is refused', async (t) => {
  const answer = await api.request('GET', '/service/trust')
  const { internal_url: url } = answer.json() as { readonly internal_url: string }
  const identity = createIdentity({
    folder: join(edge.data, 'edge/own-identity'),
    edge: { id: 'one', secret: '' },
    post: () => assert.fail('it has a certificate'),
    now: () => new Date(),
  })
  const link = openLink({
    url: new URL(url),
    identity: await identity.current(),
    instance: 'test',
    chooseProxy: () => undefined,
    connectTimeoutMs: 5000,
  })
  t.after(() => link.close())
  const log = randomUUID()
  const pull: ReportedPulls = {
    repositoryId: 1,
    digest: createImage({ seed: 'child' }).manifest.digest,
    count: 1,
    agoMs: 0,
  }
  const statusOf = (report: object) =>
    link.reportPulls({ log, n: 1, pulls: [pull], ...report }).then(
      () => 200,
      (error: unknown) => (error instanceof LinkRefusedError ? error.status : error),
    )
  for (const nonsense of [
    { log: 'mine' },
    { n: 0 },
    { pulls: [{ ...pull, digest: 'sha256:1' }] },
    { pulls: [{ ...pull, tag: '../up' }] },
    { pulls: [{ ...pull, agoMs: -60_000 }] },
    { pulls: [{ ...pull, count: 1e20 }] },
    { pulls: Array.from({ length: 2001 }, () => pull) },
  ])
    assert.equal(await statusOf(nonsense), 400, JSON.stringify(nonsense).slice(0, 100))
  assert.equal(await statusOf({}), 200)
  const many = await Promise.all(Array.from({ length: 80 }, () => statusOf({})))
  assert.ok(many.includes(200) && many.includes(429))
})

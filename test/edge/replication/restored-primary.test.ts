import assert from 'node:assert/strict'
import { before, test, type TestContext } from 'node:test'
import { sql } from 'kysely'
import { formatBasic } from '../../../shared/auth/basic.ts'
import { askApi } from '../../kit/api.ts'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { createImage, pushImage } from '../../kit/images.ts'
import type { Credentials } from '../../kit/registry-client.ts'

let stand: FedStand
let edge: TestEdge

before(async (t) => {
  stand = await startFedStand(t as unknown as TestContext)
  edge = await stand.startEdge(t as unknown as TestContext)
})

const digestAt = async (path: string, headers: Readonly<Record<string, string>>) => {
  const answer = await fetch(new URL(`/v2/${path}`, edge.url), { headers })
  await answer.body?.cancel()
  return answer.status === 200 ? answer.headers.get('docker-content-digest') : answer.status
}

/** A token of the edge, which is not asked for again. */
async function tokenFor({ username, password }: Credentials, repository: string): Promise<string> {
  const url = new URL(
    `/service/token?service=outport&scope=repository:${repository}:pull`,
    edge.url,
  )
  const answer = await fetch(url, {
    headers: { authorization: formatBasic({ username, password }) },
  })
  const { token } = (await answer.json()) as { readonly token: string }
  return token
}

test('a database from before is seen; edges take it as it is once that is accepted, and what had ended stays ended', async () => {
  const { primary } = stand
  const { records } = primary
  const pusher = primary.client(primary.admin)
  const api = (method: string, path: string, body: object = {}) =>
    askApi(pusher, method, path, method === 'POST' ? body : undefined)
  await primary.createProject('team', { isPublic: false })
  const [old, lost, fresh] = ['old', 'lost', 'fresh'].map((seed) => createImage({ seed }))
  assert.ok(old && lost && fresh)
  await pushImage(pusher, 'team/app', old, 'v1')
  const robot = await primary.createRobot('team', 'puller')
  const admin = { authorization: `Bearer ${await tokenFor(primary.admin, 'team/app')}` }
  const ended = { authorization: `Bearer ${await tokenFor(robot, 'team/app')}` }
  const isNumbered = async () =>
    (await records.selectFrom('outbox').select('id').executeTakeFirst()) === undefined
  await waitFor('all to be numbered', isNumbered)
  const backup = await records.selectFrom('event_head').selectAll().executeTakeFirstOrThrow()

  // What the copy does not know: a moved tag, a new one, and a robot that is gone.
  await pushImage(pusher, 'team/app', lost, 'v1')
  await pushImage(pusher, 'team/app', lost, 'v2')
  const { id: robotId } = await records.selectFrom('robots').select('id').executeTakeFirstOrThrow()
  await api('DELETE', `/robots/${robotId}`)
  await waitFor(
    'it all at the edge',
    async () => (await digestAt('team/app/manifests/v1', ended)) === 401,
  )
  assert.equal(await digestAt('team/app/manifests/v2', admin), lost.manifest.digest)

  const { seq, header_hash: hash } = backup
  await records.transaction().execute(async (trx) => {
    await sql`LOCK TABLE event_head IN ACCESS EXCLUSIVE MODE`.execute(trx)
    const digest = lost.manifest.digest
    await sql`DELETE FROM manifest_children c USING manifests m WHERE c.manifest_id = m.id AND m.digest = ${digest}`.execute(
      trx,
    )
    await sql`DELETE FROM manifests WHERE digest = ${digest}`.execute(trx)
    await sql`DELETE FROM tags WHERE name = 'v2'`.execute(trx)
    await sql`UPDATE tags SET digest = ${old.manifest.digest} WHERE name = 'v1'`.execute(trx)
    await sql`UPDATE robots SET deleted_at = NULL, deletion_id = NULL`.execute(trx)
    await sql`DELETE FROM event_batches WHERE last_seq > ${seq}`.execute(trx)
    await sql`DELETE FROM events WHERE seq > ${seq}`.execute(trx)
    await sql`DELETE FROM outbox`.execute(trx)
    await trx.updateTable('event_head').set({ seq, header_hash: hash }).execute()
  })
  // Pushes go on; what they say waits.
  await pushImage(pusher, 'team/app', fresh, 'v3')
  const behind = async () => {
    const answer = await api('GET', '/keys/epoch')
    return (answer.json() as { readonly behind?: { readonly seq: number } }).behind
  }
  await waitFor('it to be seen', async () => (await behind()) !== undefined)
  await primary.restart()
  assert.ok(((await behind())?.seq ?? 0) > seq, 'a restart changes nothing')
  const health = (await api('GET', '/health')).json() as {
    readonly components: readonly { readonly name: string; readonly error?: string }[]
  }
  const shown = health.components.find(({ name }) => name === 'log')
  assert.match(shown?.error ?? '', /outport keys accept-epoch/)
  const ready = await fetch(new URL('/readyz', primary.url))
  assert.equal(ready.status, 200, 'it serves')
  const metrics = await (await fetch(new URL('/metrics', primary.metricsUrl))).text()
  assert.match(metrics, /^outport_primary_log_behind\{.*\} 1$/m)
  assert.equal(await isNumbered(), false)
  assert.equal(await digestAt('team/app/manifests/v3', admin), fresh.manifest.digest)

  const accepted = await api('POST', '/keys/epoch')
  assert.equal((accepted.json() as { readonly epoch: number }).epoch, 2)
  await waitFor(
    'the edge to know the log as it is now',
    async () =>
      (await edge.metric('outport_edge_log_fresh')) === 1 &&
      (await edge.metric('outport_edge_log_connected')) === 1,
  )
  const now = { authorization: `Bearer ${await tokenFor(primary.admin, 'team/app')}` }
  assert.equal(await digestAt('team/app/manifests/v1', now), old.manifest.digest)
  assert.equal(await digestAt('team/app/manifests/v2', now), 404)
  assert.equal(await digestAt(`team/app/manifests/${lost.manifest.digest}`, now), 404)
  assert.equal(await digestAt('team/app/manifests/v3', now), fresh.manifest.digest)
  assert.equal(await digestAt('team/app/manifests/v1', ended), 401, 'what had ended stays ended')
  // What nobody lists any more stays here for a repair.
  const { length } = lost.manifest.bytes
  await waitFor(
    'it to be pinned',
    async () => (await edge.metric('outport_edge_cache_pinned_bytes')) === length,
  )
  await pushImage(pusher, 'team/app', fresh, 'v1')
  await waitFor(
    'events to come again',
    async () => (await digestAt('team/app/manifests/v1', now)) === fresh.manifest.digest,
  )
})

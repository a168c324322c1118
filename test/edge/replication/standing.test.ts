import assert from 'node:assert/strict'
import { cp, writeFile } from 'node:fs/promises'
import { once } from 'node:events'
import { request, type IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { before, test, type TestContext } from 'node:test'
import { formatBasic } from '../../../shared/auth/basic.ts'
import { waitFor } from '../../kit/clock.ts'
import { startFakeConsul, type FakeConsul } from '../../kit/consul.ts'
import { startTestEdge, type TestEdge } from '../../kit/edge.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { blobsOf, createImage, pushImage } from '../../kit/images.ts'
import type { RegistryClient } from '../../kit/registry-client.ts'
import { tempFolder } from '../../kit/temp.ts'

// What the primary makes of an edge, and what that does at the edge and around it.

let stand: FedStand
let consul: FakeConsul
let leaver: TestEdge
let other: TestEdge
let api: RegistryClient

interface Shown {
  readonly state: string
  readonly reason?: string
  readonly status?: {
    readonly transfers?: number
    readonly last_error: string
    readonly last_error_at?: string
  }
}

const call = async (method: string, path: string, body?: object) => {
  const answer = await api.request(method, `/api/v2.0/edges/${path}`, {
    ...(body !== undefined && { body: Buffer.from(JSON.stringify(body)) }),
    headers: { 'Content-Type': 'application/json' },
  })
  assert.equal(answer.status, 200, answer.body.toString())
  return JSON.parse(answer.body.toString()) as Shown
}
const isShown = (id: string, state: string) =>
  waitFor(`${id} to be ${state}`, async () => {
    const shown = await call('GET', id)
    return shown.state === state && shown
  })
const readiness = async ({ metricsUrl }: TestEdge) => {
  const answer = await fetch(new URL('/readyz', metricsUrl))
  const { checks } = (await answer.json()) as {
    readonly checks: readonly { readonly name: string; readonly ok: boolean }[]
  }
  return [answer.status, ...checks.filter(({ ok }) => !ok).map(({ name }) => name)]
}
const members = (count: number) =>
  waitFor(
    `${count} members of the site`,
    async () => (await other.metric('outport_edge_site_members')) === count,
  )

before(async (t) => {
  const after = t as unknown as TestContext
  stand = await startFedStand(after, { scopes: { leaver: ['*'], other: ['*'], copied: ['*'] } })
  api = stand.primary.client(stand.primary.admin)
  consul = await startFakeConsul(after)
  for (const id of ['leaver', 'other']) await call('PUT', id, { site: 'rack' })
  const peers = { port: 0 }
  leaver = await stand.startEdge(after, {
    id: 'leaver',
    edge: { peers, consul: { address: consul.url.origin } },
  })
  other = await stand.startEdge(after, { id: 'other', edge: { peers } })
  await members(2)
})

test('an edge that drains is found nowhere, serves who comes, says when it is done, and comes back', async () => {
  // More than sockets hold of one who does not read.
  const image = createImage({ seed: 'drain', layers: 1, layerBytes: 24 * 2 ** 20 })
  await pushImage(api, 'library/app', image, 'v1')
  await waitFor('the registration', () => consul.services.size === 1)
  assert.deepEqual(await readiness(leaver), [200])
  const largest = blobsOf(image).reduce((one, next) =>
    next.bytes.length > one.bytes.length ? next : one,
  )
  const running = request(new URL(`/v2/library/app/blobs/${largest.digest}`, leaver.url), {
    headers: { authorization: formatBasic(stand.primary.admin) },
  }).end()
  const [response] = (await once(running, 'response')) as [IncomingMessage]
  assert.equal(response.statusCode, 200)
  await call('POST', 'leaver/drain')
  await waitFor('it to be gone from Consul', () => consul.services.size === 0)
  await members(1)
  assert.deepEqual(await readiness(leaver), [503, 'service'])
  assert.equal((await fetch(new URL('/readyz', leaver.url))).status, 503)
  assert.deepEqual(await readiness(other), [200])
  const served = await leaver
    .client(stand.primary.admin, 'bearer')
    .request('GET', '/v2/library/app/manifests/v1')
  assert.equal(served.status, 200)
  // It says so itself, with what it still sends.
  await waitFor(
    'its word',
    async () => Number((await call('GET', 'leaver')).status?.transfers) >= 1,
  )
  assert.equal((await call('GET', 'leaver')).state, 'draining')
  let received = 0
  for await (const chunk of response) received += (chunk as Buffer).length
  assert.equal(received, largest.bytes.length, 'what it was sending it sends to the end')
  await isShown('leaver', 'drained')
  await call('POST', 'leaver/resume')
  await waitFor('it to be in Consul again', () => consul.services.size === 1)
  await members(2)
  assert.deepEqual(await readiness(leaver), [200])
  await isShown('leaver', 'ready')
})

test('an edge that the primary refuses is not ready, and says afterwards why it was not', async () => {
  await call('POST', 'leaver/suspend')
  await members(1)
  await waitFor('it to be refused', async () => (await readiness(leaver))[0] === 503)
  assert.deepEqual(await readiness(leaver), [503, 'log'])
  await call('POST', 'leaver/resume')
  await waitFor('it to be ready', async () => (await readiness(leaver))[0] === 200)
  await waitFor('its report', async () => {
    const { status } = await call('GET', 'leaver')
    // Having read that it was suspended it was cut once more.
    return (
      /^events of the primary: .*(?:403|ended the feed)/.test(status?.last_error ?? '') &&
      status?.last_error_at
    )
  })
})

test('a copied folder is no second edge: two that are it by turns are suspended, and that is written down', async (t) => {
  const first = await stand.startEdge(t, { id: 'copied' })
  const folder = await tempFolder(t)
  const identity = 'edge/own-identity'
  await cp(join(first.data, identity), join(folder, identity), { recursive: true })
  const secret = join(await tempFolder(t), 'secret')
  await writeFile(secret, 'secret-of-edge-copied-with-random-bits\n')
  const edge = {
    id: 'copied',
    credential_file: secret,
    primary: { url: stand.primary.url.origin },
    follow: true,
  }
  await startTestEdge(t, { data: folder, edge })
  const { reason = '' } = await isShown('copied', 'suspended')
  assert.match(reason, /^two machines were this edge by turns, from 127\.0\.0\.1/)
  const rows = await stand.primary.records
    .selectFrom('audit')
    .select(['username', 'description', 'address'])
    .where('resource', '=', 'copied')
    .where('description', 'like', 'suspended%')
    .execute()
  assert.deepEqual(rows, [
    { username: '', description: `suspended: ${reason}`, address: '127.0.0.1' },
  ])
  await waitFor('the first to be refused', async () => (await readiness(first))[0] === 503)
})

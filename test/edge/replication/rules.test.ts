import assert from 'node:assert/strict'
import { before, describe, test, type TestContext } from 'node:test'
import { callApi, createRule as createApiRule, type TestRule } from '../../kit/api.ts'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { blobsOf, createImage, createIndex, pushImage, type Image } from '../../kit/images.ts'
import type { Answer, RegistryClient } from '../../kit/registry-client.ts'

let stand: FedStand
let api: RegistryClient
let north: TestEdge
let south: TestEdge
let narrow: TestEdge
let ending: Pick<TestContext, 'after'>

before(async (t) => {
  ending = t as unknown as TestContext
  stand = await startFedStand(t as unknown as TestContext, {
    scopes: { north: ['*'], south: ['*'], narrow: ['open'], pruner: ['*'] },
  })
  api = stand.primary.client(stand.primary.admin)
  for (const [name, isPublic] of [
    ['open', true],
    ['apps', false],
  ] as const)
    await stand.primary.createProject(name, { isPublic })
  await call('PUT', '/edges/narrow', { scope: ['open'] })
  for (const [id, site] of Object.entries({
    north: 'berlin-1',
    south: 'rome-1',
    narrow: 'berlin-2',
  }))
    await call('PUT', `/edges/${id}`, { site })
  // An identity is one folder's: all tests have the same edges.
  north = await stand.startEdge(t as unknown as TestContext, { id: 'north' })
  south = await stand.startEdge(t as unknown as TestContext, { id: 'south' })
  narrow = await stand.startEdge(t as unknown as TestContext, { id: 'narrow' })
})

const call = (method: string, path: string, body?: object): Promise<Answer> =>
  callApi(api, method, path, body)

/** Keeps the primary from working out what rules select. @returns how it goes on */
async function pauseRules(): Promise<() => Promise<void>> {
  const held = Promise.withResolvers<void>()
  const end = Promise.withResolvers<void>()
  const holding = stand.primary.records.transaction().execute(async (trx) => {
    const cursor = trx.selectFrom('log_cursors').selectAll().where('name', '=', 'replication')
    await cursor.forUpdate().execute()
    held.resolve()
    await end.promise
  })
  await Promise.race([held.promise, holding])
  return () => {
    end.resolve()
    return holding
  }
}

/** As when an edge was away for longer than the log is kept. */
async function trimLog(): Promise<void> {
  const { records } = stand.primary
  const { seq } = await records.selectFrom('event_head').select('seq').executeTakeFirstOrThrow()
  await records.deleteFrom('events').where('seq', '<', seq).execute()
  await stand.primary.restart()
}

const nothingWaits = async () =>
  (await stand.primary.records.selectFrom('outbox').select('id').execute()).length === 0

/** A rule that follows, for these repositories and edges of these sites. */
const createRule = (name: string, rule: Omit<TestRule, 'name'>): Promise<number> =>
  createApiRule(api, { name, ...rule })

const held = (edge: TestEdge) => edge.metric('outport_edge_cache_blobs')

interface Execution {
  readonly id: number
  readonly status: string
  readonly succeed: number
  readonly total: number
}
const executionsOf = async (rule: number) =>
  (await call('GET', `/replication/executions?policy_id=${rule}`)).json() as readonly Execution[]

const sizeOf = (image: Image) => blobsOf(image).length + 1

describe('a rule', () => {
  test('brings what is pushed to the edges that it names, and to no others', async () => {
    const rule = await createRule('to-berlin', { repositories: 'apps/**', sites: ['berlin-*'] })
    const image = createImage({ seed: 'by rule', layers: 3 })
    await pushImage(api, 'apps/web', image, 'v1')
    await waitFor('all of the image', async () => (await held(north)) === sizeOf(image))
    await waitFor('the execution to end', async () => {
      const [newest] = await executionsOf(rule)
      return newest?.status === 'Succeed' && newest.succeed === newest.total
    })
    assert.equal(await held(south), 0)
    // In Berlin, but out of scope: to it the project is unknown.
    assert.equal(await held(narrow), 0)

    const client = north.client(stand.primary.admin, 'bearer')
    const from = stand.primaryLog.length
    const byTag = await client.request('GET', '/v2/apps/web/manifests/v1')
    assert.equal(byTag.headers['docker-content-digest'], image.manifest.digest)
    for (const { digest, bytes } of blobsOf(image)) {
      const blob = await client.request('GET', `/v2/apps/web/blobs/${digest}`)
      assert.deepEqual(blob.body, bytes)
    }
    const asked = stand.primaryLog
      .slice(from)
      .filter(({ route }) => route === 'manifest' || route === 'blob')
    assert.deepEqual(asked, [], 'a pull of what a rule brought asks for nothing')
  })

  test('of some platforms brings those alone', async () => {
    await createRule('amd64', {
      repositories: 'open/multi',
      sites: ['rome-*'],
      filters: [
        { type: 'name', value: 'open/multi' },
        { type: 'platform', value: ['linux/amd64'] },
      ],
    })
    const [amd, arm] = [createImage({ seed: 'amd' }), createImage({ seed: 'arm' })]
    const index = createIndex({ children: [amd, arm] })
    const before = await held(south)
    await pushImage(api, 'open/multi', index, 'v1')
    await waitFor(
      'the index and one image',
      async () => (await held(south)) === before + 1 + sizeOf(amd),
    )
  })

  test('that wants images whole keeps the tag where it was until all of the next one is here', async () => {
    await createRule('whole', { repositories: 'open/whole', sites: ['rome-*'], serve: 'complete' })
    const [old, next] = [createImage({ seed: 'whole old' }), createImage({ seed: 'whole next' })]
    await pushImage(api, 'open/whole', old, 'v1')
    const client = south.client(stand.primary.admin, 'bearer')
    const answered = async () =>
      (await client.request('GET', '/v2/open/whole/manifests/v1')).headers['docker-content-digest']
    await waitFor('the first image', async () => (await answered()) === old.manifest.digest)
    await pushImage(api, 'open/whole', next, 'v1')
    await waitFor('the next one', async () => (await answered()) === next.manifest.digest)
    for (const { digest } of blobsOf(next)) {
      const blob = await client.request('HEAD', `/v2/open/whole/blobs/${digest}`)
      assert.equal(blob.status, 200)
    }
  })

  test('that wants images whole holds a tag back also while nobody knows yet whether it selects it', async () => {
    await createRule('late', {
      repositories: 'open/late',
      sites: ['rome-*'],
      serve: 'complete',
      filters: [
        { type: 'name', value: 'open/late' },
        { type: 'semver', value: '>=1.0.0' },
      ],
    })
    const [old, next] = [createImage({ seed: 'late old' }), createImage({ seed: 'late next' })]
    const client = south.client(stand.primary.admin, 'bearer')
    const answered = async (tag: string) =>
      (await client.request('GET', `/v2/open/late/manifests/${tag}`)).headers[
        'docker-content-digest'
      ]
    for (const tag of ['1.0.0', 'latest']) {
      await pushImage(api, 'open/late', old, tag)
      await waitFor(tag, async () => (await answered(tag)) === old.manifest.digest)
    }
    const resume = await pauseRules()
    try {
      for (const tag of ['1.0.0', 'latest', '1.1.0']) await pushImage(api, 'open/late', next, tag)
      await waitFor('the tags at the edge', async () => {
        const { seq } = await stand.primary.records
          .selectFrom('event_head')
          .select('seq')
          .executeTakeFirstOrThrow()
        return (await south.metric('outport_edge_log_seq')) >= seq && (await nothingWaits())
      })
      const seen = [await answered('1.0.0'), await answered('latest'), await answered('1.1.0')]
      assert.deepEqual(seen, [old.manifest.digest, old.manifest.digest, undefined])
    } finally {
      await resume()
    }
    for (const tag of ['1.0.0', 'latest', '1.1.0'])
      await waitFor(tag, async () => (await answered(tag)) === next.manifest.digest)
  })

  test('brings an edge that comes back after its log is gone only what it lacks', async () => {
    await createRule('away', {
      repositories: 'open/away',
      sites: ['rome-*'],
      serve: 'complete',
    })
    const [old, next] = [createImage({ seed: 'away old' }), createImage({ seed: 'away next' })]
    await pushImage(api, 'open/away', old, 'v1')
    const answered = async () =>
      (
        await south
          .client(stand.primary.admin, 'bearer')
          .request('GET', '/v2/open/away/manifests/v1')
      ).headers['docker-content-digest']
    await waitFor('the first image', async () => (await answered()) === old.manifest.digest)
    await south.stop()
    const resume = await pauseRules()
    const from = stand.primaryLog.length
    try {
      await pushImage(api, 'open/away', next, 'v1')
      await waitFor('the log', nothingWaits)
      await trimLog()
      south = await stand.startEdge(ending, { id: 'south', data: south.data })
      // The snapshot says where the tag is, and that nobody knows yet what the rule makes of it.
      assert.equal(await answered(), old.manifest.digest)
    } finally {
      await resume()
    }
    await waitFor('the next one', async () => (await answered()) === next.manifest.digest)
    const asked = stand.primaryLog.slice(from)
    assert.ok(asked.some(({ route }) => String(route).startsWith('/snapshots')))
    const count = (of: string) => asked.filter(({ route }) => route === of).length
    const gets = asked.filter(({ method }) => method === 'GET')
    assert.equal(count('blob'), blobsOf(next).length)
    assert.equal(gets.filter(({ route }) => route === 'manifest').length, 1)
  })

  test('is all that an edge holds that prunes', async (t) => {
    const prune = { mode: 'on', limit: 100, every: '1s' }
    const pruner = await stand.startEdge(t, { id: 'pruner', edge: { cache: { prune } } })
    const rule = { repositories: 'open/stays', sites: ['oulu'] }
    await call('PUT', '/edges/pruner', { site: 'oulu' })
    await createRule('stays', rule)
    const [stays, goes] = [createImage({ seed: 'stays' }), createImage({ seed: 'goes' })]
    await pushImage(api, 'open/stays', stays, 'v1')
    await pushImage(api, 'open/goes', goes, 'v1')
    const client = pruner.client(stand.primary.admin, 'bearer')
    const pull = async (image: Image, name: string) => {
      for (const path of ['manifests/v1', ...blobsOf(image).map(({ digest }) => `blobs/${digest}`)])
        assert.equal((await client.request('GET', `/v2/open/${name}/${path}`)).status, 200)
    }
    await pull(goes, 'goes')
    await waitFor('what the rule brings alone', async () => (await held(pruner)) === sizeOf(stays))
    const pruned = pruner.log.filter(({ msg }) => msg === 'what nothing keeps here was pruned')
    assert.ok(pruned.length > 0)
    await waitFor('the primary to hear of it', async () => {
      const shown = (await call('GET', '/edges/pruner')).json() as {
        readonly status: { readonly prune?: { readonly removed?: { readonly blobs: number } } }
      }
      return (shown.status.prune?.removed?.blobs ?? 0) > 0
    })
    // What has gone comes again for who asks.
    await pull(goes, 'goes')
    await pull(stays, 'stays')
  })

  test('follows an edge that an administrator moves', async () => {
    await createRule('to-oslo', { repositories: 'open/moved', sites: ['oslo-*'] })
    const image = createImage({ seed: 'moved' })
    await pushImage(api, 'open/moved', image, 'v1')
    const before = await held(narrow)
    await call('PUT', '/edges/narrow', { site: 'oslo-3' })
    await waitFor('the image', async () => (await held(narrow)) === before + sizeOf(image))
  })
})

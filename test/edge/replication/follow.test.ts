import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { waitFor } from '../../kit/clock.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { createImage, pushImage, pushManifest } from '../../kit/images.ts'
import type { RegistryClient } from '../../kit/registry-client.ts'

/** What the primary was asked for since the last look, as `METHOD path-kind status`. */
function requestsOf({ primaryLog }: FedStand) {
  let from = primaryLog.length
  return () => {
    const seen = primaryLog
      .slice(from)
      .filter(({ route }) => route === 'manifest' || route === 'blob')
      .map(({ method, status }) => `${String(method)} ${String(status)}`)
    from = primaryLog.length
    return seen
  }
}

const digestAt = async (client: RegistryClient, path: string): Promise<unknown> => {
  const answer = await client.request('GET', `/v2/${path}`)
  return answer.status === 200 ? answer.headers['docker-content-digest'] : answer.status
}

describe('an edge that follows its primary', () => {
  test('knows a moved tag without asking for it', async (t) => {
    const stand = await startFedStand(t)
    const { primary } = stand
    await primary.createProject('private', { isPublic: false })
    const [old, next] = [createImage({ seed: 'old' }), createImage({ seed: 'next' })]
    const pusher = primary.client(primary.admin)
    await pushImage(pusher, 'private/app', old, 'latest')
    const edge = await stand.startEdge(t)
    const client = edge.client(primary.admin, 'bearer')
    assert.equal(await digestAt(client, 'private/app/manifests/latest'), old.manifest.digest)

    await pushImage(pusher, 'private/app', next)
    assert.equal(
      await digestAt(client, `private/app/manifests/${next.manifest.digest}`),
      next.manifest.digest,
    )
    const requests = requestsOf(stand)
    await pushManifest(pusher, 'private/app', next.manifest, 'latest')
    await waitFor(
      'the moved tag',
      async () => (await digestAt(client, 'private/app/manifests/latest')) === next.manifest.digest,
    )
    assert.deepEqual(requests(), ['PUT 201'])
  })

  test('ends what was deleted at once, by tag and by digest', async (t) => {
    const stand = await startFedStand(t)
    const { primary } = stand
    await primary.createProject('team', { isPublic: true })
    const image = createImage({ seed: 'short-lived' })
    const pusher = primary.client(primary.admin)
    await pushImage(pusher, 'team/app', image, 'v1')
    const edge = await stand.startEdge(t)
    const client = edge.client(primary.admin, 'bearer')
    const byTag = 'team/app/manifests/v1'
    const byDigest = `team/app/manifests/${image.manifest.digest}`
    assert.equal(await digestAt(client, byTag), image.manifest.digest)
    assert.equal(await digestAt(client, byDigest), image.manifest.digest)
    const deleted = await pusher.request('DELETE', `/v2/${byDigest}`)
    assert.equal(deleted.status, 202)
    for (const path of [byTag, byDigest])
      await waitFor(`no ${path}`, async () => (await digestAt(client, path)) === 404)
  })

  test('goes on serving when its primary is gone, and says so once the lease is over', async (t) => {
    const stand = await startFedStand(t)
    const { primary } = stand
    await primary.createProject('team', { isPublic: true })
    const image = createImage({ seed: 'kept' })
    await pushImage(primary.client(primary.admin), 'team/app', image, 'v1')
    const edge = await stand.startEdge(t)
    const client = edge.client(primary.admin, 'bearer')
    assert.equal(await digestAt(client, 'team/app/manifests/v1'), image.manifest.digest)
    await primary.stop()
    assert.equal(await digestAt(client, 'team/app/manifests/v1'), image.manifest.digest)
  })

  test('has what happened while it was down as soon as it is back, by the log and not by a snapshot', async (t) => {
    const stand = await startFedStand(t)
    const { primary } = stand
    await primary.createProject('team', { isPublic: true })
    const [old, next] = [createImage({ seed: 'before' }), createImage({ seed: 'after' })]
    const pusher = primary.client(primary.admin)
    await pushImage(pusher, 'team/app', old, 'v1')
    const edge = await stand.startEdge(t)
    assert.equal(
      await digestAt(edge.client(primary.admin, 'bearer'), 'team/app/manifests/v1'),
      old.manifest.digest,
    )
    await edge.stop()
    await pushImage(pusher, 'team/app', next, 'v1')
    const from = stand.primaryLog.length
    const again = await stand.startEdge(t, { data: edge.data })
    assert.equal(
      await digestAt(again.client(primary.admin, 'bearer'), 'team/app/manifests/v1'),
      next.manifest.digest,
    )
    const routes = stand.primaryLog.slice(from).map(({ route }) => String(route))
    assert.ok(routes.includes('/feed') || routes.includes('/lease'), routes.join(' '))
    assert.deepEqual(
      routes.filter((route) => route.startsWith('/snapshots')),
      [],
    )
  })
})

describe('a right that ended', () => {
  test('ends tokens and remembered log-ins at the edge', async (t) => {
    const stand = await startFedStand(t)
    const { primary } = stand
    await primary.createProject('secret', { isPublic: false })
    const image = createImage({ seed: 'secret' })
    await pushImage(primary.client(primary.admin), 'secret/app', image, 'v1')
    const robot = await primary.createRobot('secret', 'puller')
    const edge = await stand.startEdge(t)
    const path = 'secret/app/manifests/v1'
    const clients = [edge.client(robot, 'bearer'), edge.client(robot, 'basic')]
    for (const client of clients) assert.equal(await digestAt(client, path), image.manifest.digest)

    const api = primary.client(primary.admin)
    const listed = (await primary.records.selectFrom('robots').select('id').execute()).map(
      ({ id }) => id,
    )
    for (const id of listed)
      assert.equal((await api.request('DELETE', `/api/v2.0/robots/${id}`)).status, 200)
    for (const client of clients)
      await waitFor('no more', async () => (await digestAt(client, path)) === 401)
  })
})

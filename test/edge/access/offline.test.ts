import assert from 'node:assert/strict'
import { test } from 'node:test'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { startFedStand } from '../../kit/fed-edge.ts'
import { createImage, pushImage } from '../../kit/images.ts'
import type { Credentials } from '../../kit/registry-client.ts'

const pull = async (
  edge: TestEdge,
  path: string,
  who: Credentials | undefined,
  scheme: 'bearer' | 'basic' = 'bearer',
): Promise<unknown> => {
  // Without a token that it got before.
  const answer = await edge.client(who, scheme).request('GET', `/v2/${path}`)
  return answer.status === 200 ? answer.headers['docker-content-digest'] : answer.status
}

test('an edge that is cut off goes on for whom it knows, and for what everybody may have', async (t) => {
  const stand = await startFedStand(t)
  const { primary } = stand
  let edge = await stand.startEdge(t)
  const image = createImage({ seed: 'offline' })
  const pusher = primary.client(primary.admin)
  for (const name of ['open', 'secret', 'other']) {
    await primary.createProject(name, { isPublic: name === 'open' })
    for (const repository of ['app', 'tool'])
      await pushImage(pusher, `${name}/${repository}`, image, 'v1')
  }
  const known = await primary.createRobot('secret', 'known')
  const ended = await primary.createRobot('secret', 'ended')
  const unseen = await primary.createRobot('secret', 'unseen')
  const { digest } = image.manifest
  // Held here, by whoever asked.
  for (const path of ['open/app', 'open/tool', 'secret/app', 'secret/tool', 'other/app'])
    assert.equal(await pull(edge, `${path}/manifests/v1`, primary.admin), digest)
  for (const robot of [known, ended])
    assert.equal(await pull(edge, 'secret/app/manifests/v1', robot), digest)

  await waitFor(
    'the edge to know three accounts',
    async () => (await edge.metric('outport_edge_known_accounts')) === 3,
  )
  const { id } = await primary.records
    .selectFrom('robots')
    .select('id')
    .where('name', 'like', '%ended')
    .executeTakeFirstOrThrow()
  assert.equal((await pusher.request('DELETE', `/api/v2.0/robots/${id}`)).status, 200)
  await waitFor(
    'the log to tell of it',
    async () => (await pull(edge, 'secret/app/manifests/v1', ended)) === 401,
  )
  await primary.stop()

  const look = async () => {
    assert.equal(await pull(edge, 'secret/app/manifests/v1', known), digest, 'whom it knows')
    assert.equal(await pull(edge, 'secret/app/manifests/v1', known, 'basic'), digest, 'by Basic')
    const tool = await pull(edge, 'secret/tool/manifests/v1', known)
    assert.equal(tool, digest, 'what it may pull, and did not yet')
    assert.equal(await pull(edge, 'other/app/manifests/v1', known), 401, 'what it may not')
    assert.equal(await pull(edge, 'open/app/manifests/v1', undefined), digest, 'nobody')
    assert.equal(await pull(edge, 'secret/app/manifests/v1', undefined), 401, 'nobody')
    assert.equal(await pull(edge, 'secret/app/manifests/v1', ended), 401, 'whose right ended')
    assert.equal(await pull(edge, 'secret/app/manifests/v1', unseen), 401, 'whom it never saw')
    const wrong = { ...known, password: 'Wrong-1234' }
    assert.equal(await pull(edge, 'secret/app/manifests/v1', wrong), 401, 'a wrong password')
    const refusal = await edge.client(wrong, 'basic').request('GET', '/v2/secret/app/manifests/v1')
    assert.deepEqual([refusal.status, refusal.codes()], [503, ['UNAVAILABLE']])
  }
  await look()
  await edge.stop()
  edge = await stand.startEdge(t, { data: edge.data, isAlone: true })
  assert.equal(await pull(edge, 'secret/app/manifests/v1', known), digest, 'after a restart')
  assert.equal(await pull(edge, 'secret/app/manifests/v1', ended), 401, 'after a restart')
  assert.ok((await edge.metric('outport_edge_offline_logins_total', { outcome: 'taken' })) >= 1)
  assert.ok((await edge.metric('outport_edge_offline_logins_total', { outcome: 'refused' })) >= 1)
})

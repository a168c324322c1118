import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, request as forward } from 'node:http'
import type { AddressInfo } from 'node:net'
import { before, describe, test, type TestContext } from 'node:test'
import { waitFor } from '../../kit/clock.ts'
import { startFedStand, type FedStand } from '../../kit/fed-edge.ts'
import { createImage, pushImage, pushManifest } from '../../kit/images.ts'
import type { TestEdge } from '../../kit/edge.ts'
import type { RegistryClient } from '../../kit/registry-client.ts'

// One primary for all: in the last test it goes.
let stand: FedStand
let edge: TestEdge
let ending: Pick<TestContext, 'after'>

before(async (t) => {
  ending = t as unknown as TestContext
  stand = await startFedStand(ending)
  edge = await stand.startEdge(ending)
})

/** What the primary was asked for since the last look, as `METHOD status`. */
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

/** Stands before a primary, and is away for some of its paths. @returns its URL */
async function startFront(
  t: Pick<TestContext, 'after'>,
  target: URL,
  isAway: (path: string) => boolean,
): Promise<string> {
  const front = createServer((request, response) => {
    const path = request.url ?? ''
    if (isAway(path)) {
      response.writeHead(503).end()
      return
    }
    const on = new URL(path, target)
    const { method, headers } = request
    request.pipe(
      forward(on, { method, headers: { ...headers, host: on.host } }, (answer) => {
        response.writeHead(answer.statusCode ?? 502, answer.headers)
        answer.pipe(response)
      }).on('error', () => response.destroy()),
    )
  })
  front.listen(0, '127.0.0.1')
  await once(front, 'listening')
  t.after(() => {
    front.closeAllConnections()
    front.close()
  })
  return `http://127.0.0.1:${(front.address() as AddressInfo).port}`
}

const digestAt = async (client: RegistryClient, path: string): Promise<unknown> => {
  const answer = await client.request('GET', `/v2/${path}`)
  return answer.status === 200 ? answer.headers['docker-content-digest'] : answer.status
}

describe('an edge that follows its primary', () => {
  test('knows a moved tag without asking for it', async () => {
    const { primary } = stand
    await primary.createProject('private', { isPublic: false })
    const [old, next] = [createImage({ seed: 'old' }), createImage({ seed: 'next' })]
    const pusher = primary.client(primary.admin)
    await pushImage(pusher, 'private/app', old, 'latest')
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

  test('ends what was deleted at once, by tag and by digest', async () => {
    const { primary } = stand
    await primary.createProject('deleted', { isPublic: true })
    const image = createImage({ seed: 'short-lived' })
    const pusher = primary.client(primary.admin)
    await pushImage(pusher, 'deleted/app', image, 'v1')
    const client = edge.client(primary.admin, 'bearer')
    const byTag = 'deleted/app/manifests/v1'
    const byDigest = `deleted/app/manifests/${image.manifest.digest}`
    assert.equal(await digestAt(client, byTag), image.manifest.digest)
    assert.equal(await digestAt(client, byDigest), image.manifest.digest)
    const deleted = await pusher.request('DELETE', `/v2/${byDigest}`)
    assert.equal(deleted.status, 202)
    for (const path of [byTag, byDigest])
      await waitFor(`no ${path}`, async () => (await digestAt(client, path)) === 404)
  })
})

describe('a right that ended', () => {
  test('ends tokens and remembered log-ins at the edge', async () => {
    const { primary } = stand
    await primary.createProject('secret', { isPublic: false })
    const image = createImage({ seed: 'secret' })
    await pushImage(primary.client(primary.admin), 'secret/app', image, 'v1')
    const robot = await primary.createRobot('secret', 'puller')
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

test('a pull that began before the log first came goes on', async (t) => {
  // Its first state is made when this edge asks for it.
  const fresh = await startFedStand(t)
  const { primary } = fresh
  await primary.createProject('early', { isPublic: true })
  const image = createImage({ seed: 'early' })
  await pushImage(primary.client(primary.admin), 'early/app', image, 'v1')
  let tells = false
  const url = await startFront(
    t,
    primary.url,
    (path) => path.startsWith('/service/trust') && !tells,
  )
  const young = await fresh.startEdge(t, { isAlone: true, edge: { primary: { url } } })
  const asked = new URL('/service/token?scope=repository:early/app:pull', young.url)
  const { token } = (await (await fetch(asked)).json()) as { readonly token: string }
  const pull = async () => {
    const answer = await fetch(new URL('/v2/early/app/manifests/v1', young.url), {
      headers: { authorization: `Bearer ${token}` },
    })
    await answer.body?.cancel()
    return answer.status
  }
  assert.equal(await pull(), 200)
  tells = true
  await waitFor('the log', async () => (await young.metric('outport_edge_log_fresh')) === 1)
  assert.equal(await pull(), 200)
})

test('what is answered before the log tells of it is not unsaid: not by the log, nor when the primary goes', async (t) => {
  const fresh = await startFedStand(t)
  const { primary } = fresh
  await primary.createProject('sooner', { isPublic: true })
  const pusher = primary.client(primary.admin)
  const push = async (seed: string) => {
    const image = createImage({ seed: `sooner ${seed}` })
    await pushImage(pusher, 'sooner/app', image, 'v1')
    return image.manifest.digest
  }
  let isAway = false
  const url = await startFront(t, primary.url, (path) => isAway && path.startsWith('/v2/'))
  const other = await fresh.startEdge(t, { isAlone: true, edge: { primary: { url } } })
  await waitFor('the log', async () => (await other.metric('outport_edge_log_fresh')) === 1)
  const client = other.client(primary.admin, 'bearer')
  const path = 'sooner/app/manifests/v1'
  const log = Promise.withResolvers<void>()
  const isHeld = Promise.withResolvers<void>()
  // Nothing is numbered meanwhile.
  const holding = primary.records.transaction().execute(async (trx) => {
    await trx.selectFrom('event_head').select('seq').forUpdate().execute()
    isHeld.resolve()
    await log.promise
  })
  await isHeld.promise
  let one: unknown
  try {
    one = await push('one')
    const two = await push('two')
    assert.equal(await digestAt(client, path), two)
    isAway = true
    assert.equal(await digestAt(client, path), two)
    isAway = false
  } finally {
    log.resolve()
    await holding
  }
  // The log tells of the first one too, and of what came after.
  const three = await push('three')
  const seen: unknown[] = []
  await waitFor('the third one', async () => {
    seen.push(await digestAt(client, path))
    return seen.at(-1) === three
  })
  assert.ok(!seen.includes(one), 'no tag goes back')
})

test('an edge has what happened while it was down as soon as it is back, by the log and not by a snapshot', async () => {
  const { primary } = stand
  const from = stand.primaryLog.length
  const snapshots = () =>
    stand.primaryLog.slice(from).filter(({ route }) => String(route).startsWith('/snapshots'))
  await primary.createProject('down', { isPublic: true })
  await waitFor('the new project at the edge', () => snapshots().length > 0)
  const before = snapshots().length
  const [old, next] = [createImage({ seed: 'before' }), createImage({ seed: 'after' })]
  const pusher = primary.client(primary.admin)
  await pushImage(pusher, 'down/app', old, 'v1')
  assert.equal(
    await digestAt(edge.client(primary.admin, 'bearer'), 'down/app/manifests/v1'),
    old.manifest.digest,
  )
  await edge.stop()
  await pushImage(pusher, 'down/app', next, 'v1')
  edge = await stand.startEdge(ending, { data: edge.data })
  assert.equal(
    await digestAt(edge.client(primary.admin, 'bearer'), 'down/app/manifests/v1'),
    next.manifest.digest,
  )
  assert.equal(snapshots().length, before)
})

test('an edge whose primary is gone goes on serving', async () => {
  const { primary } = stand
  await primary.createProject('gone', { isPublic: true })
  const image = createImage({ seed: 'kept' })
  await pushImage(primary.client(primary.admin), 'gone/app', image, 'v1')
  const client = edge.client(primary.admin, 'bearer')
  assert.equal(await digestAt(client, 'gone/app/manifests/v1'), image.manifest.digest)
  await primary.stop()
  assert.equal(await digestAt(client, 'gone/app/manifests/v1'), image.manifest.digest)
})

import assert from 'node:assert/strict'
import { describe, test, type TestContext } from 'node:test'
import { waitFor } from '../../kit/clock.ts'
import { bytesOf } from '../../kit/images.ts'
import {
  noProgressFor,
  startMirror,
  type Mirror,
  type MirrorOptions,
} from '../../kit/misbehaving.ts'
import { addImage, startUpstream, type Fault, type Upstream } from '../../kit/upstream.ts'

// An upstream with mirrors: what its blobs and manifests come from, and who is asked for what.

const mebibyte = 1024 * 1024
const app = 'library/app'
const tagPath = `/v2/${app}/manifests/v1`
const blobPath = (digest: string, prefix = '') => `/v2/${prefix}${app}/blobs/${digest}`
const manifestPath = (digest: string, prefix = '') => `/v2/${prefix}${app}/manifests/${digest}`

interface World extends Mirror {
  /** Two mirrors of docker.io, in the order in which they are asked. */
  readonly near: Upstream
  readonly far: Upstream
}

interface WorldOptions extends Omit<MirrorOptions, 'more'> {
  readonly near?: Readonly<Record<string, unknown>>
  readonly nearUpstream?: MirrorOptions['upstream']
}

async function startWorld(
  t: TestContext,
  { near: nearEntry = {}, nearUpstream = {}, entry = {}, ...options }: WorldOptions = {},
): Promise<World> {
  const near = await startUpstream(nearUpstream)
  const far = await startUpstream()
  t.after(() => Promise.all([near.close(), far.close()]))
  const mirror = await startMirror(t, {
    ...options,
    entry: { mirrors: ['near', 'far'], mirror_wait: '5s', ...entry },
    more: [
      { id: 'near', url: near.url.origin, ...nearEntry },
      { id: 'far', url: far.url.origin },
    ],
  })
  return { ...mirror, near, far }
}

/** An image of the same bytes at each. */
function addEverywhere(upstreams: readonly Upstream[], seed = 'image') {
  const [image] = upstreams.map((each) => addImage(each, app, { seed, bytes: 2 * mebibyte }))
  assert.ok(image)
  return image
}

/** What an upstream was asked for, without the answers to its challenges. */
const askedOf = ({ requests }: Upstream) => requests.map(({ method, url }) => `${method} ${url}`)

test('an image comes from the first mirror, and only its tag from the upstream', async (t) => {
  const { upstream, near, far, pull } = await startWorld(t)
  const { manifest, config, layer, content } = addEverywhere([upstream, near, far])
  const tagged = await pull(tagPath)
  assert.deepEqual([tagged.status, tagged.headers['docker-content-digest']], [200, manifest])
  assert.equal((await pull(manifestPath(manifest))).status, 200)
  assert.equal((await pull(blobPath(config))).status, 200)
  assert.ok((await pull(blobPath(layer))).body.equals(content))
  assert.deepEqual(askedOf(upstream), [`HEAD ${tagPath}`])
  assert.deepEqual(askedOf(near), [
    `GET ${manifestPath(manifest)}`,
    `GET ${blobPath(config)}`,
    `GET ${blobPath(layer)}`,
  ])
  assert.deepEqual(askedOf(far), [])
})

test('what a mirror brought is held for the repository of the upstream, and shown in no other', async (t) => {
  const { upstream, near, pull } = await startWorld(t)
  const { manifest, layer, content } = addEverywhere([near])
  await pull(manifestPath(manifest))
  assert.ok((await pull(blobPath(layer))).body.equals(content))
  near.remove(app, manifest)
  near.remove(app, layer)
  for (const path of [manifestPath(manifest), blobPath(layer)])
    assert.equal((await pull(path)).status, 200, path)
  for (const prefix of ['near/', 'far/', 'docker.io/library/other/'])
    for (const path of [manifestPath(manifest, prefix), blobPath(layer, prefix)])
      assert.equal((await pull(path)).status, 404, path)
  await Promise.all([near.down(), upstream.down()])
  assert.ok((await pull(blobPath(layer))).body.equals(content))
})

test('tags, lists, referrers and sizes are asked of the upstream alone', async (t) => {
  const { upstream, near, far, pull } = await startWorld(t)
  const { manifest, layer } = addEverywhere([upstream, near, far])
  const paths = [`/v2/${app}/tags/list`, `/v2/${app}/referrers/${manifest}`, '/v2/_catalog']
  for (const path of paths) assert.equal((await pull(path)).status, 200, path)
  assert.equal((await pull(blobPath(layer), { method: 'HEAD' })).status, 200)
  // It has moved upstream, and a mirror is behind.
  const moved = addImage(upstream, app, { seed: 'moved' })
  near.addManifest(app, { schemaVersion: 2 }, { tag: 'newer' })
  assert.equal((await pull(tagPath)).headers['docker-content-digest'], moved.manifest)
  assert.equal((await pull(tagPath, { method: 'HEAD' })).status, 200)
  assert.equal((await pull(`/v2/${app}/manifests/newer`)).status, 404)
  assert.deepEqual(
    [...askedOf(near), ...askedOf(far)],
    [
      // The mirrors have not got it.
      `GET ${manifestPath(moved.manifest)}`,
      `GET ${manifestPath(moved.manifest)}`,
    ],
  )
  await upstream.down()
  for (const path of [`/v2/library/unknown/tags/list`, `/v2/${app}/manifests/v2`])
    assert.equal((await pull(path)).status, 503, path)
})

const useless: readonly (readonly [string, Fault])[] = [
  ['has nothing', { status: 404 }],
  ['wants a log-in', { status: 401 }],
  ['refuses', { status: 403 }],
  ['has had enough', { status: 429, headers: { 'retry-after': '3600' } }],
  ['is broken', { status: 500 }],
  ['is away', { status: 503 }],
  ['redirects to nowhere', { redirect: 'http://[::ffff:169.254.169.254]/' }],
  ['hangs', { stallHeaders: true }],
  ['hangs after the headers', { stallAt: 0 }],
]

describe('a mirror that', { concurrency: 4 }, () => {
  for (const [what, fault] of useless) {
    test(`${what} costs nobody anything: the next source is asked`, async (t) => {
      // Of both mirrors, and longer than a busy machine takes for the one that does answer.
      const mirror_wait = noProgressFor(fault) === '5s' ? '5s' : '1s'
      const { upstream, near, far, pull } = await startWorld(t, { entry: { mirror_wait } })
      const first = addEverywhere([upstream, near, far], 'first')
      const second = addEverywhere([upstream, near], 'second')
      near.fault({}, fault)
      for (const { manifest } of [first, second])
        assert.equal((await pull(manifestPath(manifest))).status, 200)
      for (const { layer, content } of [first, second]) {
        const { status, isWhole, body } = await pull(blobPath(layer))
        assert.deepEqual([status, isWhole], [200, true])
        assert.ok(body.equals(content))
      }
      assert.equal(far.delivered(first.layer).gets, 1)
      assert.equal(upstream.delivered(first.layer).gets, 0)
      assert.equal(upstream.delivered(second.layer).gets, 1)
    })
  }

  test('cannot be reached is passed over', async (t) => {
    const { upstream, near, far, pull } = await startWorld(t)
    const { manifest, layer, content } = addEverywhere([upstream, near, far])
    await near.down()
    assert.equal((await pull(manifestPath(manifest))).status, 200)
    assert.ok((await pull(blobPath(layer))).body.equals(content))
    assert.deepEqual(askedOf(upstream), [])
    await far.down()
    const other = addImage(upstream, app, { seed: 'other' })
    assert.ok((await pull(blobPath(other.layer))).body.equals(other.content))
  })

  test('hangs is soon not asked any more, and asked again when it answers', async (t) => {
    const { upstream, near, edge, pull } = await startWorld(t, {
      entry: { mirrors: ['near'], mirror_wait: '200ms' },
    })
    const heal = near.fault({}, { stallHeaders: true })
    let count = 0
    const asksNear = async () => {
      const { layer, content } = addEverywhere([upstream, near], `image ${count++}`)
      assert.ok((await pull(blobPath(layer))).body.equals(content))
      return near.delivered(layer).gets > 0
    }
    await waitFor('it to be left alone', async () => !(await asksNear()))
    const lane = { upstream: 'near', lane: 'blobs' }
    assert.equal(await edge.metric('outport_edge_upstream_away', lane), 1)
    assert.equal(await edge.metric('outport_edge_upstream_away', { upstream: 'docker.io' }), 0)
    heal()
    await waitFor('it to be asked again', asksNear)
  })

  for (const [what, fault] of [
    ['other bytes', { flipBit: 5 }],
    ['another length', { sizeOff: 5 }],
    ['a page that wants a log-in', { page: 'Log in.'.repeat(50_000) }],
  ] as const) {
    test(`gives ${what} costs its first client the pull, and is left alone then`, async (t) => {
      const { upstream, near, pull } = await startWorld(t, { entry: { mirrors: ['near'] } })
      const first = addEverywhere([upstream, near], 'first')
      near.fault({ method: 'GET' }, fault)
      assert.equal((await pull(manifestPath(first.manifest))).status, 200)
      assert.equal((await pull(blobPath(first.layer))).isWhole, false)
      await waitFor('the right bytes', async () => {
        return (await pull(blobPath(first.layer))).body.equals(first.content)
      })
      assert.equal(near.delivered(first.layer).gets, 1)
      const second = addEverywhere([upstream, near], 'second')
      assert.ok((await pull(blobPath(second.layer))).body.equals(second.content))
      assert.equal(near.delivered(second.layer).gets, 0)
    })
  }

  test('is cut, or hangs, in the middle of a blob is replaced at the same byte', async (t) => {
    const { upstream, near, far, pull } = await startWorld(t, { entry: { mirror_wait: '1s' } })
    const content = bytesOf('large', 6 * mebibyte)
    const [digest] = [near, far, upstream].map((each) => each.addBlob(app, content))
    assert.ok(digest)
    near.fault({ digest }, { cutAt: 2 * mebibyte + 1000 })
    far.fault({ digest }, { stallAt: 4 * mebibyte + 1000 })
    const { status, isWhole, body } = await pull(blobPath(digest))
    assert.deepEqual([status, isWhole], [200, true])
    assert.ok(body.equals(content))
    const sent = [near, far, upstream].map((each) => each.delivered(digest).bytes)
    assert.ok(
      sent.every((bytes) => bytes > 0),
      sent.join(),
    )
    const total = sent.reduce((sum, bytes) => sum + bytes)
    assert.ok(total < content.length + 2 * mebibyte, `${total} bytes were sent`)
  })

  test('has all its places taken is not waited for', async (t) => {
    const { upstream, near, edge, pull } = await startWorld(t, {
      near: { limits: { connections: 1 } },
      entry: { mirrors: ['near'], mirror_wait: '2s' },
    })
    const slow = addEverywhere([upstream, near], 'slow')
    const other = addEverywhere([upstream, near], 'other')
    const heal = near.fault({ digest: slow.layer }, { stallAt: mebibyte })
    const pulled = pull(blobPath(slow.layer))
    await waitFor('it to be under way', async () => {
      return (await edge.metric('outport_edge_upstream_bytes_total')) >= mebibyte
    })
    assert.ok((await pull(blobPath(other.layer))).body.equals(other.content))
    assert.equal(near.delivered(other.layer).gets, 0)
    heal()
    assert.ok((await pulled).body.equals(slow.content))
  })
})

test("the upstream's own answer is what the client is told", async (t) => {
  const { upstream, near, far, pull } = await startWorld(t, { entry: { negative_ttl: '0s' } })
  const { manifest, layer } = addEverywhere([upstream])
  const paths = [manifestPath(manifest), blobPath(layer)]
  for (const [status, told] of [
    [404, 404],
    [403, 404],
    [503, 503],
    [429, 503],
  ] as const) {
    for (const [nearStatus, farStatus] of [
      [404, 503],
      [429, 404],
    ] as const) {
      const heals = [
        upstream.fault({}, { status }),
        near.fault({}, { status: nearStatus }),
        far.fault({}, { status: farStatus }),
      ]
      for (const path of paths) {
        const asked = `${path} ${status} ${nearStatus} ${farStatus}`
        assert.equal((await pull(path)).status, told, asked)
      }
      for (const heal of heals) heal()
    }
  }
})

test('an upstream that is away is not missed while a mirror has what is asked for', async (t) => {
  const { upstream, near, pull } = await startWorld(t)
  const { manifest, layer, content } = addEverywhere([near])
  await upstream.down()
  assert.equal((await pull(manifestPath(manifest))).status, 200)
  assert.ok((await pull(blobPath(layer))).body.equals(content))
})

test('each is asked with its own credentials, and nobody else hears of them', async (t) => {
  const auth = (user: string) => ({ scheme: 'basic', users: { [user]: `${user}-secret` } }) as const
  const login = (username: string) => ({ username, password: `${username}-secret` })
  const { upstream, near, far, pull } = await startWorld(t, {
    upstream: { auth: auth('hub') },
    nearUpstream: { auth: auth('near') },
    entry: { credentials: login('hub') },
    near: { credentials: login('near') },
  })
  const { manifest, layer } = addEverywhere([upstream, near], 'one')
  const other = addEverywhere([upstream, far], 'other')
  const headers = { authorization: `Basic ${btoa('client:secret')}` }
  const paths = [tagPath, manifestPath(manifest), blobPath(layer)]
  for (const path of [...paths, manifestPath(other.manifest), blobPath(other.layer)])
    assert.equal((await pull(path, { headers })).status, 200, path)
  const sentTo = ({ requests }: Upstream) => [
    ...new Set(requests.flatMap(({ headers: { authorization } }) => authorization ?? [])),
  ]
  assert.deepEqual(sentTo(upstream), [`Basic ${btoa('hub:hub-secret')}`])
  assert.deepEqual(sentTo(near), [`Basic ${btoa('near:near-secret')}`])
  assert.deepEqual(sentTo(far), [])
  assert.ok(near.delivered(layer).bytes > 0)
})

test('a mirror may have it under a prefix', async (t) => {
  const { upstream, near, pull } = await startWorld(t, { entry: { mirrors: ['near/hub-proxy'] } })
  const { manifest, layer, content } = addImage(near, `hub-proxy/${app}`)
  assert.equal((await pull(manifestPath(manifest))).status, 200)
  // The default namespace goes without saying for clients alone.
  assert.ok((await pull(`/v2/app/blobs/${layer}`)).body.equals(content))
  assert.deepEqual(askedOf(upstream), [])
  const long = `${'x'.repeat(245)}/x`
  const only = addImage(upstream, long)
  assert.equal((await pull(`/v2/${long}/manifests/${only.manifest}`)).status, 200)
})

test("a mirror's own mirrors are not asked", async (t) => {
  const { upstream, near, far, pull } = await startWorld(t, {
    entry: { mirrors: ['near'] },
    near: { mirrors: ['far', 'docker.io'] },
  })
  const { layer, content } = addEverywhere([upstream, far])
  assert.ok((await pull(blobPath(layer))).body.equals(content))
  assert.deepEqual(
    [near, far].map((each) => each.delivered(layer).gets),
    [1, 0],
  )
  assert.ok((await pull(blobPath(layer, 'near/'))).body.equals(content))
  assert.deepEqual(
    [near, far].map((each) => each.delivered(layer).gets),
    [1, 1],
  )
})

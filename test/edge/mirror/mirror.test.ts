import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { digestOf } from '../../../shared/oci/digest.ts'
import { mediaTypes } from '../../../shared/oci/media-types.ts'
import { waitFor } from '../../kit/clock.ts'
import { startTestEdge, type TestEdge } from '../../kit/edge.ts'
import { addImage, startUpstream, type Upstream, type UpstreamOptions } from '../../kit/upstream.ts'

const mebibyte = 1024 * 1024

interface World {
  readonly upstream: Upstream
  readonly edge: TestEdge
  /** Starts the edge again on the same folder. */
  restart(): Promise<TestEdge>
}

/** An edge that mirrors one open registry under the id `up`, and as docker.io's stand-in. */
async function startWorld(
  t: TestContext,
  {
    upstream: upstreamOptions = {},
    edge = {},
    fill = {},
    limits = {},
  }: {
    upstream?: UpstreamOptions
    edge?: Record<string, unknown>
    fill?: Record<string, unknown>
    limits?: Record<string, unknown>
  } = {},
): Promise<World> {
  const upstream = await startUpstream(upstreamOptions)
  t.after(() => upstream.close())
  const options = {
    edge: {
      upstreams: [
        {
          id: 'docker.io',
          names: ['docker.io', 'registry.test'],
          url: upstream.url.origin,
          tag_ttl: '1h',
          limits,
        },
      ],
      fill,
      ...edge,
    },
  }
  const first = await startTestEdge(t, options)
  return {
    upstream,
    edge: first,
    async restart() {
      await first.stop()
      return startTestEdge(t, { ...options, data: first.data })
    },
  }
}

test('an image is pulled through once, verbatim, and then without the upstream', async (t) => {
  const { upstream, edge } = await startWorld(t)
  const image = addImage(upstream, 'library/app')
  const client = edge.mirrorClient()
  for (let times = 0; times < 3; times++) {
    const manifest = await client.request('GET', '/v2/library/app/manifests/v1')
    assert.equal(manifest.status, 200)
    assert.equal(manifest.headers['docker-content-digest'], image.manifest)
    assert.equal(manifest.headers['content-type'], mediaTypes.ociManifest)
    assert.equal(digestOf(manifest.body), image.manifest)
    const layer = await client.request('GET', `/v2/library/app/blobs/${image.layer}`)
    assert.deepEqual(layer.body, image.content)
    assert.equal((await client.request('GET', `/v2/library/app/blobs/${image.config}`)).status, 200)
  }
  assert.equal(upstream.delivered(image.layer).gets, 1)
  assert.equal(upstream.delivered(image.manifest).gets, 1)
  assert.equal(upstream.delivered('v1').heads, 1)
  await upstream.down()
  assert.deepEqual(
    (await client.request('GET', `/v2/library/app/blobs/${image.layer}`)).body,
    image.content,
  )
  assert.equal(
    (await edge.metric('outport_edge_upstream_bytes_total', { upstream: 'docker.io' })) >
      image.content.length,
    true,
  )
})

test('the upstream is chosen by ns, by prefix and by default, and a one-component name means library', async (t) => {
  const { upstream, edge } = await startWorld(t)
  const { layer } = addImage(upstream, 'library/app')
  const challenging = edge.client()
  const mirror = edge.mirrorClient()
  const asked = [
    () => challenging.request('HEAD', `/v2/library/app/blobs/${layer}?ns=registry.test`),
    () => challenging.request('HEAD', `/v2/app/blobs/${layer}?ns=docker.io`),
    () => challenging.request('HEAD', `/v2/docker.io/library/app/blobs/${layer}`),
    () => mirror.request('HEAD', `/v2/app/blobs/${layer}`),
  ]
  for (const ask of asked) assert.equal((await ask()).status, 200)
  const named = await challenging.request('GET', '/v2/library/app/manifests/v1?ns=registry.test')
  assert.equal(named.headers['oci-namespace'], 'registry.test')
})

test('a name that is not in the table is a 404, and nobody is asked', async (t) => {
  const { upstream, edge } = await startWorld(t)
  addImage(upstream, 'library/app')
  for (const ns of ['evil.example', '169.254.169.254', upstream.host, '']) {
    const answer = await edge.mirrorClient().request('GET', `/v2/library/app/manifests/v1?ns=${ns}`)
    assert.equal(answer.status, 404)
    assert.deepEqual(answer.codes(), ['NAME_UNKNOWN'])
  }
  assert.equal(upstream.requests.length, 0)
})

test('many cold clients, whole and in ranges, cost the upstream one copy', async (t) => {
  const { upstream, edge } = await startWorld(t, { upstream: { pace: 40 * mebibyte } })
  const { layer, content } = addImage(upstream, 'library/app', { bytes: 20 * mebibyte })
  const path = `/v2/library/app/blobs/${layer}`
  const clients = Array.from({ length: 12 }, () => edge.mirrorClient())
  const answers = await Promise.all(
    clients.map((client, index) => {
      const from = (index % 3) * 8 * mebibyte
      return client.request(
        'GET',
        path,
        index % 2 === 0 ? {} : { headers: { Range: `bytes=${from}-` } },
      )
    }),
  )
  for (const [index, { status, body }] of answers.entries()) {
    const from = index % 2 === 0 ? 0 : (index % 3) * 8 * mebibyte
    assert.equal(status, index % 2 === 0 ? 200 : 206)
    assert.ok(body.equals(content.subarray(from)))
  }
  assert.equal(upstream.delivered(layer).bytes, content.length)
  for (const responses of upstream.responsesPerSegment(layer, 8 * mebibyte))
    assert.equal(responses, 1)
  assert.ok((await edge.metric('outport_edge_coalesced_readers_total')) > 0)
})

test('a HEAD tells the size and fills nothing', async (t) => {
  const { upstream, edge } = await startWorld(t)
  const { layer, content } = addImage(upstream, 'library/app')
  const head = await edge.mirrorClient().request('HEAD', `/v2/library/app/blobs/${layer}`)
  assert.equal(head.headers['content-length'], String(content.length))
  assert.equal(head.headers['docker-content-digest'], layer)
  assert.deepEqual(upstream.delivered(layer), { gets: 0, heads: 1, bytes: 0 })
  const again = await edge.mirrorClient().request('HEAD', `/v2/library/app/blobs/${layer}`)
  assert.equal(again.status, 200)
  assert.equal(upstream.delivered(layer).heads, 2)
})

test('a digest that another repository brought here is shown to none that does not have it', async (t) => {
  const { upstream, edge } = await startWorld(t)
  const { layer, manifest } = addImage(upstream, 'team/secret')
  addImage(upstream, 'team/app', { seed: 'other' })
  const client = edge.mirrorClient()
  await client.request('GET', '/v2/team/secret/manifests/v1')
  assert.equal((await client.request('GET', `/v2/team/secret/blobs/${layer}`)).status, 200)
  for (const method of ['GET', 'HEAD']) {
    assert.equal((await client.request(method, `/v2/team/app/blobs/${layer}`)).status, 404)
    assert.equal((await client.request(method, `/v2/team/app/manifests/${manifest}`)).status, 404)
  }
})

test("a manifest that lists somebody else's digest gives no access to it", async (t) => {
  const { upstream, edge } = await startWorld(t)
  const { layer } = addImage(upstream, 'team/secret')
  const config = upstream.addBlob('team/app', Buffer.from('{}'))
  const foreign = {
    mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip',
    digest: layer,
    size: 3 * mebibyte,
  }
  const document = {
    schemaVersion: 2,
    config: { mediaType: 'a/b', digest: config, size: 2 },
    layers: [foreign],
  }
  upstream.addManifest('team/app', document, {
    tag: 'claims',
    mediaType: mediaTypes.dockerManifest,
  })
  const client = edge.mirrorClient()
  await client.request('GET', `/v2/team/secret/blobs/${layer}`)
  assert.equal((await client.request('GET', '/v2/team/app/manifests/claims')).status, 200)
  assert.equal((await client.request('GET', `/v2/team/app/blobs/${layer}`)).status, 404)
  assert.equal((await client.request('HEAD', `/v2/team/app/blobs/${layer}`)).status, 404)
})

test('within its time a tag is answered without asking; after it one HEAD brings what is new', async (t) => {
  const { upstream, edge } = await startWorld(t, {})
  const first = addImage(upstream, 'library/app')
  const client = edge.mirrorClient()
  for (let times = 0; times < 5; times++)
    await client.request('HEAD', '/v2/library/app/manifests/v1')
  assert.equal(upstream.delivered('v1').heads, 1)
  await edge.stop()
  const eager = await startTestEdge(t, {
    data: edge.data,
    edge: {
      upstreams: [
        { id: 'docker.io', names: ['docker.io'], url: upstream.url.origin, tag_ttl: '0s' },
      ],
    },
  })
  const second = addImage(upstream, 'library/app', { seed: 'newer' })
  const answer = await eager.mirrorClient().request('GET', '/v2/library/app/manifests/v1')
  assert.equal(answer.headers['docker-content-digest'], second.manifest)
  assert.notEqual(second.manifest, first.manifest)
})

test('an upstream that is away leaves tags standing, marked as old; one that says no does not', async (t) => {
  const { upstream, edge } = await startWorld(t, {})
  addImage(upstream, 'library/app')
  await edge.mirrorClient().request('GET', '/v2/library/app/manifests/v1')
  await edge.stop()
  const eager = await startTestEdge(t, {
    data: edge.data,
    edge: {
      upstreams: [
        { id: 'docker.io', names: ['docker.io'], url: upstream.url.origin, tag_ttl: '0s' },
      ],
    },
  })
  const client = eager.mirrorClient()
  await upstream.down()
  const stale = await client.request('GET', '/v2/library/app/manifests/v1')
  assert.equal(stale.status, 200)
  assert.match(stale.headers.warning ?? '', /^110 /)
  assert.match(stale.headers.age ?? '', /^\d+$/)
  assert.equal((await client.request('GET', '/v2/library/app/manifests/unknown')).status, 503)
  await upstream.up()
  for (const status of [401, 403, 404]) {
    const stop = upstream.fault({ path: /manifests\/v1/ }, { status })
    assert.equal((await client.request('GET', '/v2/library/app/manifests/v1')).status, 404)
    stop()
  }
})

test("what is unknown upstream is a 404 with the spec's code, and what fails there a 503 that says so", async (t) => {
  const { upstream, edge } = await startWorld(t)
  const { layer } = addImage(upstream, 'library/app')
  const client = edge.mirrorClient()
  const unknown = digestOf(Buffer.from('unknown'))
  const cases: readonly (readonly [string, number, string])[] = [
    [`/v2/library/app/blobs/${unknown}`, 404, 'BLOB_UNKNOWN'],
    [`/v2/library/app/manifests/${unknown}`, 404, 'MANIFEST_UNKNOWN'],
    ['/v2/library/app/manifests/unknown', 404, 'MANIFEST_UNKNOWN'],
    ['/v2/library/app/manifests/.bad', 404, 'MANIFEST_UNKNOWN'],
    ['/v2/library/nothing/tags/list', 404, 'NAME_UNKNOWN'],
    ['/v2/library/app/blobs/sha256:bad', 400, 'DIGEST_INVALID'],
    ['/v2/Library/app/manifests/v1', 400, 'NAME_INVALID'],
    ['/v2/library/../app/manifests/v1', 400, 'NAME_INVALID'],
  ]
  for (const [path, status, code] of cases) {
    const answer = await client.request('GET', path)
    assert.equal(answer.status, status, path)
    assert.deepEqual(answer.codes(), [code], path)
  }
  for (const status of [429, 500, 503]) {
    const stop = upstream.fault({ digest: layer }, { status })
    const answer = await client.request('GET', `/v2/library/app/blobs/${layer}`)
    assert.equal(answer.status, 503, `upstream ${status}`)
    assert.ok(answer.headers['retry-after'])
    stop()
  }
  assert.equal((await client.request('GET', `/v2/library/app/blobs/${layer}`)).status, 200)
  assert.ok((await edge.metric('outport_edge_upstream_errors_total')) > 0)
})

test('wrong bytes never complete, are not kept, and the right ones are fetched afterwards', async (t) => {
  const { upstream, edge } = await startWorld(t)
  const { layer, content } = addImage(upstream, 'library/app')
  const client = edge.mirrorClient()
  const stop = upstream.fault({ digest: layer, method: 'GET' }, { flipBit: mebibyte })
  const lied = await client.request('GET', `/v2/library/app/blobs/${layer}`).catch(() => undefined)
  assert.ok(lied === undefined || lied.status === 503 || lied.body.length < content.length)
  stop()
  const answer = await waitFor('the honest copy', async () => {
    const got = await client.request('GET', `/v2/library/app/blobs/${layer}`).catch(() => undefined)
    return got?.status === 200 && got
  })
  assert.ok(answer.body.equals(content))
})

test('an upstream that once said more bytes than there are, and sent some, spoils nothing', async (t) => {
  const { upstream, edge } = await startWorld(t, { fill: { no_progress: '1s' } })
  const { layer, content } = addImage(upstream, 'library/app')
  const path = `/v2/library/app/blobs/${layer}`
  const sizeOff = 37 * mebibyte
  const rule = { digest: layer, method: 'GET', times: 1 } as const
  upstream.fault(rule, { sizeOff, stallAt: mebibyte })
  upstream.fault(rule, { sizeOff })
  const cut = edge
    .mirrorClient()
    .request('GET', path)
    .catch(() => undefined)
  await waitFor('the first request', () => upstream.delivered(layer).bytes >= mebibyte)
  const from = 30 * mebibyte
  const headers = { Range: `bytes=${from}-${from + mebibyte}` }
  const cutToo = edge.mirrorClient().request('GET', path, { headers })
  await Promise.all([cut, cutToo.catch(() => undefined)])
  const answer = await waitFor('the honest copy', async () => {
    const got = await edge
      .mirrorClient()
      .request('GET', path)
      .catch(() => undefined)
    return got?.status === 200 && got
  })
  assert.ok(answer.body.equals(content))
  await waitFor('the stored copy', async () => (await edge.metric('outport_edge_cache_bytes')) > 0)
  const stored = await edge.mirrorClient().request('GET', path)
  assert.equal(stored.headers['content-length'], String(content.length))
  assert.ok(stored.body.equals(content))
})

test('a size that the upstream once said and could not keep does not outlive the failure', async (t) => {
  const { upstream, edge } = await startWorld(t)
  const { layer, content } = addImage(upstream, 'library/app')
  const path = `/v2/library/app/blobs/${layer}`
  const rule = { digest: layer, method: 'GET' } as const
  const heal = upstream.fault(rule, { sizeOff: 9 * mebibyte, cutAt: 5 * mebibyte })
  await assert.rejects(edge.mirrorClient().request('GET', path))
  await waitFor('the fill to end', async () => !(await edge.metric('outport_edge_fills_running')))
  heal()
  const answer = await edge.mirrorClient().request('GET', path)
  assert.equal(answer.headers['content-length'], String(content.length))
  assert.ok(answer.body.equals(content))
})

test('a client that would have to queue for the upstream is told 503 at once, and the blob comes all the same', async (t) => {
  for (const limited of [
    { fill: { open_wait: '50ms' }, limits: { connections: 1 } },
    { fill: { concurrent: 1 }, limits: {} },
  ]) {
    const { upstream, edge } = await startWorld(t, limited)
    const first = addImage(upstream, 'library/app')
    const second = addImage(upstream, 'library/app', { seed: 'second' })
    upstream.setPace(2 * mebibyte)
    const reading = edge.mirrorClient().request('GET', `/v2/library/app/blobs/${first.layer}`)
    await waitFor('its request', () => upstream.delivered(first.layer).gets === 1)
    const path = `/v2/library/app/blobs/${second.layer}`
    const refused = await edge.mirrorClient().request('GET', path)
    assert.equal(refused.status, 503)
    assert.ok(Number(refused.headers['retry-after']) >= 1)
    assert.equal(upstream.delivered(second.layer).gets, 0)
    upstream.setPace(undefined)
    assert.ok((await reading).body.equals(first.content))
    const answer = await waitFor('its turn', async () => {
      const got = await edge.mirrorClient().request('GET', path)
      return got.status === 200 && got
    })
    assert.ok(answer.body.equals(second.content))
  }
})

test('a range ahead of what is here has its headers at once, while its bytes are still to come', async (t) => {
  const { upstream, edge } = await startWorld(t)
  const { layer } = addImage(upstream, 'library/app', { bytes: 12 * mebibyte })
  upstream.fault({ digest: layer, method: 'GET' }, { stallAt: mebibyte })
  const url = new URL(`/v2/library/app/blobs/${layer}`, edge.mirror)
  const gone = new AbortController()
  const { signal } = gone
  const whole = await fetch(url, { signal })
  const ahead = await fetch(url, { signal, headers: { Range: `bytes=${8 * mebibyte}-` } })
  assert.deepEqual([whole.status, ahead.status], [200, 206])
  assert.equal(upstream.delivered(layer).gets, 1)
  assert.ok(upstream.delivered(layer).bytes <= mebibyte)
  gone.abort()
})

test('no header of the upstream but those that are ours to pass reaches a client', async (t) => {
  const { upstream, edge } = await startWorld(t)
  const { layer, manifest } = addImage(upstream, 'library/app')
  const headers = {
    'X-Accel-Redirect': '/etc/passwd',
    'Set-Cookie': 'session=1',
    'X-Powered-By': 'upstream',
  }
  upstream.fault({ path: /./ }, { headers })
  const client = edge.mirrorClient()
  for (const path of [
    `manifests/v1`,
    `manifests/${manifest}`,
    `blobs/${layer}`,
    'tags/list',
    `referrers/${manifest}`,
  ]) {
    for (const method of ['HEAD', 'GET']) {
      const answer = await client.request(method, `/v2/library/app/${path}`)
      for (const name of Object.keys(headers))
        assert.equal(answer.headers[name.toLowerCase()], undefined, `${method} ${path}`)
    }
  }
})

test('tags and referrers come from the upstream, in its pages', async (t) => {
  const { upstream, edge } = await startWorld(t)
  const { manifest } = addImage(upstream, 'library/app', { tag: 'a' })
  for (const tag of ['b', 'c']) upstream.setTag('library/app', tag, manifest)
  const client = edge.mirrorClient()
  const page = await client.request('GET', '/v2/library/app/tags/list?n=2')
  assert.deepEqual((page.json() as { tags: string[] }).tags, ['a', 'b'])
  const next = /<([^>]+)>; rel="next"/.exec(String(page.headers.link))?.[1] ?? ''
  assert.deepEqual(((await client.request('GET', next)).json() as { tags: string[] }).tags, ['c'])
  assert.equal((await client.request('GET', '/v2/library/app/tags/list?n=-1')).status, 400)
  const referrers = await client.request('GET', `/v2/library/app/referrers/${manifest}`)
  assert.equal(referrers.status, 200)
  assert.equal(referrers.headers['content-type'], mediaTypes.ociIndex)
})

test('more referrers than clients read at once come in pages, at whatever path the client asked', async (t) => {
  const { upstream, edge } = await startWorld(t, { upstream: { referrersPerPage: 10 } })
  const { manifest: subject } = addImage(upstream, 'library/app', { tag: 'a' })
  upstream.setTag('library/app', 'b', subject)
  const mediaType = mediaTypes.ociManifest
  const signatures = Array.from({ length: 55 }, (_, number) =>
    upstream.addManifest('library/app', {
      mediaType,
      artifactType: 'a/signature',
      subject: { mediaType, digest: subject, size: 1 },
      annotations: { number: String(number), pad: 'x'.repeat(100_000) },
    }),
  )
  const client = edge.mirrorClient()
  /** Everything that a list names, and in how many pages. */
  const listed = async (first: string, read: (page: object) => readonly string[]) => {
    const found: string[] = []
    let pages = 0
    for (let path: string | undefined = first; path !== undefined; pages++) {
      const page = await client.request('GET', path)
      assert.equal(page.status, 200)
      assert.ok(page.body.length <= 4 * 1024 * 1024)
      found.push(...read(page.json() as object))
      path = /<([^>]+)>; rel="next"/.exec(page.headers.link?.toString() ?? '')?.[1]
    }
    return { found, pages }
  }
  const digestsOf = (page: object) =>
    (page as { manifests: { digest: string }[] }).manifests.map(({ digest }) => digest)
  const tagsOf = (page: object) => (page as { tags: string[] }).tags
  for (const [base, query] of [
    ['/v2/docker.io/library/app', ''],
    ['/v2/library/app', ''],
    ['/v2/library/app', 'ns=registry.test'],
  ] as const) {
    for (const type of ['', '&artifactType=a/signature']) {
      const all = await listed(`${base}/referrers/${subject}?${query}${type}`, digestsOf)
      assert.deepEqual(all.found, signatures)
      assert.equal(all.pages, 2)
    }
    const tags = await listed(`${base}/tags/list?n=1&${query}`, tagsOf)
    assert.deepEqual(tags.found, ['a', 'b'])
  }
})

test('a push is refused with where to push', async (t) => {
  const { edge } = await startWorld(t, { edge: { push_url: 'https://primary.test' } })
  for (const method of ['POST', 'PUT', 'PATCH', 'DELETE']) {
    const answer = await edge.mirrorClient().request(method, '/v2/library/app/blobs/uploads/')
    assert.equal(answer.status, 405)
    assert.deepEqual(answer.codes(), ['UNSUPPORTED'])
    assert.match(answer.body.toString(), /https:\/\/primary\.test/)
  }
})

test('after a stop in the middle of a fill, only what was not here is fetched', async (t) => {
  const { upstream, edge, restart } = await startWorld(t, { upstream: { pace: 24 * mebibyte } })
  const { layer, content } = addImage(upstream, 'library/app', { bytes: 40 * mebibyte })
  const path = `/v2/library/app/blobs/${layer}`
  const cut = edge
    .mirrorClient()
    .request('GET', path)
    .catch(() => undefined)
  await waitFor('half of it', () => upstream.delivered(layer).bytes > content.length / 2)
  const next = await restart()
  await cut
  upstream.setPace(undefined)
  const answer = await next.mirrorClient().request('GET', path)
  assert.ok(answer.body.equals(content))
  // At most one segment, and what was on its way, is fetched twice.
  assert.ok(upstream.delivered(layer).bytes <= content.length + 16 * mebibyte)
})

test("credentials for one upstream are sent to no other, and a client's to none", async (t) => {
  const other = await startUpstream({
    auth: { scheme: 'bearer', users: { robot: 'other-secret' }, privateRepositories: ['team/app'] },
  })
  t.after(() => other.close())
  const { upstream, edge } = await startWorld(t, {
    upstream: {
      auth: {
        scheme: 'basic',
        users: { service: 'own-secret' },
        privateRepositories: ['team/app'],
      },
    },
    edge: {},
  })
  await edge.stop()
  const both = await startTestEdge(t, {
    edge: {
      upstreams: [
        {
          id: 'docker.io',
          names: ['docker.io'],
          url: upstream.url.origin,
          credentials: { username: 'service', password: 'own-secret' },
        },
        {
          id: 'other',
          names: ['other.test'],
          url: other.url.origin,
          credentials: { username: 'robot', password: 'other-secret' },
        },
      ],
    },
  })
  addImage(upstream, 'team/app')
  addImage(other, 'team/app')
  const client = both.mirrorClient()
  const headers = { Authorization: `Basic ${btoa('alice:client-secret')}` }
  assert.equal((await client.request('GET', '/v2/team/app/manifests/v1', { headers })).status, 200)
  assert.equal(
    (await client.request('GET', '/v2/team/app/manifests/v1?ns=other.test', { headers })).status,
    200,
  )
  const sent = (requests: Upstream['requests']) =>
    JSON.stringify(requests.map((request) => request.headers))
  assert.ok(sent(upstream.requests).includes(btoa('service:own-secret')))
  assert.ok(!sent(upstream.requests).includes(btoa('robot:other-secret')))
  assert.ok(!sent(other.requests).includes(btoa('service:own-secret')))
  for (const { requests } of [upstream, other])
    assert.ok(!sent(requests).includes(btoa('alice:client-secret')))
  const logged = JSON.stringify(both.log)
  for (const secret of ['own-secret', 'other-secret', 'client-secret']) {
    assert.ok(!logged.includes(secret) && !logged.includes(btoa(secret)), secret)
  }
})

import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { describe, test, type TestContext } from 'node:test'
import { makeCertificate } from '../../kit/certificates.ts'
import { waitFor } from '../../kit/clock.ts'
import type { TestEdge } from '../../kit/edge.ts'
import { bytesOf } from '../../kit/images.ts'
import { noProgressFor, startMirror, type Mirror, type Received } from '../../kit/misbehaving.ts'
import { tempFolder } from '../../kit/temp.ts'
import { startUpstream, type Upstream, type UpstreamOptions } from '../../kit/upstream.ts'

// Where an upstream may send the edge, by redirects and realms, and what it takes along.

const mebibyte = 1024 * 1024
const content = bytesOf('a layer', 2 * mebibyte)
const app = 'library/app'
const secret = 'the-secret-of-the-edge'

async function startOther(t: TestContext, options: UpstreamOptions = {}): Promise<Upstream> {
  const other = await startUpstream(options)
  t.after(() => other.close())
  return other
}

function addLayer(...upstreams: readonly Upstream[]) {
  const [digest = ''] = upstreams.map((upstream) => upstream.addBlob(app, content))
  return { digest, path: `/v2/${app}/blobs/${digest}`, rule: { digest, method: 'GET' } as const }
}

/** A TLS upstream, and what the edge's entry for it says. */
async function overTls(t: TestContext) {
  const tls = makeCertificate()
  const ca = join(await tempFolder(t), 'ca.pem')
  await writeFile(ca, tls.cert)
  return { upstream: { tls }, entry: { ca } }
}

function assertRefused({ status, headers, body }: Received, why: RegExp): void {
  assert.equal(status, 503)
  assert.ok(Number(headers['retry-after']) >= 1)
  assert.match(body.toString(), why)
}

/** Nothing that the edge has for its upstream came here. */
/** Of an address that is not dialled: which one, and why, is for the operator. */
async function assertNotDialled(answer: Received, { log }: TestEdge, why: RegExp): Promise<void> {
  assertRefused(answer, /leads to an address that may not be dialled/)
  assert.doesNotMatch(answer.body.toString(), /\d+\.\d+\.\d+|::|loopback|private|metadata/)
  await waitFor('the reason in the log', () => log.some((line) => why.test(JSON.stringify(line))))
}

function assertNothingOfOurs({ requests }: Upstream): void {
  for (const { headers } of requests) {
    for (const name of ['authorization', 'cookie', 'x-request-id', 'referer'])
      assert.equal(headers[name], undefined, name)
    assert.ok(!JSON.stringify(headers).includes(secret))
  }
}

test('a blob that is redirected to storage comes from there, with nothing of ours taken along', async (t) => {
  const storage = await startOther(t)
  const auth = { scheme: 'bearer', users: { robot: secret } } as const
  const mirror = await startMirror(t, {
    upstream: { auth },
    entry: {
      redirect_hosts: [storage.host],
      credentials: { username: 'robot', password: secret },
    },
  })
  const { upstream, edge, pull } = mirror
  const { digest, path } = addLayer(upstream, storage)
  const signed = `${storage.url.href}v2/${app}/blobs/${digest}?X-Signature=signed-by-${secret}`
  const redirect = { redirect: signed, headers: { 'set-cookie': `session=${secret}` } }
  upstream.fault({ digest, after: 1 }, redirect)
  // The link ends in the middle: the registry is asked for another one.
  storage.fault({ digest, times: 1 }, { cutAt: mebibyte })
  storage.fault({ digest, times: 1 }, { status: 403 })
  const { status, body } = await pull(path, { headers: { Authorization: 'Basic YTpi' } })
  assert.equal(status, 200)
  assert.ok(body.equals(content))
  assert.deepEqual(
    storage.requests.map((request) => request.status),
    [200, 403, 206],
  )
  assert.ok(upstream.requests.at(-1)?.headers.authorization?.startsWith('Bearer '))
  for (const request of storage.requests)
    assert.deepEqual(
      [request.headers.authorization, request.headers.cookie],
      [undefined, undefined],
    )
  assert.ok(!JSON.stringify(edge.log).includes(secret), 'nor into the log')
})

test('storage that is at a private address is for those that the configuration names', async (t) => {
  const storage = await startOther(t)
  for (const [named, reason] of [
    [{ entry: { redirect_hosts: [storage.host] } }, undefined],
    [{ edge: { outbound: { allow: ['127.0.0.0/8'] } } }, undefined],
    [{ edge: { outbound: { allow: ['10.0.0.0/8'] } } }, /loopback/],
    [{}, /loopback/],
  ] as const) {
    const { upstream, edge, pull } = await startMirror(t, named)
    const { path, rule } = addLayer(upstream, storage)
    upstream.fault(rule, { redirect: storage.url.href })
    storage.forgetRequests()
    const answer = await pull(path)
    if (reason !== undefined) await assertNotDialled(answer, edge, reason)
    else assert.ok(answer.body.equals(content))
    assert.equal(storage.requests.length, reason === undefined ? 1 : 0)
    assertNothingOfOurs(storage)
  }
})

const reasonsNotToDial = [
  /loopback/,
  /unspecified/,
  /metadata/,
  /private/,
  /a listener of this program/,
] as const

/** Where a blob may not lead, given storage on this machine that has it; and why not. */
const forbidden: readonly (readonly [string, (at: Upstream, mirror: Mirror) => string, RegExp])[] =
  [
    ['this machine', ({ url }) => url.href, /loopback/],
    ['this machine, in short', ({ url }) => `http://127.1:${url.port}/`, /loopback/],
    ['this machine as a number', ({ url }) => `http://2130706433:${url.port}/`, /loopback/],
    ['this machine by name', ({ url }) => `http://localhost:${url.port}/`, /loopback/],
    ['this machine, mapped', ({ url }) => `http://[::ffff:127.0.0.1]:${url.port}/`, /loopback/],
    ['any address', ({ url }) => `http://0.0.0.0:${url.port}/`, /unspecified/],
    ['metadata', () => 'http://169.254.169.254/latest/meta-data/', /metadata/],
    ['metadata, mapped', () => 'http://[::ffff:169.254.169.254]/', /metadata/],
    ['a private network', () => 'https://192.168.0.1/', /private/],
    ['the edge itself', (_at, { edge }) => edge.url.href, /a listener of this program/],
    ['its metrics', (_at, { edge }) => edge.metricsUrl.href, /loopback/],
    ['itself, for ever', (_at, { upstream }) => upstream.url.href, /more than 5 times/],
    ['a user', ({ host }) => `http://robot:${secret}@${host}/`, /not followed/],
    ['a file', () => 'file:///etc/passwd', /not followed/],
    ['another protocol', () => 'gopher://127.0.0.1:70/', /not followed/],
    ['nowhere', () => 'https://[', /nowhere/],
  ]

describe('a blob that is redirected to', { concurrency: 4 }, () => {
  for (const [what, locationOf, why] of forbidden) {
    test(`${what} is refused, nobody is asked there, and it is served without`, async (t) => {
      const storage = await startOther(t)
      const mirror = await startMirror(t)
      const { upstream, edge, pull } = mirror
      const { digest, path } = addLayer(upstream, storage)
      const heal = upstream.fault({ digest }, { redirect: locationOf(storage, mirror) })
      const answer = await pull(path)
      if (reasonsNotToDial.some((reason) => reason.source === why.source))
        await assertNotDialled(answer, edge, why)
      else assertRefused(answer, why)
      const head = await pull(path, { method: 'HEAD' })
      assert.equal(head.status, 503)
      assert.equal(storage.requests.length, 0)
      const asked = edge.log.filter((line) => line['status'] !== undefined)
      assert.equal(asked.length, 2, 'the edge by its client only')
      await mirror.keptNothing()
      heal()
      await mirror.recovers(path, content)
    })
  }

  test('the edge itself is refused, whatever its configuration allows', async (t) => {
    const mirror = await startMirror(t, { edge: { outbound: { allow: ['127.0.0.0/8', '::1'] } } })
    const { upstream, edge, pull } = mirror
    const { path, rule } = addLayer(upstream)
    for (const url of [edge.url, edge.mirror]) {
      const heal = upstream.fault(rule, { redirect: url.href })
      await assertNotDialled(await pull(path), edge, /a listener of this program/)
      heal()
    }
    await mirror.recovers(path, content)
  })

  test('plain http from https is refused, though the host is listed', async (t) => {
    const storage = await startOther(t)
    const { upstream: options, entry } = await overTls(t)
    const mirror = await startMirror(t, {
      upstream: options,
      entry: { ...entry, redirect_hosts: [storage.host] },
    })
    const { path, rule } = addLayer(mirror.upstream, storage)
    const heal = mirror.upstream.fault(rule, { redirect: storage.url.href })
    assertRefused(await mirror.pull(path), /not followed/)
    assert.equal(storage.requests.length, 0)
    heal()
    await mirror.recovers(path, content)
  })

  test('storage whose certificate nobody vouches for is refused', async (t) => {
    const storage = await startOther(t, { tls: makeCertificate() })
    const { upstream: options, entry } = await overTls(t)
    const mirror = await startMirror(t, {
      upstream: options,
      entry: { ...entry, redirect_hosts: [storage.host] },
    })
    const { path, rule } = addLayer(mirror.upstream, storage)
    const heal = mirror.upstream.fault(rule, { redirect: storage.url.href })
    assertRefused(await mirror.pull(path), /certificate/i)
    assert.equal(storage.requests.length, 0)
    heal()
    await mirror.recovers(path, content)
  })

  test('a host that also redirects, and that one back, is left after five', async (t) => {
    const storage = await startOther(t)
    const mirror = await startMirror(t, { entry: { redirect_hosts: [storage.host] } })
    const { upstream } = mirror
    const { digest, path, rule } = addLayer(upstream, storage)
    const heal = upstream.fault(rule, { redirect: storage.url.href })
    storage.fault(rule, { redirect: upstream.url.href })
    assertRefused(await mirror.pull(path), /more than 5 times/)
    assert.equal(upstream.delivered(digest).gets + storage.delivered(digest).gets, 6)
    assertNothingOfOurs(storage)
    heal()
    await mirror.recovers(path, content)
  })
})

/** Realms that may not have the edge's password; `at` is another token service on this machine. */
const realms: readonly (readonly [string, (at: Upstream) => string, RegExp])[] = [
  ['another host', ({ url }) => `${url.href}token`, /not listed/],
  ['another host in another spelling', ({ url }) => `http://127.1:${url.port}/token`, /not listed/],
  ['metadata', () => 'http://169.254.169.254/token', /not listed/],
  ['a user', ({ host }) => `http://robot:${secret}@${host}/token`, /no usable realm/],
  ['a file', () => 'file:///etc/passwd', /not https/],
  ['nothing', () => '', /no usable realm/],
]

describe('a realm that is', { concurrency: 4 }, () => {
  for (const [what, realmOf, why] of realms) {
    test(`${what} gets no password, and is not asked`, async (t) => {
      const thief = await startOther(t)
      const mirror = await startMirror(t, {
        entry: { credentials: { username: 'robot', password: secret } },
      })
      const { upstream, edge, pull } = mirror
      const { path } = addLayer(upstream)
      const challenge = `Bearer realm="${realmOf(thief)}",service="x",scope="repository:${app}:pull"`
      const heal = upstream.fault(
        { path: /^\/v2/ },
        { status: 401, headers: { 'www-authenticate': challenge } },
      )
      for (const asked of [path, `/v2/${app}/manifests/v1`, `/v2/${app}/tags/list`])
        assertRefused(await pull(asked), why)
      assert.equal(thief.requests.length, 0)
      const shown = JSON.stringify([edge.log, upstream.requests.map(({ headers }) => headers)])
      assert.ok(!shown.includes(secret) && !shown.includes(btoa(`robot:${secret}`)))
      heal()
      await mirror.recovers(path, content)
    })
  }

  test('plain http gets no password of an upstream over https, though the host is listed', async (t) => {
    const thief = await startOther(t)
    const { upstream: options, entry } = await overTls(t)
    const mirror = await startMirror(t, {
      upstream: { ...options, auth: { scheme: 'bearer', realm: `${thief.url.href}token` } },
      entry: {
        ...entry,
        realm_hosts: [thief.host],
        credentials: { username: 'robot', password: secret },
      },
    })
    const { path } = addLayer(mirror.upstream)
    assertRefused(await mirror.pull(path), /not https/)
    assert.equal(thief.requests.length, 0)
  })

  test('redirected is not followed', async (t) => {
    const thief = await startOther(t)
    const mirror = await startMirror(t, {
      upstream: { auth: { scheme: 'bearer', users: { robot: secret } } },
      entry: {
        redirect_hosts: [thief.host],
        credentials: { username: 'robot', password: secret },
      },
    })
    const { path } = addLayer(mirror.upstream)
    const heal = mirror.upstream.fault({ path: /^\/token/ }, { redirect: thief.url.href })
    assertRefused(await mirror.pull(path), /the token service of docker\.io answered 307/)
    assert.equal(thief.requests.length, 0)
    heal()
    await mirror.recovers(path, content)
  })

  for (const [what, fault] of [
    ['silent', { stallHeaders: true }],
    ['a page that wants a log-in', { page: '<!doctype html>' }],
    ['away', { status: 503 }],
    ['gone', { status: 404 }],
    ['busy', { status: 429 }],
    ['endless', { headers: { 'x-pad': 'x'.repeat(70_000) }, page: 'x'.repeat(mebibyte) }],
  ] as const) {
    test(`${what} makes nothing absent, and no client wait for long`, async (t) => {
      const mirror = await startMirror(t, {
        upstream: { auth: { scheme: 'bearer' } },
        noProgress: noProgressFor(fault),
      })
      const { path } = addLayer(mirror.upstream)
      const heal = mirror.upstream.fault({ path: /^\/token/ }, fault)
      for (const asked of [path, `/v2/${app}/manifests/v1`])
        assertRefused(await mirror.pull(asked), /UNAVAILABLE/)
      heal()
      await mirror.recovers(path, content)
    })
  }
})

test('a challenge that comes again to every token is answered once', async (t) => {
  const mirror = await startMirror(t, { upstream: { auth: { scheme: 'bearer' } } })
  const { upstream } = mirror
  const { digest, path, rule } = addLayer(upstream)
  const headers = { 'www-authenticate': `Bearer realm="${upstream.url.href}token",service="x"` }
  const heal = upstream.fault(rule, { status: 401, headers })
  assert.equal((await mirror.pull(path)).status, 404)
  assert.equal(upstream.delivered(digest).gets, 2)
  assert.equal(upstream.tokenRequests().length, 1)
  heal()
  await mirror.recovers(path, content)
  await waitFor('it to be held', async () => {
    return (await mirror.edge.metric('outport_edge_cache_blobs')) === 1
  })
})

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { digestOf } from '../../../shared/oci/digest.ts'
import { mediaTypes } from '../../../shared/oci/media-types.ts'
import { waitFor } from '../../kit/clock.ts'
import { noProgressFor, startMirror, type Received } from '../../kit/misbehaving.ts'
import { addImage, startUpstream, type Fault } from '../../kit/upstream.ts'

// Manifests, lists and headers from an upstream that lies, stalls or refuses.

const mebibyte = 1024 * 1024
const app = 'library/app'
const tagPath = `/v2/${app}/manifests/v1`
const other = digestOf(Buffer.from('something else'))
const loginPage = '<!doctype html><title>Log in</title>'
const index = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [] }

/** Without a word of the error's own: those are for people. */
function outcomeOf({ status, headers, body, isWhole }: Received): string {
  assert.ok(isWhole, 'an answer of this size is whole or an error')
  if (status === 503) assert.ok(Number(headers['retry-after']) >= 1)
  if (status === 200) return `200 ${String(headers['docker-content-digest'])}`
  const [code] = /(?<="code":")\w+/.exec(body.toString()) ?? ['']
  return `${status} ${code}`
}

const unavailable = '503 UNAVAILABLE'
const unknown = '404 MANIFEST_UNKNOWN'

/** With what a tag and a digest are answered. */
const manifests: readonly (readonly [string, Fault, { tag: string; digest: string }])[] = [
  ['it with a flaw', { flipBit: 5 }, { tag: unavailable, digest: unavailable }],
  ['one that it names wrongly', { contentDigest: other }, { tag: unknown, digest: 'right' }],
  ['one that it does not name', { contentDigest: '' }, { tag: 'right', digest: 'right' }],
  [
    'one of no type',
    { headers: { 'content-type': 'application/octet-stream' } },
    { tag: 'right', digest: 'right' },
  ],
  ['one without a length', { chunked: true }, { tag: 'right', digest: 'right' }],
  ...(
    [
      ['one that is too large', { sizeOff: 5 * mebibyte }],
      ['one that is too large, without a length', { sizeOff: 5 * mebibyte, chunked: true }],
      ['a Content-Length that is too short', { lengthOff: -10 }],
      ['a Content-Length that is too long', { lengthOff: 10 }],
      ['one as a picture', { headers: { 'content-type': 'image/png' } }],
      ['a page that wants a log-in', { page: loginPage }],
      ['it compressed', { gzip: true }],
      ['it as if it were compressed', { headers: { 'content-encoding': 'zstd' } }],
      ['no headers', { stallHeaders: true }],
      ['the beginning and then nothing', { stallAt: 50 }],
      ['the beginning only', { cutAfter: 50 }],
      ['more headers than anybody reads', { headers: { 'x-pad': 'x'.repeat(70_000) } }],
      ['a redirect', { redirect: 'https://127.0.0.1/log-in' }],
      ['a 206', { status: 206 }],
      ['a 304 that nobody asked for', { status: 304 }],
      ['a 400', { status: 400 }],
      ['a 429', { status: 429 }],
      ['a 500', { status: 500 }],
      ['a 503', { status: 503 }],
    ] as const
  ).map(([what, fault]) => {
    return [what, fault, { tag: unavailable, digest: unavailable }] as const
  }),
  ...[401, 403, 404, 410].map((status) => {
    return [`a ${status}`, { status }, { tag: unknown, digest: unknown }] as const
  }),
]

describe('a manifest of which the upstream gives', { concurrency: 4 }, () => {
  for (const [what, fault, expected] of manifests) {
    test(`${what} is given right or not at all, cold and held, and right when the upstream is`, async (t) => {
      const { upstream, pull, recovers } = await startMirror(t, {
        noProgress: noProgressFor(fault),
      })
      const { manifest } = addImage(upstream, app)
      const digestPath = `/v2/${app}/manifests/${manifest}`
      const heal = upstream.fault({ path: /manifests/ }, fault)
      const right = `200 ${manifest}`
      const meant = (text: string) => (text === 'right' ? right : text)
      for (const path of [tagPath, digestPath]) {
        const got = outcomeOf(await pull(path))
        assert.equal(got, meant(path === tagPath ? expected.tag : expected.digest), path)
        const { status } = await pull(path, { method: 'HEAD' })
        assert.equal(status, Number(got.slice(0, 3)), `HEAD ${path}`)
      }
      heal()
      const document = await waitFor('the right one', async () => {
        const got = await pull(tagPath)
        return outcomeOf(got) === right && got.body
      })
      assert.equal(digestOf(document), manifest)
      await recovers(digestPath, document)
      if (expected.tag !== unavailable) return
      // Held now, and another one upstream.
      const moved = addImage(upstream, app, { seed: 'moved' })
      const healAgain = upstream.fault({ path: /manifests/ }, fault)
      assert.ok([unavailable, right].includes(outcomeOf(await pull(tagPath))))
      healAgain()
      await upstream.down()
      assert.equal(outcomeOf(await pull(tagPath)), right, 'it outlives that')
      await upstream.up()
      await waitFor('the tag to move', async () => {
        return outcomeOf(await pull(tagPath)) === `200 ${moved.manifest}`
      })
    })
  }

  test('another document, as good as the right one, is not given, nor kept', async (t) => {
    const { upstream, pull, recovers, keptNothing } = await startMirror(t)
    const document = Buffer.from(JSON.stringify({ ...index, annotations: { of: 'a' } }))
    const digest = upstream.addManifest(app, document, {
      mediaType: mediaTypes.ociIndex,
      tag: 'v1',
    })
    const digestPath = `/v2/${app}/manifests/${digest}`
    const heal = upstream.fault({ path: /manifests/ }, { flipBit: document.indexOf('"a"') + 1 })
    for (const path of [tagPath, digestPath]) assert.equal(outcomeOf(await pull(path)), unavailable)
    await keptNothing()
    heal()
    await recovers(tagPath, document)
    await recovers(digestPath, document)
  })

  for (const [what, document, mediaType] of [
    ['text', Buffer.from('no document at all'), mediaTypes.ociManifest],
    ['a list', Buffer.from('[]'), mediaTypes.ociManifest],
    ['another type inside', Buffer.from(JSON.stringify(index)), mediaTypes.ociManifest],
    ['a page of that digest', Buffer.from(loginPage), 'text/html'],
    ['nothing', Buffer.alloc(0), mediaTypes.ociManifest],
    ['a document that is deeper than deep', Buffer.from('['.repeat(mebibyte)), mediaTypes.ociIndex],
    [
      'two readings',
      Buffer.from('{"schemaVersion":2,"layers":[],"layers":[]}'),
      mediaTypes.ociIndex,
    ],
  ] as const) {
    test(`${what} is not given, though its digest is right`, async (t) => {
      const { upstream, pull, keptNothing } = await startMirror(t)
      const digest = upstream.addManifest(app, document, { mediaType, tag: 'v1' })
      for (const path of [tagPath, `/v2/${app}/manifests/${digest}`])
        assert.equal(outcomeOf(await pull(path)), unavailable)
      await keptNothing()
      const { manifest } = addImage(upstream, app)
      assert.equal(outcomeOf(await pull(tagPath)), `200 ${manifest}`)
    })
  }
})

const hostile = {
  'X-Accel-Redirect': '/etc/passwd',
  'X-Sendfile': '/etc/passwd',
  'Set-Cookie': 'session=1',
  'Content-Encoding': 'identity',
  'Content-Disposition': 'attachment; filename=x.exe',
  'Clear-Site-Data': '"*"',
  Refresh: '0;url=https://elsewhere.example/',
  Location: 'https://elsewhere.example/',
  'WWW-Authenticate': 'Basic realm="elsewhere"',
  'Access-Control-Allow-Origin': '*',
  'Strict-Transport-Security': 'max-age=31536000',
  Warning: '299 - "trust me"',
  Age: '77',
  Server: 'upstream',
}

test('of the headers of an upstream none reaches a client that could steer it', async (t) => {
  const { upstream, pull } = await startMirror(t)
  const { layer, manifest, content } = addImage(upstream, app)
  upstream.fault({ path: /./ }, { headers: hostile })
  const paths = [
    tagPath,
    `/v2/${app}/manifests/${manifest}`,
    `/v2/${app}/blobs/${layer}`,
    `/v2/${app}/tags/list`,
    `/v2/${app}/referrers/${manifest}`,
    '/v2/_catalog',
  ]
  for (const path of paths) {
    for (const method of ['HEAD', 'GET'] as const) {
      const answer = await pull(path, { method })
      assert.equal(answer.status, 200, `${method} ${path}`)
      for (const name of Object.keys(hostile))
        assert.equal(answer.headers[name.toLowerCase()], undefined, `${name} of ${method} ${path}`)
    }
  }
  const { body } = await pull(`/v2/${app}/blobs/${layer}`)
  assert.ok(body.equals(content))
})

test('a list that goes on at another origin goes on here', async (t) => {
  const elsewhere = await startUpstream()
  t.after(() => elsewhere.close())
  const { upstream, edge, pull } = await startMirror(t)
  const { manifest } = addImage(upstream, app, { tag: 'a' })
  upstream.setTag(app, 'b', manifest)
  const link = `<${elsewhere.url.href}v2/${app}/tags/list?n=1&last=a>; rel="next"`
  upstream.fault({ path: /tags\/list\?n=1$|_catalog$/ }, { headers: { link } })
  const first = await pull(`/v2/${app}/tags/list?n=1`)
  assert.deepEqual(JSON.parse(first.body.toString()), { name: app, tags: ['a'] })
  const [, next = ''] = /<([^>]*)>/.exec(first.headers.link?.toString() ?? '') ?? []
  assert.equal(new URL(next, edge.mirror).origin, edge.mirror.origin)
  const second = await pull(next)
  assert.deepEqual(JSON.parse(second.body.toString()), { name: app, tags: ['b'] })
  const catalog = await pull('/v2/_catalog')
  assert.ok(!JSON.stringify(catalog.headers).includes(elsewhere.host))
  assert.equal(elsewhere.requests.length, 0)
})

test('referrers that go on at another origin, and for ever, come from here and to an end', async (t) => {
  const elsewhere = await startUpstream()
  t.after(() => elsewhere.close())
  const { upstream, edge, pull } = await startMirror(t)
  const { manifest: subject } = addImage(upstream, app)
  const mediaType = mediaTypes.ociManifest
  upstream.addManifest(app, { mediaType, subject: { mediaType, digest: subject, size: 1 } })
  const path = `/v2/${app}/referrers/${subject}`
  const linkTo = (page: string) => ({
    link: `<${elsewhere.url.href}v2/${app}/referrers/${subject}?page=${page}>; rel="next"`,
  })
  const listed = ({ body }: Received) =>
    (JSON.parse(body.toString()) as { manifests: object[] }).manifests.length
  const healSame = upstream.fault({ path: /referrers/ }, { headers: linkTo('same') })
  assert.equal(listed(await pull(path)), 2, 'one page, and once that which is always the next')
  healSame()
  // Each page names another one.
  for (let page = 0; page < 200; page++)
    upstream.fault({ path: /referrers/, times: 1 }, { headers: linkTo(String(page)) })
  upstream.forgetRequests()
  const first = await pull(path)
  assert.equal(first.status, 200)
  assert.ok(upstream.requests.length < 100, `${upstream.requests.length} requests`)
  assert.equal(listed(first), upstream.requests.length)
  const [, next = ''] = /<([^>]*)>/.exec(first.headers.link?.toString() ?? '') ?? []
  assert.equal(new URL(next, edge.mirror).origin, edge.mirror.origin)
  const second = await pull(next)
  assert.equal(listed(first) + listed(second), upstream.requests.length, 'it goes on there')
  assert.equal(elsewhere.requests.length, 0)
})

describe('a list of which the upstream gives', { concurrency: 4 }, () => {
  for (const [what, fault] of [
    ['a page that wants a log-in', { page: loginPage }],
    ['it compressed', { gzip: true }],
    ['no headers', { stallHeaders: true }],
    ['the beginning only', { cutAfter: 10 }],
    ['the beginning and then nothing', { stallAt: 10 }],
    ['more headers than anybody reads', { headers: { 'x-pad': 'x'.repeat(70_000) } }],
    ['a redirect', { redirect: 'https://127.0.0.1/log-in' }],
    ['a 429', { status: 429 }],
    ['a 500', { status: 500 }],
  ] as const) {
    test(`${what} is refused, and given when it is right`, async (t) => {
      const { upstream, pull } = await startMirror(t, { noProgress: noProgressFor(fault) })
      const { manifest } = addImage(upstream, app)
      const paths = [`/v2/${app}/tags/list`, `/v2/${app}/referrers/${manifest}`, '/v2/_catalog']
      const heal = upstream.fault({}, fault)
      for (const path of paths) assert.equal(outcomeOf(await pull(path)), unavailable, path)
      heal()
      for (const path of paths) await waitFor(path, async () => (await pull(path)).status === 200)
    })
  }
})

import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { bytesOf } from '../../kit/images.ts'
import { waitFor } from '../../kit/clock.ts'
import { noProgressFor, startMirror, type Mirror, type Received } from '../../kit/misbehaving.ts'
import { startUpstream, type Fault } from '../../kit/upstream.ts'

// Blobs from an upstream that lies, cuts, stalls or refuses: what a client gets meanwhile, and afterwards.

const mebibyte = 1024 * 1024
const content = bytesOf('a layer', 3 * mebibyte)
const app = 'library/app'

function addLayer({ upstream }: Mirror, bytes = content) {
  const digest = upstream.addBlob(app, bytes)
  return { digest, path: `/v2/${app}/blobs/${digest}`, rule: { digest, method: 'GET' } as const }
}

/** Waits until so much of a blob has come from the upstream. */
function arrived({ edge }: Mirror, bytes: number) {
  return waitFor(`${bytes} bytes`, async () => {
    return (await edge.metric('outport_edge_upstream_bytes_total')) >= bytes
  })
}

const loginPage = `<!doctype html><title>Log in</title>${'<p>Please log in.</p>'.repeat(5000)}`

/** A client got its headers and some bytes, and cannot take them for the whole. */
function assertCut({ status, headers, body, isWhole }: Received): void {
  assert.equal(isWhole, false, 'cut')
  assert.ok(status === 200 || status === 206, String(status))
  assert.ok(body.length < Number(headers['content-length']), 'short of what was promised')
}

function assertUnavailable({ status, headers, body, isWhole }: Received): void {
  assert.equal(status, 503)
  assert.ok(isWhole)
  assert.ok(Number(headers['retry-after']) >= 1)
  assert.match(body.toString(), /"code":"UNAVAILABLE"/)
}

function assertUnknown({ status, body, isWhole }: Received): void {
  assert.equal(status, 404)
  assert.ok(isWhole)
  assert.match(body.toString(), /"code":"BLOB_UNKNOWN"/)
}

type Expectation = (received: Received) => void

const wholeBlobs: readonly (readonly [string, Fault, Expectation])[] = [
  ['other bytes', { flipBit: mebibyte }, assertCut],
  ['another last byte', { flipBit: content.length - 1 }, assertCut],
  ['a Content-Length that is too short', { lengthOff: -100_000 }, assertCut],
  ['a Content-Length that is too long', { lengthOff: 100_000 }, assertCut],
  ['a Content-Length of a whole disk', { lengthOff: 500_000_000_000 }, assertCut],
  ['a Content-Length that no blob has', { lengthOff: 900_000_000_000_000 }, assertUnavailable],
  ['bytes behind the end', { sizeOff: 100_000 }, assertCut],
  ['an earlier end', { sizeOff: -100_000 }, assertCut],
  ['nothing at all', { sizeOff: -content.length }, assertUnavailable],
  ['a page that wants a log-in', { page: loginPage }, assertCut],
  ['it compressed', { gzip: true }, assertUnavailable],
  ['it as if it were compressed', { headers: { 'content-encoding': 'br' } }, assertUnavailable],
  ['it without a length', { chunked: true }, assertUnavailable],
  ['no headers', { stallHeaders: true }, assertUnavailable],
  [
    'more headers than anybody reads',
    { headers: { 'x-pad': 'x'.repeat(70_000) } },
    assertUnavailable,
  ],
  ['a 400', { status: 400 }, assertUnavailable],
  ['a 401 without a challenge', { status: 401 }, assertUnknown],
  ['a 403', { status: 403 }, assertUnknown],
  ['a 404', { status: 404 }, assertUnknown],
  ['a 416', { status: 416 }, assertUnavailable],
  ['a 429', { status: 429 }, assertUnavailable],
  ['a 500', { status: 500 }, assertUnavailable],
  ['a 502', { status: 502 }, assertUnavailable],
  ['a 504', { status: 504 }, assertUnavailable],
]

describe('a blob of which the upstream gives', { concurrency: 4 }, () => {
  for (const [what, fault, expect] of wholeBlobs) {
    test(`${what} never completes, is not kept, and is served once it is right`, async (t) => {
      const mirror = await startMirror(t, { noProgress: noProgressFor(fault) })
      const { path, rule } = addLayer(mirror)
      const heal = mirror.upstream.fault(rule, fault)
      const [whole, rest] = await Promise.all([
        mirror.pull(path),
        mirror.pull(path, { headers: { Range: 'bytes=1-' } }),
      ])
      expect(whole)
      expect(rest)
      await mirror.keptNothing()
      heal()
      await mirror.recovers(path, content)
      const held = await mirror.pull(path)
      assert.ok(held.body.equals(content))
    })
  }
})

const interruptions: readonly (readonly [string, Fault])[] = [
  ['a cut', { cutAt: mebibyte + 1000 }],
  ['no headers', { stallHeaders: true }],
  ['a hang', { stallAt: 2 * mebibyte }],
  ['everything instead of the rest', { ignoreRange: true, cutAt: 2 * mebibyte }],
  ['another range', { headers: { 'content-range': 'bytes 5-9/3145728' } }],
  ['another length of the range', { lengthOff: 5 }],
  ['it compressed', { headers: { 'content-encoding': 'gzip' } }],
  ['a 500', { status: 500 }],
  ['a 503 with a time', { status: 503, headers: { 'retry-after': '1' } }],
  ['a 429', { status: 429 }],
  ['a 429 with a time', { status: 429, headers: { 'retry-after': '1' } }],
  ['a redirect to nowhere', { redirect: 'http://[::ffff:169.254.169.254]/' }],
]

describe('a client whose blob is cut in the middle', { concurrency: 4 }, () => {
  for (const [what, fault] of interruptions) {
    test(`sees nothing of it, nor of ${what} the next time`, async (t) => {
      const mirror = await startMirror(t, { noProgress: noProgressFor(fault) })
      const { digest, path, rule } = addLayer(mirror)
      mirror.upstream.fault({ ...rule, times: 1 }, { cutAt: mebibyte })
      mirror.upstream.fault({ ...rule, times: 1 }, fault)
      const { status, body, isWhole } = await mirror.pull(path)
      assert.deepEqual([status, isWhole], [200, true])
      assert.ok(body.equals(content))
      assert.ok(mirror.upstream.delivered(digest).gets >= 3, 'both went wrong')
    })
  }
})

describe('in the middle of a blob', { concurrency: 4 }, () => {
  test('an upstream that goes for good leaves its client cut short, and serves the rest when it is back', async (t) => {
    const mirror = await startMirror(t)
    const { upstream } = mirror
    const { digest, path, rule } = addLayer(mirror)
    const heal = upstream.fault(rule, { stallAt: 2 * mebibyte })
    const cut = mirror.pull(path)
    await arrived(mirror, 2 * mebibyte)
    await upstream.down()
    const received = await cut
    assertCut(received)
    assert.ok(received.body.equals(content.subarray(0, received.body.length)))
    await mirror.keptNothing()
    heal()
    await upstream.up()
    await mirror.recovers(path, content)
    const { bytes } = upstream.delivered(digest)
    assert.ok(bytes <= content.length + mebibyte, 'no more than a piece was sent again')
  })

  test('an upstream that says nothing more, however often it is asked, is given up', async (t) => {
    const mirror = await startMirror(t, { noProgress: '1s' })
    const { path, rule } = addLayer(mirror)
    const heal = mirror.upstream.fault(rule, { stallAt: 2 * mebibyte })
    const received = await mirror.pull(path)
    assertCut(received)
    assert.ok(received.body.equals(content.subarray(0, received.body.length)))
    await mirror.keptNothing()
    heal()
    await mirror.recovers(path, content)
  })

  test('an upstream that is started again costs its client nothing but time', async (t) => {
    const mirror = await startMirror(t, { upstream: { pace: 4 * mebibyte } })
    const { upstream, edge } = mirror
    const { path } = addLayer(mirror)
    const pulled = mirror.pull(path)
    await arrived(mirror, mebibyte)
    await upstream.down()
    const errors = () => edge.metric('outport_edge_upstream_errors_total')
    await waitFor('it to be missed', async () => (await errors()) > 2)
    await upstream.up()
    const { status, body, isWhole } = await pulled
    assert.deepEqual([status, isWhole], [200, true])
    assert.ok(body.equals(content))
  })

  test('an upstream that is slow, but sends all the time, is waited for', async (t) => {
    const mirror = await startMirror(t, { upstream: { pace: mebibyte }, noProgress: '500ms' })
    const bytes = content.subarray(0, mebibyte)
    const { digest, path } = addLayer(mirror, bytes)
    const { status, body } = await mirror.pull(path)
    assert.equal(status, 200)
    assert.ok(body.equals(bytes))
    assert.equal(mirror.upstream.delivered(digest).gets, 1)
  })

  test('a token that is no longer taken is asked for anew, and the client sees nothing', async (t) => {
    const mirror = await startMirror(t, {
      upstream: { auth: { scheme: 'bearer' } },
      noProgress: '1s',
    })
    const { upstream } = mirror
    const { digest, path, rule } = addLayer(mirror)
    upstream.fault({ ...rule, after: 1, times: 1 }, { stallAt: mebibyte })
    const pulled = mirror.pull(path)
    await arrived(mirror, mebibyte)
    upstream.revokeTokens()
    const { status, body } = await pulled
    assert.equal(status, 200)
    assert.ok(body.equals(content))
    assert.equal(upstream.tokenRequests().length, 2)
    const statuses = upstream.requests.filter((seen) => seen.reference === digest)
    assert.deepEqual(
      statuses.map((seen) => seen.status),
      [401, 200, 401, 206],
    )
  })

  test('an upstream that gives no token any more cuts its client short at once', async (t) => {
    const mirror = await startMirror(t, {
      upstream: { auth: { scheme: 'bearer' } },
      noProgress: '1s',
    })
    const { upstream } = mirror
    const { digest, path, rule } = addLayer(mirror)
    upstream.fault({ ...rule, after: 1, times: 1 }, { stallAt: mebibyte })
    const cut = mirror.pull(path)
    await arrived(mirror, mebibyte)
    upstream.revokeTokens()
    const heal = upstream.fault({ path: /^\/token/ }, { status: 403 })
    assertCut(await cut)
    await mirror.keptNothing()
    assertUnknown(await mirror.pull(path))
    heal()
    await mirror.recovers(path, content)
    const { bytes } = upstream.delivered(digest)
    assert.ok(bytes <= content.length + mebibyte, 'no more than a piece was sent again')
  })

  for (const [what, fault] of [
    ['a 401', { status: 401 }],
    ['a 403', { status: 403 }],
    ['a 404', { status: 404 }],
    ['a 416', { status: 416 }],
    ['a page that wants a log-in', { page: loginPage }],
    ['another size', { headers: { 'content-range': 'bytes 1048576-3145727/3145730' } }],
  ] as const) {
    test(`${what} cuts the client short, and the next one gets it whole`, async (t) => {
      const mirror = await startMirror(t)
      const { path, rule } = addLayer(mirror)
      mirror.upstream.fault({ ...rule, times: 1 }, { cutAt: mebibyte })
      const heal = mirror.upstream.fault(rule, fault)
      assertCut(await mirror.pull(path))
      // Where sizes differ all of it is asked for anew, and is proved.
      if (what === 'another size') await mirror.kept()
      else await mirror.keptNothing()
      heal()
      await mirror.recovers(path, content)
    })
  }
})

test('a pause that an upstream asks for is told to the client', async (t) => {
  for (const status of [429, 503]) {
    const mirror = await startMirror(t)
    const { path, rule } = addLayer(mirror)
    const headers = { 'retry-after': '120' }
    mirror.upstream.fault({ ...rule, times: 1 }, { status, headers })
    const told = await mirror.pull(path)
    assertUnavailable(told)
    assert.equal(told.headers['retry-after'], '120')
  }
})

test('of two mirrors of an upstream, the one that has a blob serves it', async (t) => {
  const [near, far] = [await startUpstream(), await startUpstream()]
  t.after(() => Promise.all([near.close(), far.close()]))
  const { edge, upstream, pull } = await startMirror(t, {
    entry: { mirrors: ['near', 'far'] },
    more: [
      { id: 'near', url: near.url.origin },
      { id: 'far', url: far.url.origin },
    ],
  })
  for (const fault of [{ status: 404 }, { status: 403 }, { status: 500 }, { cutAt: mebibyte }]) {
    const bytes = bytesOf(JSON.stringify(fault), 2 * mebibyte)
    const digest = near.addBlob(app, bytes)
    far.addBlob(app, bytes)
    near.fault({ digest, method: 'GET' }, fault)
    const got = await pull(`/v2/${app}/blobs/${digest}`)
    assert.deepEqual([got.status, got.isWhole], [200, true], JSON.stringify(fault))
    assert.ok(got.body.equals(bytes), JSON.stringify(fault))
    assert.equal(upstream.delivered(digest).gets, 0, 'nor was the upstream asked')
  }
  await waitFor('all to be held', async () => (await edge.metric('outport_edge_cache_blobs')) === 4)
})

test('of two upstreams that should both have a blob, the one that has it serves it', async (t) => {
  const other = await startUpstream()
  t.after(() => other.close())
  const { edge, upstream, pull } = await startMirror(t, {
    more: [{ id: 'other', url: other.url.origin }],
  })
  for (const fault of [{ status: 404 }, { status: 403 }, { status: 500 }, { flipBit: mebibyte }]) {
    const bytes = bytesOf(JSON.stringify(fault), 2 * mebibyte)
    const digest = upstream.addBlob(app, bytes)
    other.addBlob(app, bytes)
    upstream.fault({ digest, method: 'GET' }, fault)
    const [wrong, right] = await Promise.all([
      pull(`/v2/${app}/blobs/${digest}`),
      pull(`/v2/other/${app}/blobs/${digest}`),
    ])
    assert.ok(wrong.status !== 200 || !wrong.isWhole, JSON.stringify(fault))
    assert.ok(right.body.equals(bytes), JSON.stringify(fault))
    const still = await pull(`/v2/${app}/blobs/${digest}`)
    assert.ok(still.status !== 200 || !still.isWhole, 'what the other brought is not its')
  }
  await waitFor('all to be held', async () => (await edge.metric('outport_edge_cache_blobs')) === 4)
})

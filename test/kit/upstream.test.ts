import assert from 'node:assert/strict'
import { test } from 'node:test'
import { digestOf } from '../../shared/oci/digest.ts'
import { startUpstream, type UpstreamOptions, type Upstream } from './upstream.ts'

const repository = 'library/app'

async function withUpstream(options: UpstreamOptions, use: (upstream: Upstream) => Promise<void>) {
  const upstream = await startUpstream(options)
  try {
    await use(upstream)
  } finally {
    await upstream.close()
  }
}

function blobOf(length: number): Buffer {
  return Buffer.from(Array.from({ length }, (_, index) => (index * 7) % 251))
}

test('the stand-in serves blobs whole and in parts, and counts what it delivered', () =>
  withUpstream({}, async (upstream) => {
    const bytes = blobOf(100_000)
    const digest = upstream.addBlob(repository, bytes)
    const url = new URL(`v2/${repository}/blobs/${digest}`, upstream.url)
    const whole = await fetch(url)
    assert.equal(whole.status, 200)
    assert.equal(digestOf(Buffer.from(await whole.arrayBuffer())), digest)
    const part = await fetch(url, { headers: { range: 'bytes=90000-' } })
    assert.equal(part.status, 206)
    assert.equal(part.headers.get('content-range'), 'bytes 90000-99999/100000')
    assert.deepEqual(Buffer.from(await part.arrayBuffer()), bytes.subarray(90_000))
    await fetch(url, { method: 'HEAD' })
    assert.deepEqual(upstream.delivered(digest), { gets: 2, heads: 1, bytes: 110_000 })
    assert.deepEqual(upstream.responsesPerSegment(digest, 50_000), [1, 2])
    assert.equal((await fetch(new URL(`${url.pathname}0`, url))).status, 404)
  }))

test('the stand-in serves manifests by tag and digest, tags in pages and referrers', () =>
  withUpstream({}, async (upstream) => {
    const digest = upstream.addManifest(repository, { schemaVersion: 2 }, { tag: 'one' })
    const subject = { digest, size: 1, mediaType: 'x' }
    const referrer = upstream.addManifest(repository, { schemaVersion: 2, subject }, { tag: 'two' })
    const at = (path: string) => fetch(new URL(`v2/${repository}/${path}`, upstream.url))
    const byTag = await at('manifests/one')
    assert.equal(byTag.headers.get('docker-content-digest'), digest)
    assert.equal(await (await at(`manifests/${digest}`)).text(), await byTag.text())
    const tags = await at('tags/list?n=1')
    assert.deepEqual(await tags.json(), { name: repository, tags: ['one'] })
    assert.match(tags.headers.get('link') ?? '', /last=one/)
    const referrers = (await (await at(`referrers/${digest}`)).json()) as {
      manifests: { digest: string }[]
    }
    assert.deepEqual(
      referrers.manifests.map((descriptor) => descriptor.digest),
      [referrer],
    )
  }))

test('the stand-in spoils exactly the requests that a rule names', () =>
  withUpstream({}, async (upstream) => {
    const bytes = blobOf(200_000)
    const digest = upstream.addBlob(repository, bytes)
    const get = (headers: Record<string, string> = {}) =>
      fetch(new URL(`v2/${repository}/blobs/${digest}`, upstream.url), { headers })
    upstream.fault({ digest, after: 1, times: 1 }, { cutAt: 150_000 })
    upstream.fault({ digest, after: 1, times: 1 }, { flipBit: 70_000 })
    upstream.fault({ digest, after: 1, times: 1 }, { status: 429, headers: { 'retry-after': '1' } })
    upstream.fault({ digest, after: 1, times: 1 }, { gzip: true })
    upstream.fault({ digest, after: 1, times: 1 }, { redirect: 'http://127.0.0.1:1/elsewhere' })
    const read = async (response: Response) => Buffer.from(await response.arrayBuffer())
    assert.deepEqual(await read(await get()), bytes)
    await assert.rejects(get().then(read))
    const flipped = await read(await get({ range: 'bytes=60000-' }))
    assert.equal(flipped[10_000], (bytes[70_000] ?? 0) ^ 1)
    const busy = await get()
    assert.equal(busy.status, 429)
    assert.equal(busy.headers.get('retry-after'), '1')
    assert.equal((await get()).headers.get('content-encoding'), 'gzip')
    await assert.rejects(get())
    assert.deepEqual(await read(await get()), bytes)
  }))

test('the stand-in spoils manifests and lists too', () =>
  withUpstream({}, async (upstream) => {
    const digest = upstream.addManifest(repository, { schemaVersion: 2 }, { tag: 'one' })
    const at = (path: string) => fetch(new URL(`v2/${repository}/${path}`, upstream.url))
    for (const path of ['manifests/one', 'tags/list', `referrers/${digest}`]) {
      const heal = upstream.fault({}, { chunked: true, headers: { link: '<elsewhere>' } })
      const { headers } = await at(path)
      assert.deepEqual([headers.get('content-length'), headers.get('link')], [null, '<elsewhere>'])
      heal()
      upstream.fault({ times: 1 }, { page: '<p>log in</p>' })
      const page = await at(path)
      assert.match(page.headers.get('content-type') ?? '', /^text\/html/)
      assert.equal(await page.text(), '<p>log in</p>')
      upstream.fault({ times: 1 }, { stallAt: 5 })
      const stalled = await at(path)
      const reader = stalled.body?.getReader()
      assert.equal(((await reader?.read()) as { value: Uint8Array }).value.length, 5)
      await reader?.cancel()
    }
  }))

test('the stand-in keeps its pace', () =>
  withUpstream({ pace: 1_000_000 }, async (upstream) => {
    const digest = upstream.addBlob(repository, blobOf(200_000))
    const start = performance.now()
    const response = await fetch(new URL(`v2/${repository}/blobs/${digest}`, upstream.url))
    const headersMs = performance.now() - start
    await response.arrayBuffer()
    assert.ok(performance.now() - start >= 190)
    assert.ok(headersMs < 150)
  }))

test('the stand-in asks for a token and keeps private repositories for users', () =>
  withUpstream(
    { auth: { scheme: 'bearer', users: { ann: 'secret' }, privateRepositories: ['priv/app'] } },
    async (upstream) => {
      const open = upstream.addBlob(repository, blobOf(10))
      const closed = upstream.addBlob('priv/app', blobOf(10))
      const token = async (scope: string, headers: Record<string, string> = {}) => {
        const url = new URL(`token?service=upstream&scope=${scope}`, upstream.url)
        const answer = (await (await fetch(url, { headers })).json()) as { token: string }
        return { authorization: `Bearer ${answer.token}` }
      }
      const status = async (path: string, headers: Record<string, string> = {}) =>
        (await fetch(new URL(`v2/${path}`, upstream.url), { headers })).status
      const anonymous = await token(`repository:${repository}:pull`)
      assert.equal(await status(`${repository}/blobs/${open}`), 401)
      assert.equal(await status(`${repository}/blobs/${open}`, anonymous), 200)
      upstream.revokeTokens()
      assert.equal(await status(`${repository}/blobs/${open}`, anonymous), 401)
      const scope = 'repository:priv/app:pull'
      assert.equal(await status(`priv/app/blobs/${closed}`, await token(scope)), 401)
      const basic = { authorization: `Basic ${Buffer.from('ann:secret').toString('base64')}` }
      assert.equal(await status(`priv/app/blobs/${closed}`, await token(scope, basic)), 200)
    },
  ))

test('the stand-in can go away and come back on the same port', () =>
  withUpstream({}, async (upstream) => {
    await upstream.down()
    await assert.rejects(fetch(new URL('v2/', upstream.url)))
    await upstream.up()
    assert.equal((await fetch(new URL('v2/', upstream.url))).status, 200)
  }))

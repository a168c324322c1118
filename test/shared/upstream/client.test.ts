import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import type { TLSSocket } from 'node:tls'
import { test } from 'node:test'
import { digestOf, type Digest } from '../../../shared/oci/digest.ts'
import { mediaTypes } from '../../../shared/oci/media-types.ts'
import { parseRepositoryName, type Tag } from '../../../shared/oci/reference.ts'
import { SourceError, type SourceErrorCode } from '../../../shared/stream/blob-source.ts'
import { createUpstreamClient, type UpstreamDeps } from '../../../shared/upstream/client.ts'
import type { UpstreamClient } from '../../../shared/upstream/fetch.ts'
import { createRegistries, type RegistryOptions } from '../../../shared/upstream/registries.ts'
import { makeCertificate } from '../../kit/certificates.ts'
import { startUpstream, type Upstream, type UpstreamOptions } from '../../kit/upstream.ts'

const repository = parseRepositoryName('library/app')
const image = {
  schemaVersion: 2,
  mediaType: mediaTypes.ociManifest,
  config: {
    mediaType: 'application/vnd.oci.image.config.v1+json',
    digest: digestOf(Buffer.from('{}')),
    size: 2,
  },
  layers: [],
}
const tag = (name: string) => ({ kind: 'tag', tag: name as Tag }) as const
const byDigest = (digest: Digest) => ({ kind: 'digest', digest }) as const

interface Setting {
  readonly upstream: Upstream
  readonly client: UpstreamClient
  /** Lets milliseconds pass for the client. */
  readonly pass: (ms: number) => void
}

async function withClient(
  options: UpstreamOptions & {
    readonly entry?: Partial<RegistryOptions>
    readonly allow?: readonly string[]
  },
  use: (setting: Setting) => Promise<void>,
): Promise<void> {
  const upstream = await startUpstream(options)
  let passed = 0
  const now = () => performance.now() + passed
  const client = clientOf(upstream, options.entry, { allow: options.allow ?? [], now })
  try {
    await use({ upstream, client, pass: (ms) => void (passed += ms) })
  } finally {
    await client.close()
    await upstream.close()
  }
}

function clientOf(
  upstream: Upstream,
  entry: Partial<RegistryOptions> = {},
  deps: Pick<UpstreamDeps, 'allow' | 'now'> = {},
): UpstreamClient {
  const [made] = createRegistries([{ id: 'up', url: upstream.url, ...entry }]).entries
  assert.ok(made !== undefined)
  const timeouts = { connectTimeoutMs: 500, headersTimeoutMs: 500, stallMs: 500 }
  return createUpstreamClient({ entry: made, timeouts, ...deps })
}

async function failure(running: Promise<unknown>): Promise<SourceErrorCode> {
  const error = await running.then(
    () => assert.fail('it should fail'),
    (reason: unknown) => reason,
  )
  assert.ok(error instanceof SourceError, String(error))
  return error.code
}

async function read(
  client: UpstreamClient,
  digest: Digest,
  { offset = 0, end }: { offset?: number; end?: number } = {},
): Promise<{ bytes: Buffer; size: number | undefined; offset: number }> {
  const { signal } = new AbortController()
  const opened = await client.openBlob(repository, digest).open({ offset, end, signal })
  const parts: Buffer[] = []
  for (;;) {
    const buffer = Buffer.alloc(100_000)
    const count = await opened.read(buffer)
    if (count === 0) break
    parts.push(buffer.subarray(0, count))
  }
  opened.cancel()
  return { bytes: Buffer.concat(parts), size: opened.size, offset: opened.offset }
}

test('a manifest comes by tag and digest, verified, with its type and allowed headers only', () =>
  withClient({}, async ({ upstream, client }) => {
    const digest = upstream.addManifest(repository, image, { tag: 'v1' })
    upstream.fault(
      {},
      { headers: { 'x-accel-redirect': '/secret', 'set-cookie': 'a=b', etag: '"x"' } },
    )
    const fetched = await client.getManifest(repository, tag('v1'))
    assert.equal(fetched?.digest, digest)
    assert.equal(fetched.mediaType, mediaTypes.ociManifest)
    assert.equal(digestOf(fetched.bytes), digest)
    assert.deepEqual(Object.keys(fetched.headers).sort(), ['docker-content-digest', 'etag'])
    const head = await client.headManifest(repository, byDigest(digest))
    assert.equal(head?.digest, digest)
    assert.equal(head.headers['etag'], '"x"')
    assert.equal(upstream.requests.at(-1)?.method, 'HEAD')
    assert.equal(await client.getManifest(repository, tag('none')), undefined)
    assert.equal(await client.headManifest(repository, tag('none')), undefined)
  }))

test('a manifest that is not what its digest says, or no manifest, is broken', () =>
  withClient({}, async ({ upstream, client }) => {
    const digest = upstream.addManifest(repository, image, { tag: 'v1' })
    const noManifest = upstream.addManifest(repository, Buffer.from('[]'), { tag: 'odd' })
    const spoil = async (...[rule, fault]: Parameters<Upstream['fault']>) => {
      const undo = upstream.fault(rule, fault)
      const codes = [
        await failure(client.getManifest(repository, byDigest(digest))),
        await failure(client.getManifest(repository, tag('v1'))),
      ]
      undo()
      return codes
    }
    assert.deepEqual(await spoil({}, { flipBit: 5 }), ['broken', 'broken'])
    assert.deepEqual(await spoil({}, { gzip: true }), ['broken', 'broken'])
    assert.deepEqual(await spoil({}, { sizeOff: 5 * 1024 * 1024 }), ['broken', 'broken'])
    assert.deepEqual(await spoil({}, { redirect: 'http://127.0.0.1/' }), ['broken', 'broken'])
    assert.equal(await failure(client.getManifest(repository, byDigest(noManifest))), 'broken')
    assert.ok((await client.getManifest(repository, tag('v1'))) !== undefined)
  }))

test('an upstream that names no digest on HEAD is asked for the document', () =>
  withClient({}, async ({ upstream, client }) => {
    const digest = upstream.addManifest(repository, image, { tag: 'v1' })
    upstream.fault({}, { contentDigest: '' })
    assert.equal((await client.headManifest(repository, tag('v1')))?.digest, digest)
    assert.deepEqual(
      upstream.requests.map((request) => request.method),
      ['HEAD', 'GET'],
    )
  }))

test('refused, busy, unavailable and absent are told apart', () =>
  withClient({}, async ({ upstream, client, pass }) => {
    upstream.addManifest(repository, image, { tag: 'v1' })
    const digest = upstream.addBlob(repository, Buffer.from('blob'))
    const expected: readonly [number, SourceErrorCode | 'undefined'][] = [
      [401, 'refused'],
      [403, 'refused'],
      [404, 'undefined'],
      [400, 'broken'],
      [429, 'busy'],
      [500, 'unavailable'],
      [503, 'unavailable'],
      [418, 'broken'],
    ]
    for (const [status, code] of expected) {
      const undo = upstream.fault({}, { status, headers: { 'retry-after': '7' } })
      const outcome = async (running: Promise<unknown>) =>
        running.then(
          (value) => String(value),
          (error: unknown) => (error instanceof SourceError ? error.code : String(error)),
        )
      assert.equal(await outcome(client.getManifest(repository, tag('v1'))), code, `${status}`)
      assert.equal(await outcome(client.headManifest(repository, tag('v1'))), code, `${status}`)
      assert.equal(await outcome(client.headBlob(repository, digest)), code, `${status}`)
      const blob = code === 'undefined' ? 'absent' : code
      assert.equal(await failure(read(client, digest)), blob, `${status}`)
      undo()
      pass(7000)
    }
    const undo = upstream.fault({}, { status: 429, headers: { 'retry-after': '7' } })
    await assert.rejects(read(client, digest), { retryAfterMs: 7000 })
    undo()
    pass(7000)
    await upstream.down()
    assert.equal(await failure(client.getManifest(repository, tag('v1'))), 'unavailable')
    assert.equal(await failure(read(client, digest)), 'unavailable')
    assert.equal(await failure(client.headBlob(repository, digest)), 'unavailable')
    await upstream.up()
    assert.equal((await read(client, digest)).bytes.toString(), 'blob')
  }))

test('an upstream that never answers is unavailable in time', () =>
  withClient({}, async ({ upstream, client }) => {
    const digest = upstream.addBlob(repository, Buffer.from('blob'))
    upstream.fault({}, { stallHeaders: true })
    assert.equal(await failure(client.getManifest(repository, tag('v1'))), 'unavailable')
    assert.equal(await failure(read(client, digest)), 'unavailable')
  }))

test('a blob comes whole or in part, as it is, over kept connections', () =>
  withClient({}, async ({ upstream, client }) => {
    const bytes = randomBytes(3_000_000)
    const digest = upstream.addBlob(repository, bytes)
    const whole = await read(client, digest)
    assert.deepEqual(
      { ...whole, bytes: digestOf(whole.bytes) },
      {
        bytes: digest,
        size: bytes.length,
        offset: 0,
      },
    )
    const part = await read(client, digest, { offset: 1_000_000, end: 1_500_000 })
    assert.deepEqual(part.bytes, bytes.subarray(1_000_000, 1_500_000))
    assert.equal(part.size, bytes.length)
    const rest = await read(client, digest, { offset: 2_999_000 })
    assert.deepEqual(rest.bytes, bytes.subarray(2_999_000))
    assert.deepEqual(await client.headBlob(repository, digest), { size: bytes.length })
    const [first, second, third] = upstream.requests
    assert.equal(first?.headers['accept-encoding'], 'identity')
    assert.equal(first.range, undefined)
    assert.equal(second?.range, 'bytes=1000000-1499999')
    assert.equal(third?.range, 'bytes=2999000-')
    // One for small requests, and two in turn: undici lets a connection rest for a turn of the event loop.
    assert.ok(upstream.connections() <= 3)
  }))

test('a reader that is slow holds the upstream back instead of filling memory', () =>
  withClient({}, async ({ upstream, client }) => {
    const digest = upstream.addBlob(repository, randomBytes(30_000_000))
    const controller = new AbortController()
    const source = client.openBlob(repository, digest)
    const opened = await source.open({ offset: 0, signal: controller.signal })
    await opened.read(Buffer.alloc(10))
    // As long as somebody who reads takes for all of it.
    const { bytes } = await read(client, digest)
    const given = upstream.delivered(digest).bytes - bytes.length
    assert.ok(given < 20_000_000, `${given} bytes went into the sockets`)
    controller.abort(new Error('gone'))
    await assert.rejects(opened.read(Buffer.alloc(10)), /gone/)
  }))

test('a blob answer that cannot be right is broken', () =>
  withClient({}, async ({ upstream, client }) => {
    const digest = upstream.addBlob(repository, randomBytes(1000))
    const spoil = async (
      fault: Parameters<Upstream['fault']>[1],
      range: { offset?: number; end?: number } = {},
    ) => {
      const undo = upstream.fault({}, fault)
      const code = await failure(read(client, digest, range))
      undo()
      return code
    }
    assert.equal(await spoil({ gzip: true }), 'broken')
    assert.equal(
      await spoil({ headers: { 'content-range': 'bytes 0-9/10' } }, { offset: 5 }),
      'broken',
    )
    assert.equal(
      await spoil({ headers: { 'content-range': 'x' } }, { offset: 5, end: 9 }),
      'broken',
    )
    assert.equal(await spoil({ sizeOff: -900 }, { offset: 500 }), 'broken')
    assert.equal(await spoil({ cutAt: 500 }), 'unavailable')
    assert.equal(await spoil({ lengthOff: 100 }), 'unavailable')
    const undo = upstream.fault({}, { ignoreRange: true })
    const ignored = await read(client, digest, { offset: 500, end: 600 })
    assert.deepEqual([ignored.offset, ignored.bytes.length], [0, 1000])
    undo()
  }))

test('a redirect of a blob is followed without any header of ours, a loop and a weaker scheme are not', async () => {
  const far = await startUpstream()
  const bytes = randomBytes(1000)
  const digest = far.addBlob(repository, bytes)
  try {
    await withClient(
      {
        auth: { scheme: 'basic', users: { ann: 'secret' } },
        allow: ['127.0.0.0/8'],
        entry: {
          credential: { username: 'ann', password: 'secret' },
        },
      },
      async ({ upstream, client }) => {
        upstream.addBlob(repository, bytes)
        const undo = upstream.fault({ after: 1 }, { redirect: far.url.href })
        const { signal } = new AbortController()
        const source = client.openBlob(repository, digest, { headers: { 'x-request-id': 'r1' } })
        const opened = await source.open({ offset: 100, signal })
        assert.equal(opened.size, 1000)
        opened.cancel()
        assert.equal(upstream.requests.at(-1)?.headers['x-request-id'], 'r1')
        assert.match(upstream.requests.at(-1)?.headers.authorization ?? '', /^Basic/)
        const [followed] = far.requests
        assert.equal(followed?.range, 'bytes=100-')
        assert.equal(followed.headers.authorization, undefined)
        assert.equal(followed.headers['x-request-id'], undefined)
        assert.deepEqual(await client.headBlob(repository, digest), { size: 1000 })
        undo()
        for (const redirect of [upstream.url.href, 'file:///etc/passwd', 'http://u:p@127.0.0.1/']) {
          const end = upstream.fault({}, { redirect })
          assert.equal(await failure(read(client, digest)), 'broken', redirect)
          end()
        }
      },
    )
  } finally {
    await far.close()
  }
})

test('a redirect into our own network is refused at connect time', async () => {
  const inner = await startUpstream()
  try {
    const digest = inner.addBlob(repository, randomBytes(1000))
    await withClient({}, async ({ upstream, client }) => {
      upstream.addBlob(repository, randomBytes(1000))
      const port = inner.url.port
      for (const host of ['127.0.0.1', 'localhost', '[::ffff:7f00:1]', '169.254.169.254']) {
        const undo = upstream.fault({}, { redirect: `http://${host}:${port}/` })
        assert.equal(await failure(read(client, digest)), 'broken', host)
        undo()
      }
      assert.equal(inner.requests.length, 0)
    })
  } finally {
    await inner.close()
  }
})

test('a redirect to a host that the configuration lists is followed wherever that is, without credentials', async () => {
  const storage = await startUpstream()
  try {
    const bytes = randomBytes(1000)
    const digest = storage.addBlob(repository, bytes)
    const entry = { credential, redirectHosts: [storage.host] }
    const auth = { scheme: 'basic', users, privateRepositories: [repository] } as const
    await withClient({ auth, entry }, async ({ upstream, client }) => {
      upstream.addBlob(repository, bytes)
      upstream.fault({ digest, method: 'GET' }, { redirect: storage.url.href })
      assert.ok((await read(client, digest)).bytes.equals(bytes))
      assert.ok(storage.requests.length > 0)
      for (const { headers } of storage.requests) assert.equal(headers.authorization, undefined)
    })
  } finally {
    await storage.close()
  }
})

const users = { ann: 'secret' }
const credential = { username: 'ann', password: 'secret' }

test('a challenge is answered once, and the token is used for all that follows', () =>
  withClient(
    { auth: { scheme: 'bearer', users, privateRepositories: [repository] }, entry: { credential } },
    async ({ upstream, client }) => {
      upstream.addManifest(repository, image, { tag: 'v1' })
      const digest = upstream.addBlob(repository, Buffer.from('blob'))
      await Promise.all(Array.from({ length: 5 }, () => client.getManifest(repository, tag('v1'))))
      assert.equal((await read(client, digest)).bytes.toString(), 'blob')
      assert.deepEqual(await client.headBlob(repository, digest), { size: 4 })
      assert.equal(upstream.tokenRequests().length, 1)
      const asked = new URL(upstream.tokenRequests()[0]?.url ?? '', upstream.url)
      assert.deepEqual(Object.fromEntries(asked.searchParams), {
        service: 'upstream',
        scope: 'repository:library/app:pull',
      })
    },
  ))

test("one caller's token never serves another", () =>
  withClient(
    { auth: { scheme: 'bearer', users, privateRepositories: [repository] } },
    async ({ upstream, client }) => {
      upstream.addManifest(repository, image, { tag: 'v1' })
      const get = (as: typeof credential | 'anonymous') =>
        client.getManifest(repository, tag('v1'), { credential: as })
      assert.ok((await get(credential)) !== undefined)
      assert.equal(await failure(get('anonymous')), 'refused')
      assert.equal(await failure(get({ username: 'ann', password: 'wrong' })), 'refused')
      assert.ok((await get(credential)) !== undefined)
      assert.equal(await failure(client.getManifest(repository, tag('v1'))), 'refused')
    },
  ))

test('a token that the upstream no longer takes is fetched anew, once', () =>
  withClient(
    { auth: { scheme: 'bearer', users }, entry: { credential } },
    async ({ upstream, client }) => {
      upstream.addManifest(repository, image, { tag: 'v1' })
      await client.getManifest(repository, tag('v1'))
      const refusal = {
        status: 401,
        headers: {
          'www-authenticate': `Bearer realm="${upstream.url.href}token",service="upstream",scope="repository:library/app:pull"`,
        },
      }
      const once = upstream.fault({ path: /manifests/, times: 1 }, refusal)
      assert.ok((await client.getManifest(repository, tag('v1'))) !== undefined)
      assert.equal(upstream.tokenRequests().length, 2)
      once()
      upstream.fault({ path: /manifests/ }, refusal)
      assert.equal(await failure(client.getManifest(repository, tag('v1'))), 'refused')
      assert.ok(upstream.tokenRequests().length <= 4)
    },
  ))

test('a short-lived token is renewed before it ends', async () => {
  let clock = 0
  const upstream = await startUpstream({ auth: { scheme: 'bearer', users, expiresIn: 300 } })
  const [entry] = createRegistries([{ id: 'up', url: upstream.url, credential }]).entries
  assert.ok(entry !== undefined)
  const client = createUpstreamClient({ entry, now: () => clock })
  try {
    upstream.addManifest(repository, image, { tag: 'v1' })
    for (const [at, tokens] of [
      [0, 1],
      [280_000, 1],
      [291_000, 2],
    ] as const) {
      clock = at
      await client.getManifest(repository, tag('v1'))
      assert.equal(upstream.tokenRequests().length, tokens)
    }
  } finally {
    await client.close()
    await upstream.close()
  }
})

test('Basic is answered where it is asked for, and only with a credential', () =>
  withClient({ auth: { scheme: 'basic', users } }, async ({ upstream, client }) => {
    upstream.addManifest(repository, image, { tag: 'v1' })
    assert.ok((await client.getManifest(repository, tag('v1'), { credential })) !== undefined)
    await client.getManifest(repository, tag('v1'), { credential })
    assert.equal(upstream.requests.length, 3)
    assert.equal(await failure(client.getManifest(repository, tag('v1'))), 'refused')
    const wrong = { username: 'ann', password: 'wrong' }
    assert.equal(
      await failure(client.getManifest(repository, tag('v1'), { credential: wrong })),
      'refused',
    )
  }))

test('credentials go to no realm but the upstream itself and the hosts that are listed', async () => {
  const thief = await startUpstream({ auth: { scheme: 'bearer', users } })
  try {
    const auth = { scheme: 'bearer', users, realm: `${thief.url.href}token` } as const
    await withClient({ auth, entry: { credential } }, async ({ upstream, client }) => {
      upstream.addManifest(repository, image, { tag: 'v1' })
      assert.equal(await failure(client.getManifest(repository, tag('v1'))), 'broken')
      assert.equal(thief.requests.length, 0)
    })
    await withClient(
      { auth, entry: { credential, realmHosts: [thief.host] } },
      async ({ upstream, client }) => {
        upstream.addManifest(repository, image, { tag: 'v1' })
        // The stand-in knows only its own tokens: what counts is who was asked.
        assert.equal(await failure(client.getManifest(repository, tag('v1'))), 'refused')
        assert.match(thief.requests[0]?.headers.authorization ?? '', /^Basic /)
      },
    )
    for (const realm of ['', 'no url', 'file:///token', 'https://ann:x@127.0.0.1/token']) {
      await withClient(
        { auth: { scheme: 'bearer', users, realm }, entry: { credential } },
        async ({ upstream, client }) => {
          upstream.addManifest(repository, image, { tag: 'v1' })
          assert.equal(await failure(client.getManifest(repository, tag('v1'))), 'broken', realm)
        },
      )
    }
  } finally {
    await thief.close()
  }
})

test('a token service that fails is told apart from one that refuses', () =>
  withClient(
    { auth: { scheme: 'bearer', users }, entry: { credential } },
    async ({ upstream, client, pass }) => {
      upstream.addManifest(repository, image, { tag: 'v1' })
      const expected: readonly [Parameters<Upstream['fault']>[1], SourceErrorCode][] = [
        [{ status: 401 }, 'refused'],
        [{ status: 503 }, 'unavailable'],
        [{ status: 429 }, 'busy'],
        [{ redirect: 'http://127.0.0.1/' }, 'broken'],
        [{ stallHeaders: true }, 'unavailable'],
      ]
      for (const [fault, code] of expected) {
        const undo = upstream.fault({ path: /^\/token/ }, fault)
        assert.equal(await failure(client.getManifest(repository, tag('v1'))), code)
        undo()
        pass(1000)
      }
      assert.ok((await client.getManifest(repository, tag('v1'))) !== undefined)
    },
  ))

test('tags come in pages, and a next page elsewhere is not followed', () =>
  withClient({}, async ({ upstream, client }) => {
    for (const name of ['c', 'a', 'b']) upstream.addManifest(repository, image, { tag: name })
    assert.deepEqual(await client.listTags(repository, { n: 2 }), { tags: ['a', 'b'], next: 'b' })
    assert.deepEqual(await client.listTags(repository, { n: 2, last: 'b' }), {
      tags: ['c'],
      next: undefined,
    })
    assert.equal(await client.listTags(parseRepositoryName('un/known'), {}), undefined)
  }))

test('referrers come from the endpoint, else from the tag that stands in for it', () =>
  withClient({}, async ({ upstream, client }) => {
    const subject = upstream.addManifest(repository, image)
    const descriptor = { mediaType: mediaTypes.ociManifest, digest: subject, size: 1 }
    const signature = { ...image, artifactType: 'a/signature', subject: descriptor }
    const digest = upstream.addManifest(repository, signature)
    const digests = async (artifactType?: string) => {
      const page = await client.referrers(repository, subject, { artifactType })
      const index = JSON.parse(page.body.toString()) as { manifests: { digest: string }[] }
      return index.manifests.map((manifest) => manifest.digest)
    }
    assert.deepEqual(await digests(), [digest])
    assert.deepEqual(await digests('a/signature'), [digest])
    assert.deepEqual(await digests('another'), [])
    upstream.fault({ path: /\/referrers\// }, { status: 404 })
    assert.deepEqual(await digests(), [])
    const entry = { ...descriptor, digest, artifactType: 'a/signature' }
    const index = { schemaVersion: 2, mediaType: mediaTypes.ociIndex, manifests: [entry] }
    upstream.addManifest(repository, index, { tag: subject.replace(':', '-') })
    assert.deepEqual(await digests('a/signature'), [digest])
    assert.deepEqual(await digests('another'), [])
  }))

test('an upstream under a private CA is trusted with that CA only', async () => {
  const ca = makeCertificate({ commonName: 'a CA', isCa: true, names: [] })
  const { cert, key } = makeCertificate({ issuer: ca })
  const upstream = await startUpstream({ tls: { cert, key } })
  const [trusting, strict] = [clientOf(upstream, { ca: ca.cert }), clientOf(upstream)]
  try {
    upstream.addManifest(repository, image, { tag: 'v1' })
    const digest = upstream.addBlob(repository, Buffer.from('blob'))
    assert.ok((await trusting.getManifest(repository, tag('v1'))) !== undefined)
    assert.equal((await read(trusting, digest)).bytes.toString(), 'blob')
    assert.equal(await failure(strict.getManifest(repository, tag('v1'))), 'unavailable')
    assert.equal(await failure(read(strict, digest)), 'unavailable')
    const undo = upstream.fault({}, { redirect: upstream.url.href.replace('https', 'http') })
    assert.equal(await failure(read(trusting, digest)), 'broken')
    undo()
  } finally {
    await Promise.all([trusting.close(), strict.close()])
    await upstream.close()
  }
})

test('a client certificate is shown to the upstream, for manifests and blobs, and not to where it redirects', async (t) => {
  const ca = makeCertificate({ isCa: true, names: [], commonName: 'a CA' })
  const tls = { ...makeCertificate({ issuer: ca }), ca: ca.cert, requestCert: true }
  const clientCertificate = makeCertificate({ issuer: ca, names: [], commonName: 'an edge' })
  const shown: boolean[] = []
  const bytes = randomBytes(1000)
  const storage = createServer({ ...tls, rejectUnauthorized: false }, (request, response) => {
    shown.push((request.socket as TLSSocket).getPeerX509Certificate() !== undefined)
    response.writeHead(200, { 'content-length': bytes.length }).end(bytes)
  })
  storage.listen(0, '127.0.0.1')
  await once(storage, 'listening')
  t.after(() => {
    storage.closeAllConnections()
    storage.close()
  })
  const { port } = storage.address() as AddressInfo
  const entry = { ca: ca.cert, redirectHosts: [`127.0.0.1:${port}`] }
  await withClient(
    { tls, entry: { ...entry, clientCertificate } },
    async ({ upstream, client }) => {
      upstream.addManifest(repository, image, { tag: 'v1' })
      const own = upstream.addBlob(repository, randomBytes(1000))
      const elsewhere = upstream.addBlob(repository, bytes)
      upstream.fault({ digest: elsewhere }, { redirect: `https://127.0.0.1:${port}/` })
      assert.ok(await client.getManifest(repository, tag('v1')))
      assert.equal(digestOf((await read(client, own)).bytes), own)
      assert.deepEqual((await read(client, elsewhere)).bytes, bytes)
      assert.deepEqual(await client.headBlob(repository, elsewhere), { size: 1000 })
      assert.deepEqual(shown, [false, false])

      const nobody = clientOf(upstream, entry)
      t.after(() => nobody.close())
      assert.equal(await failure(nobody.getManifest(repository, tag('v1'))), 'unavailable')
      assert.equal(await failure(read(nobody, own)), 'unavailable')
    },
  )
})

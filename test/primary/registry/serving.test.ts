import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request as sendRequest, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { before, describe, test } from 'node:test'
import { digestOf } from '../../../shared/oci/digest.ts'
import { expectStatus, locationOf } from '../../conformance/target.ts'
import { waitFor } from '../../kit/clock.ts'
import {
  bytesOf,
  contentOf,
  createImage,
  pushBlob,
  pushImage,
  pushManifest,
} from '../../kit/images.ts'
import { startTestPrimary, type TestPrimary } from '../../kit/primary.ts'
import type { Answer, RegistryClient } from '../../kit/registry-client.ts'

const repository = 'library/serving'
const small = contentOf(bytesOf('small', 2048))
const large = contentOf(bytesOf('large', 3 * 1024 * 1024))
const image = createImage({ seed: 'served' })

let primary: TestPrimary
let client: RegistryClient
before(async () => {
  primary = await startTestPrimary()
  client = primary.client()
  const pusher = primary.client(primary.admin)
  for (const blob of [small, large]) expectStatus(await pushBlob(pusher, repository, blob), 201)
  await pushImage(pusher, repository, image, 'v1')
})

const blobPath = (digest: string) => `/v2/${repository}/blobs/${digest}`

describe('blobs', () => {
  for (const [name, content] of [
    ['in memory', small],
    ['from disk', large],
  ] as const) {
    test(`ranges, ${name}`, async () => {
      const size = content.bytes.length
      const get = (Range: string) =>
        client.request('GET', blobPath(content.digest), { headers: { Range } })
      for (const [range, start, end] of [
        ['bytes=0-0', 0, 0],
        ['bytes=-1', size - 1, size - 1],
        ['bytes=0-', 0, size - 1],
        [`bytes=${size - 10}-${size + 1000}`, size - 10, size - 1],
        ['bytes=1000-1999', 1000, 1999],
      ] as const) {
        const part = await get(range)
        expectStatus(part, 206)
        assert.equal(part.headers['content-range'], `bytes ${start}-${end}/${size}`)
        assert.deepEqual(part.body, content.bytes.subarray(start, end + 1))
      }
      for (const range of ['bytes=5-4', 'bytes=-0', `bytes=${size}-`]) {
        const refused = await get(range)
        expectStatus(refused, 416)
        assert.equal(refused.headers['content-range'], `bytes */${size}`)
      }
      for (const range of ['bytes=a-b', 'items=0-1', 'bytes=0-1,4-5']) {
        const whole = await get(range)
        expectStatus(whole, 200)
        assert.equal(digestOf(whole.body), content.digest)
      }
    })
  }

  test('If-Range of the same bytes gets a part, of others the whole', async () => {
    const get = (etag: string) =>
      client.request('GET', blobPath(small.digest), {
        headers: { Range: 'bytes=0-9', 'If-Range': etag },
      })
    expectStatus(await get(`"${small.digest}"`), 206)
    expectStatus(await get('"something else"'), 200)
  })

  test('an empty blob is one', async () => {
    const empty = contentOf(Buffer.alloc(0))
    expectStatus(await pushBlob(primary.client(primary.admin), repository, empty), 201)
    const got = await client.request('GET', blobPath(empty.digest), {
      headers: { Range: 'bytes=0-' },
    })
    expectStatus(got, 200)
    assert.equal(got.headers['content-length'], '0')
  })

  test('many clients at once get the right bytes', async () => {
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, index) =>
        client.request('GET', blobPath((index % 2 === 0 ? small : large).digest)),
      ),
    )
    for (const [index, answer] of answers.entries()) {
      assert.equal(digestOf(answer.body), (index % 2 === 0 ? small : large).digest)
    }
  })

  test('a client that goes away leaves nothing running', async () => {
    for (let round = 0; round < 20; round++) {
      const request = sendRequest({
        host: primary.url.hostname,
        port: primary.url.port,
        path: blobPath(large.digest),
        agent: false,
      })
      request.on('error', () => undefined)
      request.end()
      const [response] = (await once(request, 'response')) as [IncomingMessage]
      response.on('error', () => undefined)
      await once(response, 'readable')
      request.destroy()
    }
    await waitFor('all transfers to end', async () => {
      const metrics = await (await fetch(new URL('/metrics', primary.metricsUrl))).text()
      return /outport_primary_transfers_running\{[^}]*\} 0\n/.test(metrics)
    })
    const got = await client.request('GET', blobPath(large.digest))
    assert.equal(digestOf(got.body), large.digest)
  })
})

describe('answers', () => {
  const paths = {
    blob: blobPath(small.digest),
    'large blob': blobPath(large.digest),
    'manifest by digest': `/v2/${repository}/manifests/${image.manifest.digest}`,
    'manifest by tag': `/v2/${repository}/manifests/v1`,
    tags: `/v2/${repository}/tags/list`,
    referrers: `/v2/${repository}/referrers/${small.digest}`,
    'unknown blob': blobPath(digestOf(Buffer.from('unknown'))),
    'unknown manifest': `/v2/${repository}/manifests/nope`,
    'malformed digest': `/v2/${repository}/blobs/sha256:bad`,
  }
  const varying = new Set(['date', 'x-request-id'])
  const constant = ({ headers }: Answer) =>
    Object.fromEntries(Object.entries(headers).filter(([name]) => !varying.has(name)))

  for (const [name, path] of Object.entries(paths)) {
    test(`HEAD has the headers of GET: ${name}`, async () => {
      const [head, get] = [await client.request('HEAD', path), await client.request('GET', path)]
      assert.equal(head.status, get.status)
      assert.deepEqual(constant(head), constant(get))
      assert.equal(head.body.length, 0)
      assert.equal(get.headers['content-length'], String(get.body.length))
      assert.equal(get.headers['docker-distribution-api-version'], 'registry/2.0')
    })
  }

  test('HEAD has the headers of GET: ping, catalog, the status of an upload', async () => {
    const admin = primary.client(primary.admin)
    const opened = await admin.request('POST', `/v2/${repository}/blobs/uploads/`)
    for (const [path, asked, status] of [
      ['/v2/', admin, 200],
      ['/v2/', client, 401],
      ['/v2/_catalog', admin, 200],
      ['/v2/_catalog', client, 401],
      [locationOf(opened, admin), admin, 204],
    ] as const) {
      const [head, get] = [await asked.request('HEAD', path), await asked.request('GET', path)]
      assert.deepEqual([head.status, get.status], [status, status])
      assert.deepEqual(constant(head), constant(get))
      assert.equal(head.body.length, 0)
    }
  })

  test('what clients hold already is not sent again', async () => {
    for (const [path, digest] of [
      [paths.blob, small.digest],
      [paths['manifest by digest'], image.manifest.digest],
      [paths['manifest by tag'], image.manifest.digest],
    ] as const) {
      for (const etag of [`"${digest}"`, digest, `W/"${digest}"`, `"x", "${digest}"`, '*']) {
        const answer = await client.request('GET', path, { headers: { 'If-None-Match': etag } })
        expectStatus(answer, 304)
        assert.equal(answer.body.length, 0)
      }
      expectStatus(
        await client.request('GET', path, { headers: { 'If-None-Match': '"other"' } }),
        200,
      )
    }
  })

  test('nothing is ever compressed', async () => {
    for (const path of Object.values(paths)) {
      const answer = await client.request('GET', path, {
        headers: { 'Accept-Encoding': 'gzip, zstd, br' },
      })
      assert.equal(answer.headers['content-encoding'], undefined)
      assert.equal(answer.headers['content-length'], String(answer.body.length))
    }
  })

  test("users' bytes are never taken for a page of ours", async () => {
    for (const path of [paths.blob, paths['large blob'], paths['manifest by tag']]) {
      const { headers } = await client.request('GET', path)
      assert.equal(headers['x-content-type-options'], 'nosniff')
      assert.match(String(headers['content-security-policy']), /sandbox/)
    }
  })

  test('caches may keep what is named by its digest, and must ask again for a tag', async () => {
    const cacheControl = async (path: string) =>
      (await client.request('GET', path)).headers['cache-control']
    assert.match(String(await cacheControl(paths.blob)), /immutable/)
    assert.match(String(await cacheControl(paths['manifest by digest'])), /immutable/)
    assert.equal(await cacheControl(paths['manifest by tag']), 'no-cache')
  })

  test('a tag that moves is seen moved at once', async () => {
    const pusher = primary.client(primary.admin)
    const next = createImage({ seed: 'next', layers: 0 })
    await pushImage(pusher, repository, next)
    for (let round = 0; round < 5; round++) {
      for (const { manifest } of [next, image]) {
        expectStatus(await pushManifest(pusher, repository, manifest, 'moving'), 201)
        const head = await client.request('HEAD', `/v2/${repository}/manifests/moving`)
        assert.equal(head.headers['docker-content-digest'], manifest.digest)
      }
    }
  })

  test('pulls are counted', async () => {
    const before = await primary.records
      .selectFrom('repositories')
      .select('pull_count')
      .where('name', '=', repository)
      .executeTakeFirstOrThrow()
    await client.request('GET', paths['manifest by tag'])
    await client.request('GET', paths['manifest by digest'])
    await client.request('HEAD', paths['manifest by tag'])
    await waitFor('two pulls to be counted', async () => {
      const row = await primary.records
        .selectFrom('repositories')
        .select('pull_count')
        .where('name', '=', repository)
        .executeTakeFirstOrThrow()
      return row.pull_count >= before.pull_count + 2
    })
  })
})

test('when it is told to stop, a running pull and a running push end well, and nobody new is let in', async () => {
  const content = contentOf(bytesOf('during the stop', 400_000))
  const pusher = primary.client(primary.admin)
  const location = locationOf(
    await pusher.request('POST', `/v2/${repository}/blobs/uploads/`),
    pusher,
  )
  const { hostname: host, port } = primary.url
  const push = sendRequest({
    host,
    port,
    method: 'PUT',
    path: `${location}?digest=${content.digest}`,
    agent: false,
    auth: `${primary.admin.username}:${primary.admin.password}`,
    headers: { 'Content-Length': content.bytes.length },
  })
  push.write(content.bytes.subarray(0, 200_000))
  const pull = sendRequest({ host, port, path: blobPath(large.digest), agent: false })
  pull.end()
  const [pulled] = (await once(pull, 'response')) as [IncomingMessage]
  await once(pulled, 'readable')
  await waitFor('the push to have begun', async () => {
    const row = await primary.records
      .selectFrom('uploads')
      .select('claimed_by')
      .where('claimed_by', 'is not', null)
      .executeTakeFirst()
    return row !== undefined
  })

  const restarting = primary.restart()
  await waitFor('new connections to be refused', async () => {
    const socket = connect(Number(port), host)
    const refused = await Promise.race([
      once(socket, 'connect').then(() => false),
      once(socket, 'error').then(
        () => true,
        () => true,
      ),
    ]).catch(() => true)
    socket.destroy()
    return refused
  })
  push.end(content.bytes.subarray(200_000))
  const [pushed] = (await once(push, 'response')) as [IncomingMessage]
  pushed.resume()
  assert.equal(pushed.statusCode, 201)
  const chunks: Buffer[] = []
  for await (const chunk of pulled) chunks.push(chunk as Buffer)
  assert.equal(digestOf(Buffer.concat(chunks)), large.digest)
  await restarting
  expectStatus(await client.request('HEAD', blobPath(content.digest)), 200)
})

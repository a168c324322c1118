import assert from 'node:assert/strict'
import { createHash, randomFillSync } from 'node:crypto'
import { once } from 'node:events'
import { statfs } from 'node:fs/promises'
import { get, request as sendRequest, type IncomingMessage } from 'node:http'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { waitFor } from '../kit/clock.ts'
import { createImage, pushBlob, pushManifest } from '../kit/images.ts'
import { readBytes, residentBytes } from '../kit/process-figures.ts'
import { chooseSeed, createRandom } from '../kit/random.ts'
import { startTestUp, type TestUp } from '../kit/up.ts'
import { startUpstream, type Upstream } from '../kit/upstream.ts'

// Cases with the figures that they are told with: blobs of gigabytes, hundreds of clients, thousands of referrers.

const mebibyte = 1024 * 1024
const gibibyte = 1024 * mebibyte
const seed = chooseSeed()

/** Asks for a blob; the body is not read yet. */
async function open(url: URL, headers: Readonly<Record<string, string>> = {}) {
  const outgoing = get(url, { agent: false, headers })
  const [incoming] = (await once(outgoing, 'response')) as [IncomingMessage]
  return incoming
}

/** Reads a body to its end, or its first `length` bytes, and compares each with what it should be. */
async function assertReads(
  incoming: IncomingMessage,
  expected: Buffer,
  { from, length }: { readonly from: number; readonly length: number } = {
    from: 0,
    length: expected.length,
  },
): Promise<void> {
  assert.ok(incoming.statusCode === 200 || incoming.statusCode === 206)
  let offset = from
  for await (const chunk of incoming as AsyncIterable<Buffer>) {
    const right = expected.subarray(offset, offset + chunk.length)
    assert.ok(chunk.equals(right), `other bytes at ${offset}`)
    offset += chunk.length
    // Leaving the loop closes the connection.
    if (offset - from >= length) return
  }
  assert.ok(offset - from >= length, `the body ended at ${offset}`)
}

async function startMirror(t: Parameters<typeof startTestUp>[0]) {
  const upstream = await startUpstream()
  t.after(() => upstream.close())
  const config = { edge: { upstreams: [{ id: 'origin', url: upstream.url.origin }] } }
  const up = await startTestUp(t, { config })
  const add = (bytes: Buffer) => {
    const digest = upstream.addBlob('large/app', bytes)
    return { digest, url: new URL(`/v2/origin/large/app/blobs/${digest}`, up.urls.edge) }
  }
  return { upstream, up, add }
}

function blobOf(sizeBytes: number): Buffer {
  return randomFillSync(Buffer.allocUnsafeSlow(sizeBytes))
}

/** Pushes a blob of zeros in one request. @returns its URL at the primary */
async function pushZeros({ urls, admin }: TestUp, sizeBytes: number): Promise<URL> {
  const zeros = Buffer.alloc(mebibyte)
  const hash = createHash('sha256')
  for (let left = sizeBytes; left > 0; left -= zeros.length) hash.update(zeros)
  const digest = `sha256:${hash.digest('hex')}`
  const basic = Buffer.from(`${admin.username}:${admin.password}`).toString('base64')
  const outgoing = sendRequest(
    new URL(`/v2/library/zeros/blobs/uploads/?digest=${digest}`, urls.primary),
    {
      method: 'POST',
      headers: {
        Authorization: `Basic ${basic}`,
        'Content-Type': 'application/octet-stream',
        'Content-Length': String(sizeBytes),
      },
    },
  )
  const answered = once(outgoing, 'response')
  const body = function* () {
    for (let left = sizeBytes; left > 0; left -= zeros.length) yield zeros
  }
  await pipeline(Readable.from(body()), outgoing)
  const [incoming] = (await answered) as [IncomingMessage]
  incoming.resume()
  assert.equal(incoming.statusCode, 201)
  return new URL(`/v2/library/zeros/blobs/${digest}`, urls.primary)
}

test('a blob of 10 GiB is read at 1 MiB a second in flat memory, and no longer than its client is there', async (t) => {
  const sizeBytes = 10 * gibibyte
  const up = await startTestUp(t)
  const { bavail, bsize } = await statfs(up.data)
  if (bavail * bsize < sizeBytes + 4 * gibibyte) return t.skip('the disk has no room for 10 GiB')
  const url = await pushZeros(up, sizeBytes)
  const pid = up.pidOf('primary')
  const basic = Buffer.from(`${up.admin.username}:${up.admin.password}`).toString('base64')
  const headers = { Authorization: `Basic ${basic}` }

  const slow = await open(url, headers)
  assert.equal(slow.headers['content-length'], String(sizeBytes))
  const resident: number[] = []
  const startedAt = performance.now()
  let taken = 0
  for await (const chunk of slow as AsyncIterable<Buffer>) {
    taken += chunk.length
    const dueAt = startedAt + (taken / mebibyte) * 1000
    if (Math.floor(taken / mebibyte) > resident.length) resident.push(residentBytes(pid))
    if (taken >= 60 * mebibyte) break
    await delay(Math.max(dueAt - performance.now(), 0))
  }
  const settled = resident.slice(5)
  const spread = Math.max(...settled) - Math.min(...settled)
  t.diagnostic(`in a minute: resident ${mib(Math.max(...settled))} MiB, ± ${mib(spread)} MiB`)
  assert.ok(spread < 32 * mebibyte, `${spread} bytes more`)

  const quick = await open(url, headers)
  const before = readBytes(pid)
  quick.resume()
  await waitFor('the storage to be read', () => readBytes(pid) - before > 512 * mebibyte)
  quick.destroy()
  await delay(1000)
  const atAbort = readBytes(pid)
  await delay(2000)
  const after = readBytes(pid) - atAbort
  t.diagnostic(`read from the second after the abort on: ${after} bytes`)
  assert.ok(after < mebibyte)
})

test(`200 clients of a cold blob of 1 GiB, some with Range: each byte comes once, OUTPORT_SEED=${seed}`, async (t) => {
  const random = createRandom(seed)
  const { upstream, up, add } = await startMirror(t)
  const bytes = blobOf(gibibyte)
  const { digest, url } = add(bytes)
  const before = residentBytes(up.pidOf('edge'))
  const startedAt = performance.now()
  await Promise.all(
    Array.from({ length: 200 }, async (_, client) => {
      await delay(random.between(0, 2000))
      if (client % 4 !== 0) return assertReads(await open(url), bytes)
      const from = random.between(0, bytes.length - 1)
      const last = Math.min(from + random.between(0, 64 * mebibyte), bytes.length - 1)
      const isOpen = client % 8 === 0
      const part = await open(url, { Range: `bytes=${from}-${isOpen ? '' : last}` })
      assert.equal(part.statusCode, 206)
      await assertReads(part, bytes, { from, length: last - from + 1 })
    }),
  )
  const grown = residentBytes(up.pidOf('edge')) - before
  t.diagnostic(
    `${seconds(startedAt)} s, ${mib(grown)} MiB of memory more; ${gets(upstream, digest)}`,
  )
  assert.ok(upstream.delivered(digest).bytes <= 1.01 * bytes.length)
  assert.ok(grown < 512 * mebibyte)
})

test('64 open-ended ranges, each left after 1 MiB, during a cold fill', async (t) => {
  const { upstream, up, add } = await startMirror(t)
  upstream.setPace(16 * mebibyte)
  const cases = [
    { name: 'near the front', step: mebibyte / 4, requests: 1 },
    { name: 'all over the blob', step: mebibyte, requests: Infinity },
  ]
  for (const { name, step, requests } of cases) {
    const bytes = blobOf(65 * mebibyte)
    const { digest, url } = add(bytes)
    const whole = open(url).then((incoming) => assertReads(incoming, bytes))
    const ranges = Array.from({ length: 64 }, async (_, k) => {
      const part = await open(url, { Range: `bytes=${k * step}-` })
      assert.equal(part.statusCode, 206)
      await assertReads(part, bytes, { from: k * step, length: mebibyte })
    })
    await Promise.all([whole, ...ranges])
    t.diagnostic(`${name}: ${gets(upstream, digest)}`)
    assert.ok(upstream.delivered(digest).bytes <= 1.01 * bytes.length, name)
    assert.ok(upstream.delivered(digest).gets <= requests, name)
  }
  await up.stop()
  assert.doesNotMatch(up.output(), /"level":"(?:error|fatal)"/)
})

test('5,000 referrers of 2 KiB come in pages, each once', async (t) => {
  const repository = 'library/referrers'
  const up = await startTestUp(t)
  const subject = createImage({ seed: 'subject' })
  const pad = 'x'.repeat(1500)
  const artifacts = Array.from({ length: 5000 }, (_, number) =>
    createImage({
      seed: 'artifact',
      layers: 1,
      artifactType: 'application/x.soak',
      annotations: { number: String(number), pad },
      subject: subject.manifest,
    }),
  )
  const pusher = up.client('primary', up.admin)
  for (const { blobs } of [subject, ...artifacts.slice(0, 1)])
    for (const blob of blobs) assert.equal((await pushBlob(pusher, repository, blob)).status, 201)
  const left = artifacts.values()
  const push = async () => {
    for (const { manifest } of left) {
      assert.ok(manifest.bytes.length >= 2048)
      const { status } = await pushManifest(pusher, repository, manifest)
      assert.equal(status, 201)
    }
  }
  await Promise.all(Array.from({ length: 8 }, push))

  const wanted = artifacts.map(({ manifest }) => manifest.digest).toSorted()
  for (const where of ['primary', 'edge'] as const) {
    const client = up.client(where, up.admin, 'bearer')
    const found: string[] = []
    let pages = 0
    let path: string | undefined = `/v2/${repository}/referrers/${subject.manifest.digest}`
    while (path !== undefined) {
      const page = await client.request('GET', path)
      assert.equal(page.status, 200)
      assert.ok(page.body.length < 4 * mebibyte)
      pages++
      found.push(...(page.json() as { manifests: { digest: string }[] }).manifests.map(digestOf))
      path = nextOf(page.headers.link)
    }
    t.diagnostic(`${where}: ${pages} pages`)
    assert.ok(pages > 1)
    assert.deepEqual(found.toSorted(), wanted)
  }
})

function digestOf({ digest }: { readonly digest: string }): string {
  return digest
}

/** [distribution-spec, Listing Referrers: the Link header of RFC 5988] */
function nextOf(link: string | string[] | undefined): string | undefined {
  const target = /^<([^>]+)>; rel="next"$/.exec(String(link ?? ''))?.[1]
  if (target === undefined) return undefined
  const url = new URL(target, 'http://127.0.0.1')
  return url.pathname + url.search
}

function gets(upstream: Upstream, digest: string): string {
  const { gets: requests, bytes } = upstream.delivered(digest)
  return `upstream: ${requests} requests, ${bytes} bytes`
}

function mib(bytes: number): number {
  return Math.round(bytes / mebibyte)
}

function seconds(since: number): number {
  return Math.round((performance.now() - since) / 1000)
}

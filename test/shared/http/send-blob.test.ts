import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type Server,
  type ServerResponse,
} from 'node:http'
import { createServer as createTlsServer, request as httpsRequest } from 'node:https'
import { connect, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { buffer } from 'node:stream/consumers'
import { after, before, test, type TestContext } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import fc from 'fast-check'
import { createOpenFiles, type OpenFiles } from '../../../shared/files/open-files.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import {
  createBlobSender,
  type BlobHead,
  type BlobSender,
  type SendResult,
} from '../../../shared/http/send-blob.ts'
import type { BodySource } from '../../../shared/http/send-body.ts'
import { createCa, issueServerCertificate } from '../../../shared/trust/pki.ts'

const mib = 1024 * 1024
const content = randomBytes(3 * mib + 1000)
const digest = digestOf(content)
let folder: string
let path: string
let files: OpenFiles

before(async () => {
  folder = await mkdtemp(join(tmpdir(), 'outport-send-'))
  path = join(folder, 'blob')
  await writeFile(path, content)
  files = createOpenFiles(16)
})
after(async () => {
  files.close()
  await rm(folder, { recursive: true })
})

interface Stand {
  readonly origin: URL
  readonly sender: BlobSender
  /** What `send` returned or threw, in the order in which it settled. */
  readonly results: (SendResult | Error)[]
}

type Open = () => Promise<BodySource & { close?: () => Promise<void> }>
const openFile: Open = async () => {
  const reader = await files.open(path)
  assert.ok(reader)
  return reader
}

/** A server that answers everything with one blob. */
async function serve(
  t: TestContext,
  options: {
    open?: Open
    bytes?: Buffer
    head?: Partial<BlobHead>
    maxBufferBytes?: number
    tls?: { cert: string; key: string }
    onResponse?: (response: ServerResponse) => void
  } = {},
): Promise<Stand> {
  const { open = openFile, bytes, head, maxBufferBytes = 16 * mib, tls, onResponse } = options
  const sender = createBlobSender({ maxBufferBytes })
  const results: (SendResult | Error)[] = []
  const answer = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    onResponse?.(response)
    if (bytes !== undefined)
      return void results.push(await sender.send(request, response, { digest, bytes, ...head }))
    const handle = await open()
    try {
      results.push(await sender.send(request, response, { digest, handle, ...head }))
    } catch (error) {
      results.push(error as Error)
      response.writeHead(502).end()
    } finally {
      await handle.close?.()
    }
  }
  const handler = (request: IncomingMessage, response: ServerResponse): void =>
    void answer(request, response)
  const server: Server = tls === undefined ? createServer(handler) : createTlsServer(tls, handler)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const { port } = server.address() as AddressInfo
  return { origin: new URL(`http${tls ? 's' : ''}://127.0.0.1:${port}/`), sender, results }
}

interface Answer {
  readonly status: number | undefined
  readonly headers: IncomingMessage['headers']
  readonly body: Buffer
}

async function ask(
  origin: URL,
  options: { method?: string; headers?: Record<string, string>; ca?: string } = {},
): Promise<Answer> {
  const outgoing =
    origin.protocol === 'https:' ? httpsRequest(origin, options) : httpRequest(origin, options)
  outgoing.end()
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage]
  return { status: response.statusCode, headers: response.headers, body: await buffer(response) }
}

/** A client that goes away when it has that many bytes. */
async function abortAfter({ origin }: Stand, bytes: number): Promise<void> {
  const socket = connect({ port: Number(origin.port), host: '127.0.0.1' })
  socket.on('error', () => undefined)
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  let seen = 0
  for await (const piece of socket as AsyncIterable<Buffer>)
    if ((seen += piece.length) > bytes) break
  socket.destroy()
}

function withoutIdentity(file: BodySource & { close?: () => Promise<void> }): typeof file {
  return {
    size: file.size,
    read: (target, offset) => file.read(target, offset),
    close: async () => file.close?.(),
  }
}

async function until(condition: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const deadline = Date.now() + 10_000
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `waited in vain until ${what}`)
    await delay(5)
  }
}

/** No transfer runs, and every buffer that exists is back. */
async function settled({ sender }: Stand): Promise<void> {
  await until(
    () => {
      const { transfers, aliveBytes, freeBytes } = sender.stats()
      return transfers === 0 && aliveBytes === freeBytes
    },
    `buffers are back: ${JSON.stringify(sender.stats())}`,
  )
}

test('a blob is answered whole, with its digest, length and lasting cache headers', async (t) => {
  const stand = await serve(t)
  const { status, headers, body } = await ask(stand.origin)
  assert.equal(status, 200)
  assert.ok(body.equals(content))
  assert.equal(headers['content-length'], String(content.length))
  assert.equal(headers['docker-content-digest'], digest)
  assert.equal(headers['content-type'], 'application/octet-stream')
  assert.equal(headers['accept-ranges'], 'bytes')
  assert.equal(headers['etag'], `"${digest}"`)
  assert.equal(headers['cache-control'], 'private, max-age=31536000, immutable')
  assert.equal(headers['x-content-type-options'], 'nosniff')
  assert.deepEqual(stand.results, [{ status: 200, bytes: content.length, outcome: 'complete' }])
  await settled(stand)
})

test('HEAD has the headers of GET, ignores Range, and reads nothing', async (t) => {
  const stand = await serve(t, {
    open: () => Promise.resolve({ size: 7, read: () => Promise.reject(new Error('read')) }),
  })
  const { status, headers, body } = await ask(stand.origin, {
    method: 'HEAD',
    headers: { range: 'bytes=9-' },
  })
  assert.equal(status, 200)
  assert.equal(headers['content-length'], '7')
  assert.equal(headers['docker-content-digest'], digest)
  assert.equal(body.length, 0)
})

test('any range of a file or of bytes in memory brings just those bytes', async (t) => {
  const fromFile = await serve(t)
  const fromMemory = await serve(t, { bytes: content })
  const position = fc.integer({ min: 0, max: content.length - 1 })
  await fc.assert(
    fc.asyncProperty(position, position, fc.constantFrom(fromFile, fromMemory), async (a, b, s) => {
      const [start, end] = [Math.min(a, b), Math.max(a, b)]
      const range = `bytes=${start}-${end}`
      const { status, headers, body } = await ask(s.origin, { headers: { range } })
      assert.equal(status, 206)
      assert.equal(headers['content-range'], `bytes ${start}-${end}/${content.length}`)
      assert.equal(headers['content-length'], String(end + 1 - start))
      assert.equal(headers['docker-content-digest'], digest)
      assert.ok(body.equals(content.subarray(start, end + 1)))
    }),
    { numRuns: 60 },
  )
  await settled(fromFile)
})

const rangeCases: readonly (readonly [header: string, status: number, contentRange?: string])[] = [
  ['bytes=500-1499', 206, 'bytes 500-1499/2048'],
  ['bytes=500-', 206, 'bytes 500-2047/2048'],
  ['bytes=-500', 206, 'bytes 1548-2047/2048'],
  ['bytes=2000-5000', 206, 'bytes 2000-2047/2048'],
  ['bytes=500-0', 416, 'bytes */2048'],
  ['bytes=-0', 416, 'bytes */2048'],
  ['bytes=5000-10000', 416, 'bytes */2048'],
  ['bytes=0-9,20-29', 200],
  ['items=0-9', 200],
]
for (const [range, status, contentRange] of rangeCases) {
  test(`Range ${range} of 2048 bytes is answered ${status}`, async (t) => {
    const bytes = content.subarray(0, 2048)
    const stand = await serve(t, { bytes })
    const answer = await ask(stand.origin, { headers: { range } })
    assert.equal(answer.status, status)
    assert.equal(answer.headers['content-range'], contentRange)
    if (status === 200) assert.ok(answer.body.equals(bytes))
    if (status === 416) assert.match(answer.body.toString(), /"code":"RANGE_INVALID"/)
  })
}

test('an empty blob is answered 200 without a body, also to bytes=0-', async (t) => {
  const read = (): Promise<number> => Promise.reject(new Error('read'))
  const stand = await serve(t, { open: () => Promise.resolve({ size: 0, read }) })
  for (const headers of [{}, { range: 'bytes=0-' }]) {
    const answer = await ask(stand.origin, { headers })
    assert.equal(answer.status, 200)
    assert.equal(answer.headers['content-length'], '0')
  }
})

const conditionCases: readonly (readonly [headers: Record<string, string>, status: number])[] = [
  [{ 'if-none-match': `"${digest}"` }, 304],
  [{ 'if-none-match': digest }, 304],
  [{ 'if-none-match': `"other", W/"${digest}"` }, 304],
  [{ 'if-none-match': '*' }, 304],
  [{ 'if-none-match': '"other"' }, 200],
  [{ 'if-none-match': `"${digest}"`, range: 'bytes=0-1' }, 304],
  [{ 'if-range': `"${digest}"`, range: 'bytes=0-1' }, 206],
  [{ 'if-range': digest, range: 'bytes=0-1' }, 206],
  [{ 'if-range': '"other"', range: 'bytes=0-1' }, 200],
  [{ 'if-range': `W/"${digest}"`, range: 'bytes=0-1' }, 200],
  [{ 'if-range': 'Wed, 21 Oct 2015 07:28:00 GMT', range: 'bytes=0-1' }, 200],
  [{ 'if-range': '"other"', range: 'bytes=9000-' }, 200],
]
for (const [headers, status] of conditionCases) {
  test(`${JSON.stringify(headers)} is answered ${status}`, async (t) => {
    const stand = await serve(t, { bytes: content.subarray(0, 2048) })
    const answer = await ask(stand.origin, { headers })
    assert.equal(answer.status, status)
    assert.equal(answer.headers['etag'], `"${digest}"`)
    assert.equal(answer.body.length, status === 304 ? 0 : status === 206 ? 2 : 2048)
    assert.equal('content-length' in answer.headers, status !== 304)
  })
}

test("a manifest's type and caching and further headers are the caller's", async (t) => {
  const contentType = 'application/vnd.oci.image.index.v1+json'
  const head = { contentType, cacheControl: 'no-cache', headers: { 'X-Request-Id': 'r1' } }
  const { headers } = await ask((await serve(t, { bytes: content, head })).origin)
  assert.equal(headers['content-type'], contentType)
  assert.equal(headers['cache-control'], 'no-cache')
  assert.equal(headers['x-request-id'], 'r1')
})

test('the nginx in front is told where the file is, and only for a GET that has a body', async (t) => {
  const stand = await serve(t, { head: { accel: '/_blobs/sha256/aa/aabb' } })
  const get = await ask(stand.origin, { headers: { range: 'bytes=1-2' } })
  assert.equal(get.headers['x-accel-redirect'], '/_blobs/sha256/aa/aabb')
  assert.equal(get.headers['content-type'], 'application/octet-stream')
  assert.equal(get.body.length, 0)
  assert.deepEqual(stand.results, [{ status: 200, bytes: 0, outcome: 'accel' }])
  const head = await ask(stand.origin, { method: 'HEAD' })
  assert.equal(head.headers['content-length'], String(content.length))
  const same = await ask(stand.origin, { headers: { 'if-none-match': digest } })
  const beyond = await ask(stand.origin, { headers: { range: `bytes=${content.length}-` } })
  for (const other of [head, same, beyond]) assert.ok(!('x-accel-redirect' in other.headers))
})

test('two hundred aborted downloads leave no descriptor and no buffer behind', async (t) => {
  const large = join(folder, 'large')
  await writeFile(large, Buffer.alloc(16 * mib, 7))
  for (const share of [true, false]) {
    const stand = await serve(t, {
      maxBufferBytes: 8 * mib,
      open: async () => {
        const reader = await files.open(large)
        assert.ok(reader)
        return share ? reader : withoutIdentity(reader)
      },
    })
    await ask(stand.origin)
    const descriptors = async (): Promise<number> => (await readdir('/proc/self/fd')).length
    const had = await descriptors()
    for (let round = 0; round < 10; round++)
      await Promise.all(Array.from({ length: 10 }, (_, i) => abortAfter(stand, i * 400_000)))
    await until(() => stand.results.length === 101, 'every transfer has ended')
    await settled(stand)
    await until(async () => (await descriptors()) <= had, 'the descriptors are closed')
    const outcomes = stand.results.map((result) => 'outcome' in result && result.outcome)
    assert.ok(outcomes.filter((outcome) => outcome === 'aborted').length > 90)
    assert.equal((await ask(stand.origin)).body.length, 16 * mib)
  }
})

test('clients that pull one file at the same time share the reading of it', async (t) => {
  let bytesRead = 0
  const identity = {}
  const stand = await serve(t, {
    open: () =>
      Promise.resolve({
        identity,
        size: content.length,
        read: async (target: Buffer, offset: number) => {
          const length = content.copy(target, 0, offset, offset + 300_000)
          bytesRead += length
          await delay(1)
          return length
        },
      }),
  })
  const range = { headers: { range: 'bytes=77-' } }
  const answers = await Promise.all(
    Array.from({ length: 8 }, (_, i) => ask(stand.origin, i % 2 === 0 ? {} : range)),
  )
  for (const [i, { body }] of answers.entries())
    assert.ok(body.equals(i % 2 === 0 ? content : content.subarray(77)))
  assert.equal(bytesRead, content.length)
  // What the pool still holds is not read again either.
  assert.ok((await ask(stand.origin)).body.equals(content))
  assert.equal(bytesRead, content.length)
  await settled(stand)
})

test('a transfer whose shared read fails with another client reads for itself', async (t) => {
  const identity = {}
  const failing = Promise.withResolvers<number>()
  let opened = 0
  const stand = await serve(t, {
    open: () => {
      const isFirst = opened++ === 0
      return Promise.resolve({
        identity,
        size: content.length,
        read: (target: Buffer, offset: number) =>
          isFirst ? failing.promise : Promise.resolve(content.copy(target, 0, offset)),
      })
    },
  })
  const first = ask(stand.origin)
  await until(() => opened === 1, 'the first transfer reads')
  const second = ask(stand.origin)
  await until(() => stand.sender.stats().transfers === 2, 'the second one waits for it')
  failing.reject(new Error('gone'))
  await assert.rejects(first)
  assert.ok((await second).body.equals(content))
  await settled(stand)
})

test('clients that stall do not hold up others, even when they have all of the pool', async (t) => {
  const big: BodySource = {
    size: 64 * mib,
    read: (target) => Promise.resolve(target.fill(7).length),
  }
  let opened = 0
  const stand = await serve(t, {
    open: () => (opened++ < 6 ? Promise.resolve(big) : openFile()),
    maxBufferBytes: 4 * mib,
  })
  const stalled = Array.from({ length: 6 }, () => {
    const socket = connect({ port: Number(stand.origin.port), host: '127.0.0.1' })
    socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
    return socket.on('error', () => undefined).pause()
  })
  await until(() => stand.sender.stats().transfers === 6, 'all of them are being served')
  await until(() => stand.sender.stats().freeBytes === 0, 'the pool is in use')
  const answers = await Promise.all(Array.from({ length: 4 }, () => ask(stand.origin)))
  for (const { body } of answers) assert.ok(body.equals(content))
  assert.equal(stand.sender.stats().transfers, 6)
  for (const socket of stalled) socket.destroy()
  await settled(stand)
  assert.ok(stand.sender.stats().aliveBytes <= 4 * mib, 'what was beyond the limit is not kept')
})

test('the next chunk is read while a client takes its time over one', async (t) => {
  const offsets: number[] = []
  const source: BodySource = {
    size: 64 * mib,
    identity: {},
    read(target, offset) {
      offsets.push(offset)
      return Promise.resolve(target.length)
    },
  }
  const stand = await serve(t, { open: () => Promise.resolve(source), maxBufferBytes: 64 * mib })
  const socket = connect({ port: Number(stand.origin.port), host: '127.0.0.1' })
  socket.on('error', () => undefined).pause()
  socket.write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  // More than the sockets hold, so the first is still being written.
  await until(() => offsets.length === 2, 'the second chunk is read')
  assert.deepEqual(offsets, [0, 16 * mib])
  socket.destroy()
  await settled(stand)
})

test('a client that reads slowly goes on with one small buffer, until it is fast again', async (t) => {
  const reads: number[] = []
  // It ends when the client has been both: how soon a machine is fast enough again is its own affair.
  const size = 1024 * 1024 * mib
  const read = (target: Buffer): Promise<number> => {
    reads.push(target.length)
    return Promise.resolve(target.length)
  }
  const stand = await serve(t, { open: () => Promise.resolve({ size, read }) })
  const socket = connect({ port: Number(stand.origin.port), host: '127.0.0.1' }).pause()
  socket.on('error', () => undefined).write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  await until(() => reads.length > 1, 'the transfer has begun')
  await delay(250)
  const before = reads.length
  socket.resume()
  const firstSmall = () => reads.indexOf(64 * 1024, before)
  await until(() => firstSmall() >= 0, 'slow for a while')
  const bigAgain = () => reads.indexOf(2 * mib, firstSmall())
  await until(() => bigAgain() >= 0, 'fast in the end')
  const small = reads.slice(firstSmall(), bigAgain())
  assert.ok(small.length * 64 * 1024 >= 2 * mib, 'only much of it in a short time says that')
  assert.deepEqual(new Set(small), new Set([64 * 1024]))
  socket.destroy()
  await settled(stand)
})

test('a source that fails midway cuts the connection: the body never ends cleanly', async (t) => {
  const fault = new Error('the disk is broken')
  const stand = await serve(t, {
    open: () =>
      Promise.resolve({
        size: content.length,
        read: (target: Buffer, offset: number) =>
          offset < 2 * mib
            ? Promise.resolve(content.copy(target, 0, offset))
            : Promise.reject(fault),
      }),
  })
  await assert.rejects(ask(stand.origin), { code: 'ECONNRESET' })
  await until(() => stand.results.length === 1, 'the transfer has ended')
  assert.deepEqual(stand.results, [{ status: 200, bytes: 2 * mib, outcome: 'cut', cause: fault }])
  await settled(stand)
})

test('a file shorter than its size cuts the connection too', async (t) => {
  const stand = await serve(t, {
    open: async () => {
      const file = await openFile()
      return {
        size: file.size + 10,
        read: (target: Buffer, at: number) => file.read(target, at),
        close: async () => file.close?.(),
      }
    },
  })
  await assert.rejects(ask(stand.origin), { code: 'ECONNRESET' })
  await settled(stand)
})

test('a source that fails before its first byte leaves the answer to the caller', async (t) => {
  const fault = new Error('no source has it')
  const stand = await serve(t, {
    open: () => Promise.resolve({ size: 9, read: () => Promise.reject(fault) }),
  })
  assert.equal((await ask(stand.origin)).status, 502)
  assert.deepEqual(stand.results, [fault])
  await settled(stand)
})

test('the head is sent at once when the first bytes take long', async (t) => {
  const bytes = Promise.withResolvers<undefined>()
  const stand = await serve(t, {
    open: () =>
      Promise.resolve({
        size: 5,
        read: (b) => bytes.promise.then(() => b.write('hello')),
      }),
  })
  const outgoing = httpRequest(stand.origin).end()
  const [response] = (await once(outgoing, 'response')) as [IncomingMessage]
  assert.equal(response.headers['content-length'], '5')
  bytes.resolve(undefined)
  assert.equal((await buffer(response)).toString(), 'hello')
})

test('the head does not wait for bytes that have still to come', async (t) => {
  const stand = await serve(t, {
    open: () =>
      Promise.resolve({
        size: 9,
        isComing: () => true,
        read: () => Promise.reject(new Error('they did not come')),
      }),
  })
  // Had the head waited, the failure would have been the caller's to answer.
  await assert.rejects(ask(stand.origin), { code: 'ECONNRESET' })
  await settled(stand)
  assert.equal(stand.results.length, 1)
})

test('a client that leaves while bytes are awaited ends the transfer, and their late buffer comes back', async (t) => {
  const bytes = Promise.withResolvers<undefined>()
  const stand = await serve(t, {
    open: () => Promise.resolve({ size: 5, read: () => bytes.promise.then(() => 5) }),
  })
  const outgoing = httpRequest(stand.origin).end()
  await once(outgoing, 'response')
  outgoing.destroy()
  await until(() => stand.results.length === 1, 'the transfer has ended')
  assert.deepEqual(stand.results, [{ status: 200, bytes: 0, outcome: 'aborted' }])
  assert.notEqual(stand.sender.stats().aliveBytes, stand.sender.stats().freeBytes)
  bytes.resolve(undefined)
  await settled(stand)
})

test('bytes that a source lends are sent as they are, and each is released once', async (t) => {
  let lent = 0
  const releases: number[] = []
  const expected: object[] = []
  const lending = (): BodySource => ({
    size: content.length,
    read: (target, offset) => Promise.resolve(content.copy(target, 0, offset)),
    expect: (range) => expected.push(range),
    // Now and then the bytes are not in memory.
    borrow: async (offset, maxBytes) => {
      const id = lent++
      if (id % 3 === 2) return undefined
      const bytes = content.subarray(offset, offset + Math.min(maxBytes, 70_000))
      return { bytes, release: () => releases.push(id) }
    },
  })
  const stand = await serve(t, { open: () => Promise.resolve(lending()) })
  const { body } = await ask(stand.origin, { headers: { range: 'bytes=10-' } })
  assert.ok(body.equals(content.subarray(10)))
  assert.deepEqual(expected, [{ start: 10, end: content.length - 1 }])
  const wanted = Array.from({ length: lent }, (_, id) => id).filter((id) => id % 3 !== 2)
  assert.deepEqual(releases, wanted)
  await settled(stand)
})

test('what was lent to a client that went away is released', async (t) => {
  let held = 0
  const stand = await serve(t, {
    open: () =>
      Promise.resolve({
        size: 64 * mib,
        read: () => Promise.reject(new Error('read')),
        borrow: async (_offset: number, maxBytes: number) => {
          held++
          return { bytes: content.subarray(0, maxBytes), release: () => held-- }
        },
      }),
  })
  const socket = connect({ port: Number(stand.origin.port), host: '127.0.0.1' }).pause()
  socket.on('error', () => undefined).write('GET / HTTP/1.1\r\nHost: x\r\n\r\n')
  await until(() => held > 0, 'something is lent')
  socket.destroy()
  await until(() => stand.results.length === 1, 'the transfer has ended')
  assert.equal(held, 0)
})

test('bytes that arrive for many clients at once are not all written in one turn of the loop', async (t) => {
  const clients = 20
  const bytes = randomBytes(2 * mib + 1)
  const arrival = Promise.withResolvers<void>()
  let waiting = 0
  let turn = 0
  const writes = new Map<number, number>()
  const stand = await serve(t, {
    open: () =>
      Promise.resolve({
        size: bytes.length,
        read: () => Promise.reject(new Error('not read')),
        borrow: async (offset: number, maxBytes: number) => {
          if (offset === 0) waiting++
          await arrival.promise
          return { bytes: bytes.subarray(offset, offset + maxBytes), release: () => undefined }
        },
      }),
    onResponse: (response) => {
      const write = response.write.bind(response)
      response.write = (chunk: Buffer, ...rest: unknown[]) => {
        writes.set(turn, (writes.get(turn) ?? 0) + 1)
        return write(chunk, rest[0] as () => void)
      }
    },
  })
  const answers = Array.from({ length: clients }, () => ask(stand.origin))
  await until(() => waiting === clients, 'all wait for the bytes')
  const countTurns = (): void => {
    turn++
    if (stand.results.length < clients) setImmediate(countTurns)
  }
  countTurns()
  arrival.resolve()
  for (const answer of answers) assert.ok((await answer).body.equals(bytes))
  await settled(stand)
  assert.equal(
    [...writes.values()].reduce((sum, each) => sum + each),
    clients,
  )
  // Two when this test's own turn ends between them.
  assert.ok(Math.max(...writes.values()) <= 2)
})

test('responses on one connection follow each other', async (t) => {
  const stand = await serve(t)
  const socket = connect({ port: Number(stand.origin.port), host: '127.0.0.1' })
  const get = (more: string): string => `GET / HTTP/1.1\r\nHost: x\r\n${more}\r\n`
  socket.write(get('Range: bytes=0-4\r\n') + get('') + get('Connection: close\r\n'))
  const all = await buffer(socket)
  assert.equal(all.toString('latin1').match(/HTTP\/1\.1 20[06]/g)?.length, 3)
  assert.ok(all.subarray(-content.length).equals(content))
  await settled(stand)
})

test('over TLS the bytes are right, shared and not, and a write is at most 256 KiB', async (t) => {
  const now = new Date()
  const ca = await createCa('test', now)
  const names = { dnsNames: [], ipAddresses: ['127.0.0.1'] }
  const tls = await issueServerCertificate(ca, { names, now })
  for (const share of [true, false]) {
    const written: number[] = []
    const stand = await serve(t, {
      tls,
      open: share ? openFile : async () => withoutIdentity(await openFile()),
      onResponse: (response) => {
        const write = response.write.bind(response)
        response.write = (bytes: Buffer, ...rest: unknown[]) => {
          written.push(bytes.length)
          return write(bytes, rest[0] as () => void)
        }
      },
    })
    const { body } = await ask(stand.origin, { ca: ca.cert })
    assert.ok(body.equals(content))
    // A client that is slow for a moment, as on a busy machine, gets less at once from then on.
    assert.equal(Math.max(...written), 256 * 1024)
    await settled(stand)
  }
})

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { request as sendRequest, type IncomingMessage } from 'node:http'
import { after, before, describe, test } from 'node:test'
import { localDisk, type Disk } from '../../../primary/store/disk.ts'
import { digestOf } from '../../../shared/oci/digest.ts'
import { expectRefusal, expectStatus, locationOf } from '../../conformance/target.ts'
import { bytesOf, contentOf, pushBlob, type Content } from '../../kit/images.ts'
import { startTestPrimary, type TestPrimary } from '../../kit/primary.ts'
import type { Answer, RegistryClient, RequestOptions } from '../../kit/registry-client.ts'

const megabyte = 1024 * 1024
const repository = 'library/full'
const disk = createSmallDisk()
const lines: string[] = []
const uncaught: unknown[] = []
const note = (error: unknown) => void uncaught.push(error)

let primary: TestPrimary
let client: RegistryClient
before(async () => {
  process.on('uncaughtExceptionMonitor', note)
  primary = await startTestPrimary({ disk, onLog: (line) => lines.push(line) })
  client = primary.client(primary.admin)
})
after(() => process.off('uncaughtExceptionMonitor', note))

/** A disk that takes what fits, as a real one does, and then says that it is full. */
function createSmallDisk(): Disk & { room: number } {
  return {
    ...localDisk,
    room: Infinity,
    async write(file, buffers, position) {
      if (this.room === 0) throw Object.assign(new Error('no space left'), { code: 'ENOSPC' })
      const [first = Buffer.alloc(0)] = buffers
      const fitting = this.room === Infinity ? buffers : [first.subarray(0, this.room)]
      const written = await localDisk.write(file, fitting, position)
      this.room -= written
      return written
    },
  }
}

async function openSession(): Promise<string> {
  const opened = await client.request('POST', `/v2/${repository}/blobs/uploads/`)
  expectStatus(opened, 202)
  return locationOf(opened, client)
}

async function expectHeld(location: string, bytes: number): Promise<void> {
  const answer = await client.request('GET', location)
  expectStatus(answer, 204)
  assert.equal(answer.headers.range, `0-${bytes - 1}`)
}

function expectFull(answer: Answer, { headers }: RequestOptions): void {
  expectRefusal(answer, 507, 'UNAVAILABLE')
  assert.match(answer.body.toString(), /disk is full: try again when there is space/)
  // The whole body was read, so the connection is as good as before.
  if (headers === undefined) assert.equal(answer.headers.connection, 'keep-alive')
}

const blobUrl = ({ digest }: Content) => `/v2/${repository}/blobs/${digest}`
async function expectNoBlob(content: Content): Promise<void> {
  expectStatus(await client.request('HEAD', blobUrl(content)), 404)
}
async function expectBlob(content: Content): Promise<void> {
  const answer = await client.request('GET', blobUrl(content))
  expectStatus(answer, 200)
  assert.equal(digestOf(answer.body), content.digest)
}

/** A pull that has begun and waits for its reader. */
async function startPull(content: Content): Promise<IncomingMessage> {
  const { username, password } = primary.admin
  const request = sendRequest(new URL(blobUrl(content), primary.url), {
    agent: false,
    auth: `${username}:${password}`,
  })
  request.end()
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  return response
}

describe('a disk that fills up in the middle of a push', () => {
  const shapes: Readonly<Record<string, RequestOptions>> = {
    'with a length': {},
    chunked: { chunked: true },
    'on a connection that closes': { headers: { Connection: 'close' } },
  }
  for (const [shape, options] of Object.entries(shapes)) {
    test(`is told to a PATCH and a PUT ${shape}, and the upload goes on when there is room`, async () => {
      const content = contentOf(bytesOf(shape, 8 * megabyte))
      const [first, rest] = [content.bytes.subarray(0, megabyte), content.bytes.subarray(megabyte)]
      const location = await openSession()
      expectStatus(await client.request('PATCH', location, { body: first }), 202)
      for (const [method, query] of [
        ['PATCH', {}],
        ['PUT', { digest: content.digest }],
      ] as const) {
        disk.room = 1.5 * megabyte
        const refused = await client.request(method, location, { ...options, query, body: rest })
        expectFull(refused, options)
        await expectHeld(location, megabyte)
        await expectNoBlob(content)
      }
      disk.room = Infinity
      const finished = { query: { digest: content.digest }, body: rest }
      expectStatus(await client.request('PUT', location, finished), 201)
      await expectBlob(content)
    })

    test(`is told to a POST of a whole blob ${shape}, which leaves nothing behind`, async () => {
      const content = contentOf(bytesOf(`whole ${shape}`, 8 * megabyte))
      const post = () =>
        client.request('POST', `/v2/${repository}/blobs/uploads/`, {
          ...options,
          query: { digest: content.digest },
          body: content.bytes,
        })
      disk.room = 1.5 * megabyte
      expectFull(await post(), options)
      await expectNoBlob(content)
      disk.room = Infinity
      expectStatus(await post(), 201)
      await expectBlob(content)
    })
  }

  test('hurts no pull, and is no fault of the program', async () => {
    const [pulled, pushed] = ['pulled', 'pushed'].map((seed) =>
      contentOf(bytesOf(seed, 16 * megabyte)),
    ) as [Content, Content]
    await pushBlob(client, repository, pulled)
    const pull = await startPull(pulled)
    disk.room = megabyte
    expectFull(await client.request('PATCH', await openSession(), { body: pushed.bytes }), {})
    const chunks: Buffer[] = []
    for await (const chunk of pull) chunks.push(chunk as Buffer)
    assert.equal(digestOf(Buffer.concat(chunks)), pulled.digest)
    assert.deepEqual(uncaught, [])
    assert.deepEqual(
      lines.filter((line) => line.includes('"level":"error"')),
      [],
    )
  })
})

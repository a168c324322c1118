import assert from 'node:assert/strict'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { request as sendRequest, type ClientRequest } from 'node:http'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { before, describe, test } from 'node:test'
import { digestOf } from '../../../shared/oci/digest.ts'
import { expectRefusal, expectStatus, locationOf } from '../../conformance/target.ts'
import { waitFor } from '../../kit/clock.ts'
import { bytesOf, contentOf, pushBlob, type Content } from '../../kit/images.ts'
import { startTestPrimary, type TestPrimary } from '../../kit/primary.ts'
import type {
  Answer,
  Credentials,
  RegistryClient,
  RequestOptions,
} from '../../kit/registry-client.ts'

let primary: TestPrimary
let client: RegistryClient
before(async () => {
  primary = await startTestPrimary()
  client = primary.client(primary.admin)
})

const repository = 'library/uploads'
const blob = (seed: string, length = 1000): Content => contentOf(bytesOf(seed, length))

async function openSession(by = client, name = repository): Promise<string> {
  const opened = await by.request('POST', `/v2/${name}/blobs/uploads/`)
  expectStatus(opened, 202)
  assert.equal(opened.headers.range, '0-0')
  assert.equal(opened.headers['content-length'], '0')
  const location = locationOf(opened, by)
  assert.ok(location.endsWith(String(opened.headers['docker-upload-uuid'])))
  return location
}

const patch = (
  location: string,
  body: Buffer | Readable,
  options: RequestOptions = {},
): Promise<Answer> => client.request('PATCH', location, { body, ...options })
const finish = (location: string, content: Content, by = client): Promise<Answer> =>
  by.request('PUT', location, { query: { digest: content.digest } })
const status = (location: string, by = client): Promise<Answer> => by.request('GET', location)

async function expectHeld(location: string, bytes: number): Promise<void> {
  const answer = await status(location)
  expectStatus(answer, 204)
  assert.equal(answer.headers.range, `0-${Math.max(0, bytes - 1)}`)
}

/** A PATCH whose body is sent by hand. */
function startPatch(location: string, headers: Record<string, string> = {}): ClientRequest {
  const { username, password } = primary.admin
  const request = sendRequest({
    host: primary.url.hostname,
    port: primary.url.port,
    method: 'PATCH',
    path: location,
    agent: false,
    auth: `${username}:${password}`,
    headers: { 'Transfer-Encoding': 'chunked', ...headers },
  })
  // A cut connection is what some tests are about.
  request.on('error', () => undefined)
  return request
}

describe('shapes of clients', () => {
  test('docker: chunked, without a Content-Type, on connections that close', async () => {
    const content = blob('docker', 100_000)
    const location = await openSession()
    const patched = await patch(location, content.bytes, {
      chunked: true,
      headers: { Connection: 'close' },
    })
    expectStatus(patched, 202)
    assert.equal(patched.headers.range, '0-99999')
    assert.equal(patched.headers['content-length'], '0')
    expectStatus(await finish(location, content), 201)
  })

  test('podman: Content-Length without Content-Range, one after the other', async () => {
    const content = blob('podman', 3000)
    const location = await openSession()
    expectStatus(await patch(location, content.bytes.subarray(0, 1000)), 202)
    const second = await patch(location, content.bytes.subarray(1000))
    assert.equal(second.headers.range, '0-2999')
    expectStatus(await finish(location, content), 201)
  })

  test('crane: POST with a Content-Type of JSON and an empty body', async () => {
    const opened = await client.request('POST', `/v2/${repository}/blobs/uploads/`, {
      headers: { 'Content-Type': 'application/json' },
    })
    expectStatus(opened, 202)
  })

  test('a POST with a body that nobody asked for opens a session', async () => {
    const opened = await client.request('POST', `/v2/${repository}/blobs/uploads`, {
      body: bytesOf('unasked', 200_000),
      headers: { Connection: 'close' },
    })
    expectStatus(opened, 202)
  })

  test('oras and containerd: the whole blob by PUT, to a Location with its query in another order', async () => {
    const content = blob('oras', 5000)
    const location = await openSession()
    const put = await client.request('PUT', location, {
      query: { _state: 'x', digest: content.digest, ns: 'example.com' },
      body: content.bytes,
      headers: { 'Content-Type': 'application/octet-stream' },
    })
    expectStatus(put, 201)
    assert.equal(put.headers.location, `/v2/${repository}/blobs/${content.digest}`)
  })

  test('an announced algorithm is remembered, an unknown one refused, and another may still follow', async () => {
    const open = (algorithm: string) =>
      client.request('POST', `/v2/${repository}/blobs/uploads/`, {
        query: { 'digest-algorithm': algorithm },
      })
    for (const algorithm of ['sha256', 'sha512'] as const) {
      const content = contentOf(bytesOf(`announced ${algorithm}`, 100), { algorithm: 'sha512' })
      const location = locationOf(await open(algorithm), client)
      expectStatus(await patch(location, content.bytes), 202)
      expectStatus(await finish(location, content), 201)
    }
    expectRefusal(await open('blake3'), 400, 'DIGEST_INVALID')
  })
})

describe('chunks out of place', () => {
  test('a gap, an overlap and junk are refused, and the session goes on after each', async () => {
    const content = blob('places', 100)
    const location = await openSession()
    const send = (range: string, bytes: Buffer) =>
      patch(location, bytes, { headers: { 'Content-Range': range } })
    const part = (start: number, end: number) => content.bytes.subarray(start, end)
    expectStatus(await send('0-9', part(0, 10)), 202)
    for (const [range, bytes, expected, code] of [
      ['20-29', part(20, 30), 416, 'RANGE_INVALID'],
      ['0-9', part(0, 10), 416, 'RANGE_INVALID'],
      ['5-14', part(5, 15), 416, 'RANGE_INVALID'],
      ['5-2', part(5, 8), 400, 'BLOB_UPLOAD_INVALID'],
      ['junk', part(10, 20), 400, 'BLOB_UPLOAD_INVALID'],
      ['10-19', part(10, 15), 400, 'SIZE_INVALID'],
      ['9999999999999999999-99999999999999999999', part(10, 20), 400, 'BLOB_UPLOAD_INVALID'],
    ] as const) {
      const refused = await send(range, bytes)
      expectRefusal(refused, expected, code)
      if (expected === 416) assert.equal(refused.headers.range, '0-9')
      await expectHeld(location, 10)
    }
    expectStatus(await send('bytes 10-19/100', part(10, 20)), 202)
    expectStatus(await send('20-99', part(20, 100)), 202)
    expectStatus(await finish(location, content), 201)
  })

  test('a chunked body of another length than its Content-Range is refused, and the range told is true', async () => {
    const location = await openSession()
    const refused = await patch(location, bytesOf('short', 5), {
      chunked: true,
      headers: { 'Content-Range': '0-9' },
    })
    expectRefusal(refused, 400, 'SIZE_INVALID')
    assert.equal(refused.headers.range, '0-4')
    await expectHeld(location, 5)
  })
})

describe('interruptions', () => {
  test('a connection that breaks leaves a true range, and the upload goes on from there', async () => {
    const content = blob('broken', 2_000_000)
    const location = await openSession()
    const request = startPatch(location)
    request.write(content.bytes.subarray(0, 1_200_000))
    await waitForFile(1_000_000)
    request.destroy()
    const answer = await waitFor('the session to be free', async () => {
      const resumed = await patch(location, Buffer.alloc(0))
      return resumed.status === 202 ? resumed : undefined
    })
    const held = Number(/^0-(\d+)$/.exec(String(answer.headers.range))?.[1]) + 1
    assert.ok(held > 0 && held <= 1_200_000)
    await expectHeld(location, held)
    const rest = await patch(location, content.bytes.subarray(held), {
      headers: { 'Content-Range': `${held}-1999999` },
    })
    expectStatus(rest, 202)
    expectStatus(await finish(location, content), 201)
    const got = await client.request('GET', `/v2/${repository}/blobs/${content.digest}`)
    assert.equal(digestOf(got.body), content.digest)
  })

  test('of two writers at once one is refused, and no bytes are mixed', async () => {
    const content = blob('two writers', 500_000)
    const location = await openSession()
    const first = startPatch(location)
    first.write(content.bytes.subarray(0, 250_000))
    await waitFor('the first writer to hold the session', async () => {
      const row = await primary.records
        .selectFrom('uploads')
        .select('claimed_by')
        .where('id', '=', idOf(location))
        .executeTakeFirst()
      return row?.claimed_by !== null
    })
    const second = await patch(location, bytesOf('other bytes', 300_000))
    expectRefusal(second, 409, 'BLOB_UPLOAD_INVALID')
    expectStatus(await finish(location, content), 409)
    expectStatus(await client.request('DELETE', location), 409)
    first.end(content.bytes.subarray(250_000))
    const [answer] = (await once(first, 'response')) as [{ statusCode: number; resume(): void }]
    answer.resume()
    assert.equal(answer.statusCode, 202)
    expectStatus(await finish(location, content), 201)
  })

  test('an upload survives a restart of the primary, and goes on at its offset', async () => {
    const content = blob('restart', 300_000)
    const location = await openSession()
    expectStatus(await patch(location, content.bytes.subarray(0, 200_000)), 202)
    await primary.restart()
    await expectHeld(location, 200_000)
    expectStatus(
      await patch(location, content.bytes.subarray(200_000), {
        headers: { 'Content-Range': '200000-299999' },
      }),
      202,
    )
    expectStatus(await finish(location, content), 201)
  })

  test('a slow body that moves is waited for', async () => {
    const content = blob('slow', 4096)
    const location = await openSession()
    const request = startPatch(location)
    for (let at = 0; at < content.bytes.length; at += 512) {
      request.write(content.bytes.subarray(at, at + 512))
      await delay(40)
    }
    request.end()
    const [answer] = (await once(request, 'response')) as [{ statusCode: number; resume(): void }]
    answer.resume()
    assert.equal(answer.statusCode, 202)
    expectStatus(await finish(location, content), 201)
  })
})

describe('the end of a session', () => {
  test('a wrong digest ends it, and leaves no bytes behind', async () => {
    const content = blob('wrong', 1000)
    const location = await openSession()
    expectStatus(await patch(location, content.bytes), 202)
    const [before] = [await storedFiles()]
    const refused = await finish(location, blob('another'))
    expectRefusal(refused, 400, 'DIGEST_INVALID')
    expectRefusal(await status(location), 404, 'BLOB_UPLOAD_UNKNOWN')
    expectStatus(await client.request('HEAD', `/v2/${repository}/blobs/${content.digest}`), 404)
    assert.equal((await storedFiles()).length, before.length - 1)
  })

  test('a finished PUT may be repeated, by a client that lost the answer', async () => {
    const content = blob('replay')
    const location = await openSession()
    expectStatus(await patch(location, content.bytes), 202)
    for (let time = 0; time < 3; time++) {
      const put = await finish(location, content)
      expectStatus(put, 201)
      assert.equal(put.headers.location, `/v2/${repository}/blobs/${content.digest}`)
    }
    const withBody = await client.request('PUT', location, {
      query: { digest: content.digest },
      body: content.bytes,
    })
    expectStatus(withBody, 201)
    expectRefusal(await finish(location, blob('never sent')), 404, 'BLOB_UPLOAD_UNKNOWN')
    expectRefusal(await patch(location, content.bytes), 404, 'BLOB_UPLOAD_UNKNOWN')
  })

  test('a session that nobody goes on with ends, and its bytes with it', async () => {
    const content = blob('abandoned')
    const location = await openSession()
    expectStatus(await patch(location, content.bytes), 202)
    const before = (await storedFiles()).length
    await primary.records
      .updateTable('uploads')
      .set({ updated_at: new Date(0) })
      .where('id', '=', idOf(location))
      .execute()
    await primary.sweepUploads()
    expectRefusal(await status(location), 404, 'BLOB_UPLOAD_UNKNOWN')
    assert.equal((await storedFiles()).length, before - 1)
  })

  test('the same bytes twice are one copy', async () => {
    const content = blob('dedupe', 10_000)
    expectStatus(await pushBlob(client, repository, content), 201)
    const before = (await storedFiles()).length
    expectStatus(await pushBlob(client, repository, content), 201)
    expectStatus(await pushBlob(client, 'library/uploads-other', content), 201)
    assert.equal((await storedFiles()).length, before)
  })

  test('ids that are none of ours are unknown, never a fault', async () => {
    for (const id of [
      'x',
      '00000000-0000-4000-8000-000000000000',
      'A'.repeat(128),
      '%00',
      "';--",
    ]) {
      for (const method of ['GET', 'PATCH', 'PUT', 'DELETE']) {
        const answer = await client.request(method, `/v2/${repository}/blobs/uploads/${id}`, {
          query: { digest: blob('none').digest },
        })
        expectStatus(answer, 404, 400)
      }
    }
  })
})

describe('whose session it is', () => {
  let developer: Credentials
  before(async () => {
    developer = await primary.createUser()
    await primary.setRole('library', developer.username, 2)
  })

  test('another repository and another account do not find it, and it stays unharmed', async () => {
    const content = blob('owned')
    const location = await openSession()
    expectStatus(await patch(location, content.bytes.subarray(0, 500)), 202)
    const elsewhere = location.replace(repository, 'library/elsewhere')
    await openSession(client, 'library/elsewhere')
    const other = primary.client(developer)
    for (const [by, path] of [
      [client, elsewhere],
      [other, location],
    ] as const) {
      expectStatus(await by.request('GET', path), 404)
      expectStatus(await by.request('PATCH', path, { body: Buffer.from('evil') }), 404)
      expectStatus(await finish(path, content, by), 404)
      expectStatus(await by.request('DELETE', path), 404)
    }
    expectStatus(await patch(location, content.bytes.subarray(500)), 202)
    expectStatus(await finish(location, content), 201)
  })

  test('cancelling needs the right to push, not to delete', async () => {
    const by = primary.client(developer)
    const location = await openSession(by)
    expectStatus(await by.request('DELETE', location), 204)
  })
})

describe('mounts', () => {
  let developer: Credentials
  let own: RegistryClient
  before(async () => {
    developer = await primary.createUser()
    await primary.createProject('mount-hidden', { isPublic: false })
    await primary.createProject('mount-own', { isPublic: false })
    await primary.setRole('mount-own', developer.username, 2)
    own = primary.client(developer)
  })
  const mount = (query: Record<string, string>, by = own, name = 'mount-own/target') =>
    by.request('POST', `/v2/${name}/blobs/uploads/`, { query })

  test('from a repository that the caller may pull: at once there', async () => {
    const content = blob('mountable')
    expectStatus(await pushBlob(client, 'library/source', content), 201)
    const mounted = await mount({ mount: content.digest, from: 'library/source' })
    expectStatus(mounted, 201)
    assert.equal(mounted.headers.location, `/v2/mount-own/target/blobs/${content.digest}`)
    assert.equal(mounted.headers['docker-content-digest'], content.digest)
    expectStatus(await own.request('HEAD', `/v2/mount-own/target/blobs/${content.digest}`), 200)
  })

  test('from a repository that the caller may not pull: as if it were not there', async () => {
    const content = blob('hidden')
    expectStatus(await pushBlob(client, 'mount-hidden/source', content), 201)
    for (const query of [
      { mount: content.digest, from: 'mount-hidden/source' },
      { mount: content.digest },
      { mount: content.digest, from: 'mount-hidden/no-such' },
    ]) {
      const answer = await mount(query)
      expectStatus(answer, 202)
      assert.match(String(answer.headers.location), /\/blobs\/uploads\//)
    }
    expectStatus(await own.request('HEAD', `/v2/mount-own/target/blobs/${content.digest}`), 404)
  })

  test('without from: what anybody may pull, and what the caller may', async () => {
    const [open, shared] = [blob('open to all'), blob('in an own project')]
    expectStatus(await pushBlob(client, 'library/anywhere', open), 201)
    expectStatus(await pushBlob(own, 'mount-own/elsewhere', shared), 201)
    expectStatus(await mount({ mount: open.digest }), 201)
    expectStatus(await mount({ mount: shared.digest }), 201)
  })

  test('a mount into what the caller may not push to is refused', async () => {
    const content = blob('not there')
    const refused = await mount(
      { mount: content.digest, from: 'library/source' },
      own,
      'mount-hidden/target',
    )
    expectRefusal(refused, 401, 'UNAUTHORIZED')
    assert.match(
      String(refused.headers['www-authenticate']),
      /scope="repository:mount-hidden\/target:pull,push repository:library\/source:pull"/,
    )
  })

  test('a mount and a HEAD take a condemned blob back from the collector', async () => {
    const [one, two] = [blob('condemned one'), blob('condemned two')]
    for (const content of [one, two])
      expectStatus(await pushBlob(client, 'library/condemned', content), 201)
    const condemn = (content: Content) =>
      primary.records
        .updateTable('blobs')
        .set({ state: 'condemned', condemned_at: new Date(0) })
        .where('digest', '=', content.digest)
        .execute()
    const stateOf = async (content: Content) =>
      (
        await primary.records
          .selectFrom('blobs')
          .select('state')
          .where('digest', '=', content.digest)
          .executeTakeFirst()
      )?.state
    await condemn(one)
    await condemn(two)
    expectStatus(await client.request('GET', `/v2/library/condemned/blobs/${one.digest}`), 200)
    assert.equal(await stateOf(one), 'condemned')
    expectStatus(await client.request('HEAD', `/v2/library/condemned/blobs/${one.digest}`), 200)
    assert.equal(await stateOf(one), 'live')
    expectStatus(await mount({ mount: two.digest, from: 'library/condemned' }), 201)
    assert.equal(await stateOf(two), 'live')
  })
})

describe('refusals', () => {
  test('a push without a log-in is refused before its body is read, and the answer arrives', async () => {
    const anonymous = primary.client()
    for (const Connection of ['close', 'keep-alive']) {
      const refused = await anonymous.request('POST', `/v2/${repository}/blobs/uploads/`, {
        query: { digest: blob('x').digest },
        body: bytesOf('refused', 3_000_000),
        headers: { Connection },
      })
      expectRefusal(refused, 401, 'UNAUTHORIZED')
      assert.match(
        String(refused.headers['www-authenticate']),
        /^Bearer realm="[^"]*",service="[^"]*",scope="repository:library\/uploads:pull,push"$/,
      )
    }
  })

  test('a push to a project that is not there says to create it', async () => {
    const content = blob('no project')
    const asAdmin = await pushBlob(client, 'no-such-project/app', content)
    expectRefusal(asAdmin, 404, 'NAME_UNKNOWN')
    assert.match(asAdmin.body.toString(), /create it first/)
    const user = primary.client(await primary.createUser())
    const [absent, present] = [
      await pushBlob(user, 'no-such-project/app', content),
      await pushBlob(user, 'library/app', content),
    ]
    for (const refused of [absent, present]) {
      expectRefusal(refused, 401, 'UNAUTHORIZED')
      assert.match(refused.body.toString(), /create the project/)
    }
  })
})

function idOf(location: string): string {
  return location.slice(location.lastIndexOf('/') + 1)
}

/** Everything in the blob store, finished or not. */
async function storedFiles(): Promise<readonly string[]> {
  const found = await readdir(primary.blobFolder, { recursive: true, withFileTypes: true })
  return found
    .filter((entry) => entry.isFile() && /^[0-9a-f]{32}$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
}

async function waitForFile(bytes: number): Promise<void> {
  const { stat } = await import('node:fs/promises')
  await waitFor('bytes to reach the disk', async () => {
    for (const file of await storedFiles()) if ((await stat(file)).size >= bytes) return true
    return false
  })
}

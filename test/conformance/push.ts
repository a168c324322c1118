import assert from 'node:assert/strict'
import { before, describe, test } from 'node:test'
import { digestOf, type Digest, type DigestAlgorithm } from '../../shared/oci/digest.ts'
import {
  bytesOf,
  contentOf,
  createImage,
  pushBlob,
  pushManifest,
  type Content,
} from '../kit/images.ts'
import type { Answer } from '../kit/registry-client.ts'
import { createTargetHolder, expectStatus, locationOf, type OpenTarget } from './target.ts'

const octets = { 'Content-Type': 'application/octet-stream' }

/** Blob pushes in every way, for both algorithms. [conformance suite, TestBlobAPIs; distribution-spec, Push] */
export function describePush(name: string, open: OpenTarget): void {
  describe(`${name}: push`, () => {
    const holder = createTargetHolder(open)
    before(() => holder.open())
    for (const algorithm of ['sha256', 'sha512'] as const) describeBlobs(algorithm, holder)
    describeManifestErrors(holder)
  })
}

type Holder = ReturnType<typeof createTargetHolder>

function describeBlobs(algorithm: DigestAlgorithm, holder: Holder): void {
  const blob = (seed: string, length = 512): Content =>
    contentOf(bytesOf(`${algorithm} ${seed} ${Date.now()} ${Math.random()}`, length), { algorithm })

  const openSession = async (repository = holder.get().repository): Promise<string> => {
    const { client } = holder.get()
    const opened = await client.request('POST', `/v2/${repository}/blobs/uploads/`)
    expectStatus(opened, 202)
    return locationOf(opened, client)
  }
  const put = (
    location: string,
    digest: Digest,
    body?: Buffer,
    headers: Record<string, string> = octets,
  ) =>
    holder.get().client.request('PUT', location, {
      query: { digest },
      headers,
      ...(body !== undefined && { body }),
    })
  const patch = (location: string, bytes: Buffer, start?: number, chunked = false) =>
    holder.get().client.request('PATCH', location, {
      body: bytes,
      chunked,
      headers: {
        ...octets,
        ...(start !== undefined && { 'Content-Range': `${start}-${start + bytes.length - 1}` }),
      },
    })

  /** A created blob is at its Location at once, with its digest, by HEAD and GET. */
  const expectStored = async (created: Answer, content: Content): Promise<void> => {
    const { client, repository } = holder.get()
    expectStatus(created, 201)
    assert.equal(created.headers['docker-content-digest'], content.digest)
    const location = locationOf(created, client)
    assert.equal(location, `/v2/${repository}/blobs/${content.digest}`)
    const head = await client.request('HEAD', location)
    expectStatus(head, 200)
    assert.equal(head.headers['content-length'], String(content.bytes.length))
    assert.equal(head.headers['docker-content-digest'], content.digest)
    assert.equal(head.body.length, 0)
    const got = await client.request('GET', location)
    expectStatus(got, 200)
    assert.deepEqual(got.body, content.bytes)
    assert.equal(got.headers['docker-content-digest'], content.digest)
    expectStatus(await client.request('DELETE', location), 202)
    expectStatus(await client.request('HEAD', location), 404)
  }

  describe(`blobs by ${algorithm}`, () => {
    test('a blob that was never pushed is not found', async () => {
      const { client, repository } = holder.get()
      expectStatus(
        await client.request('GET', `/v2/${repository}/blobs/${blob('missing').digest}`),
        404,
      )
    })

    test('POST with a digest takes a whole blob', async () => {
      const content = blob('post only')
      const { client, repository } = holder.get()
      await expectStored(await pushBlob(client, repository, content), content)
    })

    test('POST, then PUT with the whole blob', async () => {
      const content = blob('post put')
      await expectStored(await put(await openSession(), content.digest, content.bytes), content)
    })

    test('one chunk by PATCH, then an empty PUT', async () => {
      const content = blob('chunked single')
      const location = await openSession()
      const patched = await patch(location, content.bytes, 0)
      expectStatus(patched, 202)
      assert.equal(patched.headers.range, '0-511')
      await expectStored(
        await put(locationOf(patched, holder.get().client), content.digest),
        content,
      )
    })

    test('a stream by PATCH without Content-Range and Content-Length', async () => {
      const content = blob('stream')
      const patched = await patch(await openSession(), content.bytes, undefined, true)
      expectStatus(patched, 202)
      assert.equal(patched.headers.range, '0-511')
      await expectStored(
        await put(locationOf(patched, holder.get().client), content.digest),
        content,
      )
    })

    test('several chunks, the last by PATCH or by PUT', async () => {
      for (const lastByPut of [false, true]) {
        const content = blob(`chunked multi ${lastByPut}`, 3067)
        const chunks = [content.bytes.subarray(0, 1024), content.bytes.subarray(1024, 2048)]
        const last = content.bytes.subarray(2048)
        let location = await openSession()
        let offset = 0
        for (const chunk of lastByPut ? chunks : [...chunks, last]) {
          const patched = await patch(location, chunk, offset)
          expectStatus(patched, 202)
          offset += chunk.length
          assert.equal(patched.headers.range, `0-${offset - 1}`)
          location = locationOf(patched, holder.get().client)
        }
        const finish = lastByPut
          ? await put(location, content.digest, last, { ...octets, 'Content-Range': '2048-3066' })
          : await put(location, content.digest)
        await expectStored(finish, content)
      }
    })

    test('a chunk out of order is refused with 416, and the session goes on', async () => {
      const { client } = holder.get()
      const content = blob('out of order', 3067)
      let location = await openSession()
      let held = 0
      for (const end of [1024, 2048, 3067]) {
        for (const wrongStart of held === 0 ? [1024, 2048] : [0, held + 1]) {
          const refused = await patch(
            location,
            content.bytes.subarray(wrongStart, wrongStart + 512),
            wrongStart,
          )
          expectStatus(refused, 416)
        }
        const status = await client.request('GET', location)
        expectStatus(status, 204)
        if (held > 0) assert.equal(status.headers.range, `0-${held - 1}`)
        const patched = await patch(
          locationOf(status, client),
          content.bytes.subarray(held, end),
          held,
        )
        expectStatus(patched, 202)
        location = locationOf(patched, client)
        held = end
      }
      await expectStored(await put(location, content.digest), content)
    })

    test('a last chunk out of order by PUT is refused with 416, and the same URL answers its status', async () => {
      const { client } = holder.get()
      const content = blob('out of order put', 2048)
      const patched = await patch(await openSession(), content.bytes.subarray(0, 1024), 0)
      const location = locationOf(patched, client)
      const refused = await put(location, content.digest, content.bytes.subarray(512), {
        ...octets,
        'Content-Range': '512-2047',
      })
      expectStatus(refused, 416)
      const status = await client.request('GET', location, { query: { digest: content.digest } })
      expectStatus(status, 204)
      assert.equal(status.headers.range, '0-1023')
      const finish = await put(location, content.digest, content.bytes.subarray(1024), {
        ...octets,
        'Content-Range': '1024-2047',
      })
      await expectStored(finish, content)
    })

    test('a stale Location still answers the status, and refuses a stale chunk', async () => {
      const { client } = holder.get()
      const content = blob('stale', 1024)
      const stale = await openSession()
      expectStatus(await patch(stale, content.bytes.subarray(0, 512), 0), 202)
      const status = await client.request('GET', stale)
      expectStatus(status, 204)
      assert.equal(status.headers.range, '0-511')
      expectStatus(await patch(stale, content.bytes.subarray(0, 512), 0), 416)
    })

    test('an upload can be cancelled', async () => {
      const { client } = holder.get()
      const location = await openSession()
      expectStatus(await client.request('DELETE', location), 204)
      expectStatus(await client.request('GET', location), 404)
      expectStatus(await client.request('DELETE', location), 404)
    })

    test('a blob is mounted from the repository that has it', async () => {
      const { client, repository, otherRepository } = holder.get()
      const content = blob('mount')
      expectStatus(await pushBlob(client, otherRepository, content), 201)
      const mounted = await client.request('POST', `/v2/${repository}/blobs/uploads/`, {
        query: { mount: content.digest, from: otherRepository },
      })
      await expectStored(mounted, content)
    })

    test('a blob is mounted without saying from where', async () => {
      const { client, repository, otherRepository } = holder.get()
      const content = blob('mount anonymous')
      expectStatus(await pushBlob(client, otherRepository, content), 201)
      const mounted = await client.request('POST', `/v2/${repository}/blobs/uploads/`, {
        query: { mount: content.digest },
      })
      await expectStored(mounted, content)
    })

    test('a mount of what is not there opens an upload', async () => {
      const { client, repository, otherRepository } = holder.get()
      const content = blob('mount missing')
      const queries: Record<string, string>[] = [
        { mount: content.digest, from: otherRepository },
        { mount: content.digest },
        { mount: content.digest, from: 'no/such/repository' },
        { mount: content.digest, from: 'Not A Name' },
        { mount: 'sha256:bad', from: otherRepository },
      ]
      for (const query of queries) {
        const opened = await client.request('POST', `/v2/${repository}/blobs/uploads/`, { query })
        expectStatus(opened, 202)
        assert.match(locationOf(opened, client), /\/blobs\/uploads\//)
      }
    })

    test('the empty blob and {} are blobs like any', async () => {
      for (const bytes of [Buffer.alloc(0), Buffer.from('{}')]) {
        const content = contentOf(bytes, { algorithm })
        const { client } = holder.get()
        // The suite sends the empty blob as a chunked body without a chunk.
        const finish = await client.request('PUT', await openSession(), {
          query: { digest: content.digest },
          body: bytes,
          chunked: true,
          headers: octets,
        })
        await expectStored(finish, content)
      }
    })

    test('a wrong digest is refused with 400 in every way of pushing', async () => {
      const { client, repository } = holder.get()
      const wrong = blob('right').digest
      const bytes = blob('wrong', 3067).bytes
      const posted = await pushBlob(client, repository, { digest: wrong, bytes, mediaType: '' })
      expectStatus(posted, 400)
      expectStatus(await put(await openSession(), wrong, bytes), 400)
      const chunked = await openSession()
      expectStatus(await patch(chunked, bytes.subarray(0, 1024), 0), 202)
      expectStatus(await put(chunked, wrong, bytes.subarray(1024)), 400)
      const streamed = await openSession()
      expectStatus(await patch(streamed, bytes, undefined, true), 202)
      expectStatus(await put(streamed, wrong), 400)
      expectStatus(await client.request('HEAD', `/v2/${repository}/blobs/${wrong}`), 404)
      expectStatus(
        await client.request('HEAD', `/v2/${repository}/blobs/${digestOf(bytes, algorithm)}`),
        404,
      )
    })

    test('a missing, malformed or unknown digest is refused with 400', async () => {
      const { client } = holder.get()
      for (const digest of [
        undefined,
        '',
        'sha256:bad',
        'md5:d41d8cd98f00b204e9800998ecf8427e',
        'x',
      ]) {
        const refused = await client.request('PUT', await openSession(), {
          ...(digest !== undefined && { query: { digest } }),
        })
        expectStatus(refused, 400)
        assert.equal(refused.codes()[0], 'DIGEST_INVALID')
      }
    })

    test('ranges of a blob', async () => {
      const { client, repository } = holder.get()
      const content = blob('ranges', 2048)
      expectStatus(await pushBlob(client, repository, content), 201)
      const path = `/v2/${repository}/blobs/${content.digest}`
      const get = (range: string) =>
        client.request('GET', path, { headers: { Range: `bytes=${range}` } })
      for (const [range, start, end] of [
        ['500-1499', 500, 1499],
        ['500-', 500, 2047],
        ['-500', 1548, 2047],
        ['2000-5000', 2000, 2047],
      ] as const) {
        const part = await get(range)
        expectStatus(part, 206)
        assert.deepEqual(part.body, content.bytes.subarray(start, end + 1))
        assert.equal(part.headers['content-length'], String(end - start + 1))
        assert.equal(part.headers['content-range'], `bytes ${start}-${end}/2048`)
      }
      expectStatus(await get('500-0'), 416)
      const beyond = await get('5000-10000')
      expectStatus(beyond, 416)
      assert.equal(beyond.headers['content-range'], 'bytes */2048')
      expectStatus(await client.request('DELETE', path), 202)
    })
  })
}

function describeManifestErrors(holder: Holder): void {
  describe('refused manifests', () => {
    test('bytes that do not have the digest of the path', async () => {
      const { client, repository } = holder.get()
      const image = createImage({ seed: `bad digest ${Date.now()}` })
      for (const blob of image.blobs) expectStatus(await pushBlob(client, repository, blob), 201)
      const { manifest } = image
      const spaced = { ...manifest, bytes: Buffer.concat([manifest.bytes, Buffer.from('  ')]) }
      expectStatus(await pushManifest(client, repository, spaced, manifest.digest), 400)
      expectStatus(
        await client.request('HEAD', `/v2/${repository}/manifests/${manifest.digest}`),
        404,
      )
    })

    test('a digest that is none', async () => {
      const { client, repository } = holder.get()
      const { manifest } = createImage({ seed: 'bad digest', layers: 0 })
      const refused = await pushManifest(client, repository, manifest, 'sha256:baddigeststring')
      expectStatus(refused, 400)
      const got = await client.request('GET', `/v2/${repository}/manifests/sha256:baddigeststring`)
      expectStatus(got, 400, 404)
    })
  })
}

import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { before, describe, test } from 'node:test'
import { sql } from 'kysely'
import { digestOf } from '../../../shared/oci/digest.ts'
import { manifestMaxBytes } from '../../../shared/oci/manifest.ts'
import { mediaTypes } from '../../../shared/oci/media-types.ts'
import { expectRefusal, expectStatus } from '../../conformance/target.ts'
import {
  contentOf,
  createImage,
  createIndex,
  pushBlob,
  pushImage,
  pushManifest,
  type Content,
} from '../../kit/images.ts'
import { startTestPrimary, type TestPrimary } from '../../kit/primary.ts'
import type { RegistryClient } from '../../kit/registry-client.ts'

let primary: TestPrimary
let client: RegistryClient
before(async () => {
  primary = await startTestPrimary()
  client = primary.client(primary.admin)
})

interface Listed {
  readonly manifests: readonly {
    readonly digest: string
    readonly artifactType?: string
    readonly annotations?: Readonly<Record<string, string>>
  }[]
}

describe('names', () => {
  test('a repository may be called library/manifests/b, blobs, tags or uploads', async () => {
    for (const repository of [
      'library/manifests/b',
      'library/blobs/uploads',
      'library/tags/list',
      'library/referrers/x',
      'library/blobs/uploads/manifests',
    ]) {
      const image = createImage({ seed: repository, layers: 1 })
      await pushImage(client, repository, image, 'v1')
      const got = await client.request('GET', `/v2/${repository}/manifests/v1`)
      expectStatus(got, 200)
      assert.deepEqual(got.body, image.manifest.bytes)
    }
  })

  test('names outside of the grammar are refused on every verb', async () => {
    const long = `library/${'a'.repeat(248)}`
    assert.equal(long.length, 256)
    for (const name of [
      long,
      'A/b',
      'a//b',
      'a/../b',
      'a/%2e%2e/b',
      'a%2Fb',
      'a/b\\c',
      'a/%00',
      'a/%',
    ]) {
      for (const [method, rest] of [
        ['GET', 'manifests/v1'],
        ['PUT', 'manifests/v1'],
        ['POST', 'blobs/uploads/'],
        ['GET', 'tags/list'],
      ]) {
        const answer = await client.request(method ?? '', `/v2/${name}/${rest}`)
        expectStatus(answer, 400, 404)
        assert.ok(
          ['NAME_INVALID', 'NAME_UNKNOWN', 'UNSUPPORTED'].includes(answer.codes()[0] ?? ''),
          answer.codes()[0],
        )
      }
    }
  })

  test('a name of 255 characters is one', async () => {
    const repository = `library/${'a'.repeat(247)}`
    await pushImage(client, repository, createImage({ seed: 'long', layers: 0 }), 'v1')
    expectStatus(await client.request('HEAD', `/v2/${repository}/manifests/v1`), 200)
  })

  test('a tag has up to 128 characters', async () => {
    const image = createImage({ seed: 'tag length', layers: 0 })
    await pushImage(client, 'library/tags', image)
    const tag = 't'.repeat(128)
    expectStatus(await pushManifest(client, 'library/tags', image.manifest, tag), 201)
    expectStatus(await client.request('GET', `/v2/library/tags/manifests/${tag}`), 200)
    expectRefusal(
      await pushManifest(client, 'library/tags', image.manifest, `${tag}t`),
      400,
      'TAG_INVALID',
    )
    expectStatus(await client.request('GET', `/v2/library/tags/manifests/${tag}t`), 404)
    expectStatus(await client.request('GET', '/v2/library/tags/manifests/.bad'), 404)
  })

  test('a digest in upper case is refused', async () => {
    const { manifest } = createImage({ seed: 'upper' })
    const upper = manifest.digest.replace(/[a-f]/g, (letter) => letter.toUpperCase())
    expectRefusal(
      await client.request('GET', `/v2/library/upper/blobs/${upper}`),
      400,
      'DIGEST_INVALID',
    )
    expectRefusal(
      await pushManifest(client, 'library/upper', manifest, upper),
      400,
      'DIGEST_INVALID',
    )
  })

  test('what is no endpoint is 404, and a wrong verb 405 with those that are right', async () => {
    for (const path of [
      '/v2/library/x',
      '/v2/_oci/ext/discover',
      '/v2/library/x/blobs/uploads/a/b',
    ]) {
      expectStatus(await client.request('GET', path), 404)
    }
    const refused = await client.request('POST', '/v2/library/x/tags/list')
    expectRefusal(refused, 405, 'UNSUPPORTED')
    assert.equal(refused.headers.allow, 'GET, HEAD')
    expectRefusal(await client.request('OPTIONS', '/v2/library/x/manifests/a'), 405, 'UNSUPPORTED')
  })

  test('paths in percent-encoding are the same paths', async () => {
    const image = createImage({ seed: 'encoded', layers: 0 })
    await pushImage(client, 'library/encoded', image, 'v1')
    const path = `/v2/library/encoded/manifests/${image.manifest.digest.replace(':', '%3A')}`
    expectStatus(await client.request('GET', path), 200)
    expectStatus(await client.request('GET', '/v2/lib%72ary/encoded/manifests/v1'), 200)
  })
})

describe('Accept', () => {
  const index = createIndex({ children: [createImage({ seed: 'accept' })] })
  before(() => pushImage(client, 'library/accept', index, 'v1'))

  test('a tag that is an index is not shown to who can only read manifests, its digest is', async () => {
    const headers = { Accept: mediaTypes.ociManifest }
    const byTag = await client.request('GET', '/v2/library/accept/manifests/v1', { headers })
    expectRefusal(byTag, 404, 'MANIFEST_UNKNOWN')
    const byDigest = await client.request(
      'GET',
      `/v2/library/accept/manifests/${index.manifest.digest}`,
      { headers },
    )
    expectStatus(byDigest, 200)
  })

  test('order and q do not count, and several headers are one', async () => {
    const types = [mediaTypes.ociManifest, mediaTypes.ociIndex, mediaTypes.dockerManifest]
    for (const Accept of [
      types.join(', '),
      types.toReversed().join(','),
      `${mediaTypes.ociManifest};q=1, ${mediaTypes.ociIndex};q=0.1`,
      types,
      '*/*',
      'application/json',
    ]) {
      const got = await client.request('GET', '/v2/library/accept/manifests/v1', {
        headers: { Accept },
      })
      expectStatus(got, 200)
      assert.equal(got.headers['content-type'], mediaTypes.ociIndex)
      assert.equal(got.headers['docker-content-digest'], index.manifest.digest)
    }
  })
})

describe('manifests', () => {
  const put = (
    repository: string,
    document: unknown,
    contentType: string = mediaTypes.ociManifest,
  ) =>
    pushManifest(client, repository, contentOf(toBytes(document), { mediaType: contentType }), 'v1')

  test('parameters of the Content-Type are neither stored nor served', async () => {
    const image = createImage({ seed: 'charset', layers: 0 })
    await pushImage(client, 'library/charset', image)
    const pushed = await pushManifest(
      client,
      'library/charset',
      { ...image.manifest, mediaType: `${image.manifest.mediaType}; charset=utf-8` },
      'v1',
    )
    expectStatus(pushed, 201)
    const got = await client.request('GET', '/v2/library/charset/manifests/v1')
    assert.equal(got.headers['content-type'], mediaTypes.ociManifest)
  })

  test('without a Content-Type, or with a generic one, the body says what it is', async () => {
    const image = createImage({ seed: 'untyped', layers: 0 })
    await pushImage(client, 'library/untyped', image)
    for (const headers of [
      {},
      { 'Content-Type': 'application/json' },
      { 'Content-Type': 'application/octet-stream' },
    ]) {
      const pushed = await client.request('PUT', '/v2/library/untyped/manifests/v1', {
        body: image.manifest.bytes,
        headers,
      })
      expectStatus(pushed, 201)
    }
  })

  test('a document that can be read in two ways is refused', async () => {
    const { manifest, blobs } = createImage({ seed: 'two ways', layers: 1 })
    for (const blob of blobs) await pushBlob(client, 'library/refused', blob)
    const document = JSON.parse(manifest.bytes.toString()) as Record<string, unknown>
    for (const [contentType, body] of [
      [mediaTypes.ociIndex, document],
      [mediaTypes.ociManifest, { ...document, manifests: [] }],
      [mediaTypes.ociIndex, { schemaVersion: 2, manifests: [], layers: [] }],
      [mediaTypes.ociManifest, { ...document, fsLayers: [] }],
      [mediaTypes.ociManifest, { ...document, schemaVersion: 1 }],
      [
        mediaTypes.ociManifest,
        `{"mediaType":"${mediaTypes.ociIndex}",${JSON.stringify(document).slice(1)}`,
      ],
      ['text/html', document],
      ['application/vnd.oci.artifact.manifest.v1+json', { schemaVersion: 2 }],
    ] as const) {
      expectRefusal(await put('library/refused', body, contentType), 400, 'MANIFEST_INVALID')
    }
  })

  test('schema 1 is refused by name', async () => {
    for (const type of [
      'application/vnd.docker.distribution.manifest.v1+json',
      'application/vnd.docker.distribution.manifest.v1+prettyjws',
    ]) {
      const refused = await put('library/refused', { schemaVersion: 1, fsLayers: [] }, type)
      expectRefusal(refused, 400, 'MANIFEST_INVALID')
      assert.match(refused.body.toString(), /schema 1/)
    }
  })

  test('bytes that are no manifest are refused with 400, never with 500', async () => {
    for (const bytes of [
      Buffer.alloc(0),
      Buffer.from('null'),
      Buffer.from('[]'),
      Buffer.from('"x"'),
      Buffer.from('{'),
      Buffer.from([0xff, 0xfe]),
      Buffer.from('\ufeff{"schemaVersion":2}'),
      Buffer.from('{"schemaVersion":2}'),
      Buffer.from('{"schemaVersion":2,"config":null,"layers":7}'),
      Buffer.from('{"schemaVersion":2,"config":{"digest":"sha256:x","size":1}}'),
      Buffer.from(
        `{"schemaVersion":2,"config":{"digest":"${digestOf(Buffer.from('a'))}","size":-1}}`,
      ),
      Buffer.from(
        `{"schemaVersion":2,"config":{"digest":"${digestOf(Buffer.from('a'))}","size":1e300}}`,
      ),
      Buffer.from(
        `{"schemaVersion":2,"config":{"mediaType":"a\\u0000b","digest":"${digestOf(Buffer.from('a'))}","size":1}}`,
      ),
      Buffer.from(`${'['.repeat(100_000)}`),
      Buffer.from(`{"schemaVersion":2,"x":${'['.repeat(100_000)}${']'.repeat(100_000)}}`),
    ]) {
      expectRefusal(await put('library/refused', bytes), 400, 'MANIFEST_INVALID')
    }
  })

  test('NUL and broken surrogates in annotations are kept', async () => {
    const subject = contentOf(Buffer.from('annotated'), { mediaType: mediaTypes.ociManifest })
    const annotations = { 'a\u0000b': 'c\u0000\ud800', plain: 'é' }
    const image = createImage({ seed: 'nul', layers: 0, annotations, subject })
    await pushImage(client, 'library/nul', image, 'v1')
    const listed = await client.request('GET', `/v2/library/nul/referrers/${subject.digest}`)
    assert.deepEqual((listed.json() as Listed).manifests[0]?.annotations, annotations)
  })

  test('a manifest has up to 4 MiB, counted as it comes, and the refusal reaches a closing client', async () => {
    const config = contentOf(Buffer.from('{}'))
    await pushBlob(client, 'library/large', config)
    const sized = (size: number): Buffer => {
      const start = `{"schemaVersion":2,"mediaType":"${mediaTypes.ociManifest}","config":{"mediaType":"a/b","digest":"${config.digest}","size":2},"layers":[],"annotations":{"a":"`
      return Buffer.from(start + 'a'.repeat(size - start.length - 3) + '"}}')
    }
    const largest = contentOf(sized(manifestMaxBytes), { mediaType: mediaTypes.ociManifest })
    assert.equal(largest.bytes.length, 4_194_304)
    expectStatus(await pushManifest(client, 'library/large', largest), 201)
    const got = await client.request('GET', `/v2/library/large/manifests/${largest.digest}`)
    assert.equal(digestOf(got.body), largest.digest)
    const tooLarge = contentOf(sized(manifestMaxBytes + 1), { mediaType: mediaTypes.ociManifest })
    for (const Connection of ['keep-alive', 'close']) {
      const refused = await client.request('PUT', '/v2/library/large/manifests/v1', {
        body: Buffer.concat([tooLarge.bytes, Buffer.alloc(2 * 1024 * 1024, 32)]),
        chunked: true,
        headers: { 'Content-Type': tooLarge.mediaType, Connection },
      })
      expectRefusal(refused, 413, 'SIZE_INVALID')
    }
  })

  test('missing layers are named, each by one error; foreign ones may be missing', async () => {
    const image = createImage({ seed: 'missing layers', layers: 2 })
    const [config, first, second] = image.blobs
    assert.ok(config && first && second)
    const all = await pushManifest(client, 'library/missing', image.manifest)
    expectRefusal(all, 400, 'MANIFEST_BLOB_UNKNOWN')
    const { errors } = all.json() as { errors: { code: string; detail: { digest: string } }[] }
    assert.deepEqual(
      errors.map((error) => error.detail.digest).sort(),
      [config.digest, first.digest, second.digest].sort(),
    )
    await pushBlob(client, 'library/missing', config)
    await pushBlob(client, 'library/missing', first)
    const one = await pushManifest(client, 'library/missing', image.manifest)
    assert.deepEqual(one.codes(), ['MANIFEST_BLOB_UNKNOWN'])
    const foreign = createImage({ seed: 'foreign layers', foreign: true })
    await pushImage(client, 'library/missing', foreign)
  })

  test('a blob of another repository does not count, and a foreign layer that names one links it to nothing', async () => {
    const secret = contentOf(Buffer.from('only in one repository'))
    await pushBlob(client, 'library/owner', secret)
    const config = contentOf(Buffer.from('{}'))
    await pushBlob(client, 'library/thief', config)
    const manifestOf = (mediaType: string, size = secret.bytes.length) => ({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: { mediaType: 'a/b', digest: config.digest, size: 2 },
      layers: [{ mediaType, digest: secret.digest, size }],
    })
    expectRefusal(await put('library/thief', manifestOf('a/c')), 400, 'MANIFEST_BLOB_UNKNOWN')
    // A wrong size of a foreign layer is not told apart from a right one: that would say that it exists.
    const foreign = 'application/vnd.oci.image.layer.nondistributable.v1.tar'
    expectStatus(await put('library/thief', manifestOf(foreign, 1)), 201)
    expectStatus(await put('library/thief', manifestOf(foreign)), 201)
    for (const method of ['GET', 'HEAD']) {
      expectStatus(await client.request(method, `/v2/library/thief/blobs/${secret.digest}`), 404)
    }
  })

  test('sizes must be those of the blobs and of the manifests', async () => {
    const image = createImage({ seed: 'sizes', layers: 1 })
    await pushImage(client, 'library/sizes', image)
    const document = JSON.parse(image.manifest.bytes.toString()) as { layers: { size: number }[] }
    const [layer] = document.layers
    assert.ok(layer)
    layer.size += 1
    expectRefusal(await put('library/sizes', document), 400, 'MANIFEST_INVALID')
    const { digest, mediaType, bytes } = image.manifest
    const index = { schemaVersion: 2, manifests: [{ mediaType, digest, size: bytes.length + 1 }] }
    expectRefusal(await put('library/sizes', index, mediaTypes.ociIndex), 400, 'MANIFEST_INVALID')
  })

  test('an index needs its children', async () => {
    const child = createImage({ seed: 'absent child' })
    const index = createIndex({ children: [], absent: [child.manifest] })
    const refused = await pushManifest(client, 'library/children', index.manifest)
    expectRefusal(refused, 400, 'MANIFEST_BLOB_UNKNOWN')
    await pushImage(client, 'library/children', child)
    expectStatus(await pushManifest(client, 'library/children', index.manifest), 201)
  })

  test('Docker schema 2 and lists are stored as they are', async () => {
    const list = createIndex({
      docker: true,
      children: [createImage({ seed: 'schema 2', docker: true })],
    })
    await pushImage(client, 'library/docker', list, 'v1')
    const got = await client.request('GET', '/v2/library/docker/manifests/v1', {
      headers: { Accept: mediaTypes.dockerIndex },
    })
    assert.equal(got.headers['content-type'], mediaTypes.dockerIndex)
    assert.deepEqual(got.body, list.manifest.bytes)
  })

  test('one digest keeps one media type', async () => {
    const image = createImage({ seed: 'one type', layers: 0 })
    await pushImage(client, 'library/type', image)
    const document = JSON.parse(image.manifest.bytes.toString()) as Record<string, unknown>
    delete document['mediaType']
    const bytes = toBytes(document)
    expectStatus(
      await pushManifest(
        client,
        'library/type',
        contentOf(bytes, { mediaType: mediaTypes.ociManifest }),
      ),
      201,
    )
    const other = contentOf(bytes, { mediaType: mediaTypes.dockerManifest })
    expectRefusal(await pushManifest(client, 'library/type', other), 400, 'MANIFEST_INVALID')
  })

  test('sha512: pushed by digest, tagged by parameter, and read by tag under the same digest', async () => {
    const image = createImage({ seed: 'sha512', algorithm: 'sha512' })
    await pushImage(client, 'library/sha512', image)
    const tagged = await client.request(
      'PUT',
      `/v2/library/sha512/manifests/${image.manifest.digest}`,
      {
        query: { tag: ['a', 'b'] },
        body: image.manifest.bytes,
        headers: { 'Content-Type': image.manifest.mediaType },
      },
    )
    expectStatus(tagged, 201)
    assert.equal(tagged.headers['oci-tag'], 'a, b')
    const got = await client.request('HEAD', '/v2/library/sha512/manifests/b')
    assert.equal(got.headers['docker-content-digest'], image.manifest.digest)
  })

  test('tag parameters that are no tags, or too many, are refused', async () => {
    const image = createImage({ seed: 'tag parameters', layers: 0 })
    await pushImage(client, 'library/parameters', image)
    const push = (tag: readonly string[]) =>
      client.request('PUT', `/v2/library/parameters/manifests/${image.manifest.digest}`, {
        query: { tag },
        body: image.manifest.bytes,
        headers: { 'Content-Type': image.manifest.mediaType },
      })
    expectRefusal(await push(['ok', '.bad']), 400, 'TAG_INVALID')
    expectStatus(await push(Array.from({ length: 101 }, (_, index) => `t${index}`)), 414)
    expectStatus(await client.request('HEAD', '/v2/library/parameters/manifests/ok'), 404)
  })

  test('the same manifest twice is one manifest and one referrer', async () => {
    const subject = contentOf(Buffer.from('twice'), { mediaType: mediaTypes.ociManifest })
    const image = createImage({ seed: 'twice', layers: 0, subject })
    await pushImage(client, 'library/twice', image, 'v1')
    const again = await pushManifest(client, 'library/twice', image.manifest, 'v1')
    expectStatus(again, 201)
    assert.equal(again.headers['oci-subject'], subject.digest)
    const listed = await client.request('GET', `/v2/library/twice/referrers/${subject.digest}`)
    assert.equal((listed.json() as Listed).manifests.length, 1)
  })

  test('many pushes of one manifest at once all succeed', async () => {
    const image = createImage({ seed: 'at once', layers: 3 })
    for (const blob of image.blobs) await pushBlob(client, 'library/at-once', blob)
    const answers = await Promise.all(
      Array.from({ length: 12 }, (_, index) =>
        pushManifest(client, 'library/at-once', image.manifest, `t${index % 3}`),
      ),
    )
    for (const answer of answers) expectStatus(answer, 201)
  })

  test('If-Match and If-None-Match decide whether a tag moves', async () => {
    const [one, two] = [
      createImage({ seed: 'one', layers: 0 }),
      createImage({ seed: 'two', layers: 0 }),
    ]
    await pushImage(client, 'library/conditions', one)
    await pushImage(client, 'library/conditions', two)
    const push = (manifest: Content, headers: Record<string, string>) =>
      client.request('PUT', '/v2/library/conditions/manifests/v1', {
        body: manifest.bytes,
        headers: { 'Content-Type': manifest.mediaType, ...headers },
      })
    expectStatus(await push(one.manifest, { 'If-Match': `"${one.manifest.digest}"` }), 412)
    expectStatus(await push(one.manifest, { 'If-None-Match': '*' }), 201)
    expectStatus(await push(two.manifest, { 'If-None-Match': '*' }), 412)
    expectStatus(await push(two.manifest, { 'If-Match': `"${two.manifest.digest}"` }), 412)
    expectStatus(await push(two.manifest, { 'If-Match': `"${one.manifest.digest}"` }), 201)
    const racing = await Promise.all(
      Array.from({ length: 6 }, (_, index) =>
        client.request('PUT', '/v2/library/conditions/manifests/raced', {
          body: (index % 2 === 0 ? one : two).manifest.bytes,
          headers: { 'Content-Type': one.manifest.mediaType, 'If-None-Match': '*' },
        }),
      ),
    )
    assert.deepEqual(racing.map((answer) => answer.status).sort(), [201, 412, 412, 412, 412, 412])
  })
})

describe('referrers', () => {
  const type = (name: string) => `application/vnd.example.${name}`
  const list = async (
    repository: string,
    subject: string,
    query: Record<string, string | string[]> = {},
  ) => {
    const listed = await client.request('GET', `/v2/${repository}/referrers/${subject}`, { query })
    expectStatus(listed, 200)
    return { listed, manifests: (listed.json() as Listed).manifests }
  }

  test('a subject may come later than what refers to it, or never', async () => {
    const subject = createImage({ seed: 'late subject' })
    const referrer = createImage({
      seed: 'early',
      artifactType: type('a'),
      layers: 0,
      subject: subject.manifest,
    })
    for (const blob of referrer.blobs) await pushBlob(client, 'library/late', blob)
    const pushed = await pushManifest(client, 'library/late', referrer.manifest)
    expectStatus(pushed, 201)
    assert.equal(pushed.headers['oci-subject'], subject.manifest.digest)
    await pushImage(client, 'library/late', subject)
    const { manifests } = await list('library/late', subject.manifest.digest)
    assert.deepEqual(
      manifests.map((manifest) => manifest.digest),
      [referrer.manifest.digest],
    )
  })

  test('a deleted referrer is gone from the list; a deleted subject leaves the list', async () => {
    const subject = createImage({ seed: 'deleted subject' })
    await pushImage(client, 'library/deleted', subject)
    const referrers = ['a', 'b'].map((name) =>
      createImage({ seed: name, artifactType: type(name), layers: 0, subject: subject.manifest }),
    )
    for (const referrer of referrers) await pushImage(client, 'library/deleted', referrer)
    const [a, b] = referrers
    assert.ok(a && b)
    expectStatus(
      await client.request('DELETE', `/v2/library/deleted/manifests/${a.manifest.digest}`),
      202,
    )
    expectStatus(
      await client.request('DELETE', `/v2/library/deleted/manifests/${subject.manifest.digest}`),
      202,
    )
    const { manifests } = await list('library/deleted', subject.manifest.digest)
    assert.deepEqual(
      manifests.map((manifest) => manifest.digest),
      [b.manifest.digest],
    )
  })

  test('several artifact types are either, and an index without one has none', async () => {
    const subject = createImage({ seed: 'filtered subject' }).manifest
    for (const name of ['a', 'b', 'c']) {
      await pushImage(
        client,
        'library/filtered',
        createImage({ seed: name, artifactType: type(name), layers: 0, subject }),
      )
    }
    await pushImage(client, 'library/filtered', createIndex({ children: [], subject }))
    const both = await list('library/filtered', subject.digest, {
      artifactType: [type('a'), type('b')],
    })
    assert.deepEqual(
      both.manifests.map((manifest) => manifest.artifactType),
      [type('a'), type('b')],
    )
    assert.equal(both.listed.headers['oci-filters-applied'], 'artifactType')
    const all = await list('library/filtered', subject.digest)
    assert.equal(all.manifests.length, 4)
    assert.equal(Object.hasOwn(all.manifests[3] ?? {}, 'artifactType'), false)
  })

  test('10 MB of referrers come in pages below 4 MiB, each once', async () => {
    const subject = createImage({ seed: 'popular' }).manifest
    const config = contentOf(Buffer.from('{}'), { mediaType: 'application/vnd.oci.empty.v1+json' })
    await pushBlob(client, 'library/popular', config)
    const total = 250
    const referrers = Array.from({ length: total }, (_, index) =>
      createImage({
        seed: `popular ${index}`,
        layers: 0,
        artifactType: type('signature'),
        subject,
        annotations: { index: String(index), filler: 'x'.repeat(40_000) },
      }),
    )
    for (let at = 0; at < total; at += 20) {
      const pushed = await Promise.all(
        referrers
          .slice(at, at + 20)
          .map(({ manifest }) => pushManifest(client, 'library/popular', manifest)),
      )
      for (const answer of pushed) expectStatus(answer, 201)
    }
    const seen: string[] = []
    let pages = 0
    for (
      let path: string | undefined = `/v2/library/popular/referrers/${subject.digest}`;
      path !== undefined;
    ) {
      const page = await client.request('GET', path)
      expectStatus(page, 200)
      assert.ok(page.body.length < 4 * 1024 * 1024)
      seen.push(...(page.json() as Listed).manifests.map((manifest) => manifest.digest))
      path = /^<(\/v2\/[^>]*)>; rel="next"$/.exec(String(page.headers.link))?.[1]
      pages++
    }
    assert.equal(seen.length, total)
    assert.equal(new Set(seen).size, total)
    assert.equal(pages, 3)
  })

  test('n pages by count, keeping the filter', async () => {
    const subject = createImage({ seed: 'counted' }).manifest
    for (let index = 0; index < 5; index++) {
      await pushImage(
        client,
        'library/counted',
        createImage({ seed: `${index}`, artifactType: type('a'), layers: 1, subject }),
      )
    }
    const first = await list('library/counted', subject.digest, { n: '2', artifactType: type('a') })
    assert.equal(first.manifests.length, 2)
    assert.match(String(first.listed.headers.link), /n=2&artifactType=[^&]*&last=\d+>; rel="next"/)
    expectRefusal(
      await client.request('GET', `/v2/library/counted/referrers/${subject.digest}?last=x`),
      400,
      'PAGINATION_NUMBER_INVALID',
    )
  })

  test('an unknown repository or project has no referrers, and what is no digest is refused', async () => {
    const digest = digestOf(Buffer.from('x'))
    for (const name of ['library/nobody-knows', 'nobody-knows/x']) {
      assert.deepEqual((await list(name, digest)).manifests, [], name)
    }
    const user = primary.client(await primary.createUser())
    for (const stranger of [user, primary.client()]) {
      const refused = await stranger.request('GET', `/v2/nobody-knows/x/referrers/${digest}`)
      expectRefusal(refused, 401, 'UNAUTHORIZED')
    }
    expectRefusal(
      await client.request('GET', '/v2/library/x/referrers/sha256:bad'),
      400,
      'DIGEST_INVALID',
    )
  })
})

describe('lists', () => {
  test('tags come bytewise, page by page', async () => {
    const image = createImage({ seed: 'tags', layers: 0 })
    await pushImage(client, 'library/order', image)
    const tags = ['A', 'a', '_a', '1', 'a.b']
    for (const tag of tags) await pushManifest(client, 'library/order', image.manifest, tag)
    const sorted = tags.toSorted((a, b) => (a < b ? -1 : 1))
    const all = await client.request('GET', '/v2/library/order/tags/list')
    assert.deepEqual(all.json(), { name: 'library/order', tags: sorted })
    assert.equal(all.headers.link, undefined)
    const seen: string[] = []
    for (let path: string | undefined = '/v2/library/order/tags/list?n=2'; path !== undefined;) {
      const page = await client.request('GET', path)
      seen.push(...(page.json() as { tags: string[] }).tags)
      path = /^<(\/v2\/[^>]*)>; rel="next"$/.exec(String(page.headers.link))?.[1]
    }
    assert.deepEqual(seen, sorted)
    const tagsOf = async (query: string) =>
      (
        (await client.request('GET', `/v2/library/order/tags/list?${query}`)).json() as {
          tags: string[]
        }
      ).tags
    assert.deepEqual(await tagsOf('last=A'), sorted.slice(sorted.indexOf('A') + 1))
    assert.deepEqual(await tagsOf('last=B'), ['_a', 'a', 'a.b'])
    assert.deepEqual(await tagsOf('last=a%00x'), ['a.b'])
    assert.deepEqual(await tagsOf('n=0'), [])
    assert.deepEqual(await tagsOf('n=1e9'), sorted)
    for (const n of ['-1', 'x']) {
      const refused = await client.request('GET', `/v2/library/order/tags/list?n=${n}`)
      expectRefusal(refused, 400, 'PAGINATION_NUMBER_INVALID')
    }
  })

  test('an unknown repository has no tags, and says so', async () => {
    expectRefusal(await client.request('GET', '/v2/library/unknown/tags/list'), 404, 'NAME_UNKNOWN')
  })

  test('the catalog lists repositories with manifests, page by page', async () => {
    for (const name of ['x', 'y', 'z']) {
      await pushImage(client, `library/catalog/${name}`, createImage({ seed: name, layers: 0 }))
    }
    expectStatus(await client.request('POST', '/v2/library/catalog/only-begun/blobs/uploads/'), 202)
    const page = await client.request('GET', '/v2/_catalog?n=2&last=library/catalog')
    assert.deepEqual(page.json(), { repositories: ['library/catalog/x', 'library/catalog/y'] })
    const next = /^<([^>]*)>; rel="next"$/.exec(String(page.headers.link))?.[1]
    assert.ok(next)
    const rest = ((await client.request('GET', next)).json() as { repositories: string[] })
      .repositories
    assert.equal(rest[0], 'library/catalog/z')
    assert.ok(!rest.includes('library/catalog/only-begun'))
  })
})

describe('deletion', () => {
  test('a tag is only taken off, a digest takes its tags along', async () => {
    const image = createImage({ seed: 'untagged', layers: 1 })
    await pushImage(client, 'library/delete', image, 'a')
    await pushManifest(client, 'library/delete', image.manifest, 'b')
    const path = (reference: string) => `/v2/library/delete/manifests/${reference}`
    expectStatus(await client.request('DELETE', path('a')), 202)
    expectStatus(await client.request('GET', path('a')), 404)
    expectStatus(await client.request('GET', path(image.manifest.digest)), 200)
    expectStatus(await client.request('DELETE', path(image.manifest.digest)), 202)
    for (const reference of ['b', image.manifest.digest]) {
      expectStatus(await client.request('GET', path(reference)), 404)
      expectRefusal(await client.request('DELETE', path(reference)), 404, 'MANIFEST_UNKNOWN')
    }
    await pushImage(client, 'library/delete', image, 'b')
    expectStatus(await client.request('GET', path('b')), 200)
  })

  test('a blob that a manifest needs stays, and the refusal names the manifest', async () => {
    const image = createImage({ seed: 'needed', layers: 1 })
    await pushImage(client, 'library/needed', image, 'v1')
    const [, layer] = image.blobs
    assert.ok(layer)
    const path = `/v2/library/needed/blobs/${layer.digest}`
    const refused = await client.request('DELETE', path)
    expectRefusal(refused, 405, 'UNSUPPORTED')
    assert.ok(refused.body.includes(image.manifest.digest))
    expectStatus(
      await client.request('DELETE', `/v2/library/needed/manifests/${image.manifest.digest}`),
      202,
    )
    expectStatus(await client.request('DELETE', path), 202)
    expectRefusal(await client.request('DELETE', path), 404, 'BLOB_UNKNOWN')
  })

  test('a deleted blob is gone from this repository at once, and stays in others', async () => {
    // As autovacuum does some day: the statements are planned by other numbers from then on.
    await sql`ANALYZE`.execute(primary.records)
    const blob = contentOf(Buffer.from('shared by two'))
    await pushBlob(client, 'library/one', blob)
    await pushBlob(client, 'library/two', blob)
    for (const repository of ['one', 'two']) {
      expectStatus(
        await client.request('GET', `/v2/library/${repository}/blobs/${blob.digest}`),
        200,
      )
    }
    expectStatus(await client.request('DELETE', `/v2/library/one/blobs/${blob.digest}`), 202)
    expectStatus(await client.request('GET', `/v2/library/one/blobs/${blob.digest}`), 404)
    expectStatus(await client.request('HEAD', `/v2/library/one/blobs/${blob.digest}`), 404)
    expectStatus(await client.request('GET', `/v2/library/two/blobs/${blob.digest}`), 200)
    expectStatus(await client.request('GET', `/v2/library/one/blobs/${blob.digest}`), 404)
  })
})

test('what no client would send is refused, and the connection lives on', async () => {
  const socket = connect(Number(primary.url.port), primary.url.hostname)
  await once(socket, 'connect')
  socket.write('GET /v2/%zz/manifests/a HTTP/1.1\r\nHost: x\r\n\r\n')
  const [first] = (await once(socket, 'data')) as [Buffer]
  assert.match(first.toString(), /^HTTP\/1\.1 400 .*"NAME_INVALID"/s)
  socket.destroy()
})

function toBytes(document: unknown): Buffer {
  if (Buffer.isBuffer(document)) return document
  return Buffer.from(typeof document === 'string' ? document : JSON.stringify(document))
}

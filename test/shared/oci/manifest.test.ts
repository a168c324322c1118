import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { digestOf } from '../../../shared/oci/digest.ts'
import { OciError } from '../../../shared/oci/errors.ts'
import { manifestMaxBytes, parseManifest, requiredBlobs } from '../../../shared/oci/manifest.ts'
import { mediaTypes } from '../../../shared/oci/media-types.ts'

const descriptor = (mediaType: string, text = mediaType) => ({
  mediaType,
  digest: digestOf(Buffer.from(text)),
  size: text.length,
})
const config = descriptor('application/vnd.oci.image.config.v1+json')
const layer = descriptor('application/vnd.oci.image.layer.v1.tar+gzip')
const image = { schemaVersion: 2, mediaType: mediaTypes.ociManifest, config, layers: [layer] }
const bytes = (document: unknown) => Buffer.from(JSON.stringify(document))
const refused = (document: unknown, contentType: string | undefined = mediaTypes.ociManifest) =>
  assert.throws(
    () => parseManifest(Buffer.isBuffer(document) ? document : bytes(document), contentType),
    { code: 'MANIFEST_INVALID', status: 400 },
  )

test('an image manifest names its config, layers, and the config type as its artifact type', () => {
  const manifest = parseManifest(bytes(image), `${mediaTypes.ociManifest}; charset=utf-8`)
  assert.equal(manifest.mediaType, mediaTypes.ociManifest)
  assert.deepEqual(requiredBlobs(manifest), [config, layer])
  assert.equal(manifest.artifactType, config.mediaType)
  assert.equal(manifest.isIndex, false)
})

test('a foreign layer is not required to be here', () => {
  const foreign = descriptor('application/vnd.docker.image.rootfs.foreign.diff.tar.gzip')
  const old = descriptor('application/vnd.oci.image.layer.nondistributable.v1.tar')
  const manifest = parseManifest(bytes({ ...image, layers: [foreign, old, layer] }), '')
  assert.deepEqual(requiredBlobs(manifest), [config, layer])
})

test('an index without artifactType has none; its children keep their platform', () => {
  const child = {
    ...descriptor(mediaTypes.ociManifest),
    platform: { os: 'linux', architecture: 'arm64', variant: 'v8', 'os.version': '1' },
  }
  const manifest = parseManifest(
    bytes({ schemaVersion: 2, manifests: [child] }),
    mediaTypes.ociIndex,
  )
  assert.equal(manifest.isIndex, true)
  assert.equal(manifest.artifactType, undefined)
  assert.deepEqual(manifest.manifests[0]?.platform, {
    os: 'linux',
    architecture: 'arm64',
    variant: 'v8',
  })
})

test('the type comes from the header, else the body, else the shape', () => {
  const { mediaType: _, ...untyped } = image
  assert.equal(
    parseManifest(bytes(untyped), mediaTypes.dockerManifest).mediaType,
    mediaTypes.dockerManifest,
  )
  assert.equal(parseManifest(bytes(image), 'application/json').mediaType, mediaTypes.ociManifest)
  assert.equal(
    parseManifest(bytes({ schemaVersion: 2, manifests: [] }), undefined).mediaType,
    mediaTypes.ociIndex,
  )
})

test('documents that two readers could read differently are refused', () => {
  refused({ ...image, manifests: [] })
  refused({ schemaVersion: 2, manifests: [], config }, mediaTypes.ociIndex)
  refused({ ...image, fsLayers: [] })
  refused({ ...image, mediaType: mediaTypes.ociIndex })
  refused({ ...image, mediaType: mediaTypes.dockerManifest })
  refused(
    Buffer.from(`{"schemaVersion":2,"config":${JSON.stringify(config)},"layers":[],"layers":[]}`),
  )
  refused(
    Buffer.from(
      `{"schemaVersion":2,"config":${JSON.stringify(config)},"layers":[],"l\\u0061yers" : []}`,
    ),
  )
})

test('a key in another spelling, which Go takes for the same, is refused', () => {
  // U+017F folds to s there.
  for (const key of ['Layers', 'LAYERS', 'layer\u017f', 'Config', 'manifestS', 'MediaType']) {
    refused({ ...image, [key]: [] })
  }
  refused({ ...image, Schemaversion: 1 })
  refused({ ...image, fslayers: [] })
  refused({ ...image, Subject: layer })
  refused({ ...image, annotationS: {} })
  for (const other of [{ Digest: layer.digest }, { SIZE: 1 }, { mediatype: 'a/b' }, { URLs: [] }]) {
    refused({ ...image, layers: [layer, { ...layer, ...other }] })
    refused({ ...image, config: { ...config, ...other } })
    refused({ ...image, subject: { ...layer, ...other } })
    refused({ schemaVersion: 2, manifests: [{ ...layer, ...other }] }, mediaTypes.ociIndex)
  }
  const harmless = { ...image, Extra: 1, annotations: { Layers: 'x', layers: 'y' } }
  assert.ok(parseManifest(bytes(harmless), mediaTypes.ociManifest))
})

test('a byte order mark, which is no JSON, is refused', () => {
  refused(Buffer.concat([Buffer.from('\ufeff'), bytes(image)]))
})

test("equal keys below the top level are nobody's business", () => {
  const text = `{"schemaVersion":2,"config":${JSON.stringify(config)},"layers":[],"annotations":{"layers":"{\\"layers\\":","config":"\\\\"}}`
  assert.deepEqual(parseManifest(Buffer.from(text), mediaTypes.ociManifest).annotations, {
    layers: '{"layers":',
    config: '\\',
  })
})

test('schema 1, unknown types and broken documents are refused with what is wrong', () => {
  refused(
    { schemaVersion: 1, fsLayers: [] },
    'application/vnd.docker.distribution.manifest.v1+prettyjws',
  )
  refused(image, 'application/vnd.oci.artifact.manifest.v1+json')
  refused(image, 'text/plain')
  refused({ ...image, schemaVersion: 1 })
  refused({ ...image, config: undefined })
  refused({ schemaVersion: 2 }, mediaTypes.ociIndex)
  refused({ ...image, layers: {} })
  refused({ ...image, layers: [{ ...layer, digest: 'sha256:x' }] })
  for (const size of [-1, 1.5, '7', 2 ** 53, null])
    refused({ ...image, layers: [{ ...layer, size }] })
  refused({ ...image, annotations: { a: 1 } })
  refused(Buffer.from('{'))
  refused(Buffer.from('[]'))
  refused(Buffer.from('null'))
  refused(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]))
})

test('empty lists, unknown fields and repeated descriptors are accepted', () => {
  assert.deepEqual(parseManifest(bytes({ ...image, layers: [], x: { y: [1] } }), '').layers, [])
  assert.equal(parseManifest(bytes({ ...image, layers: [layer, layer] }), '').layers.length, 2)
})

test('4 MiB are accepted, one byte more is 413', () => {
  const frame = bytes({ ...image, annotations: { pad: '' } }).length
  const padded = (size: number) =>
    bytes({ ...image, annotations: { pad: 'x'.repeat(size - frame) } })
  assert.equal(padded(manifestMaxBytes).length, manifestMaxBytes)
  assert.ok(parseManifest(padded(manifestMaxBytes), ''))
  assert.throws(() => parseManifest(padded(manifestMaxBytes + 1), ''), {
    code: 'SIZE_INVALID',
    status: 413,
  })
})

test('no JSON makes the reader fail other than by a refusal', () => {
  const field = fc.constantFrom(
    'schemaVersion',
    'mediaType',
    'config',
    'layers',
    'manifests',
    'subject',
    'annotations',
    'artifactType',
  )
  const value = fc.oneof(
    fc.json().map((text): unknown => JSON.parse(text)),
    fc.constant(2),
    fc.constant(config),
    fc.constant([layer]),
  )
  fc.assert(
    fc.property(fc.dictionary(field, value), (document) => {
      try {
        parseManifest(bytes(document), '')
      } catch (error) {
        assert.ok(error instanceof OciError)
      }
    }),
  )
})

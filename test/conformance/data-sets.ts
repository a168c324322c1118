import { createImage, createIndex, contentOf, type Image } from '../kit/images.ts'
import { mediaTypes } from '../../shared/oci/media-types.ts'

/** Images that are pushed, listed, pulled and deleted together. [conformance suite, GenerateData] */
export interface DataSet {
  readonly name: string
  readonly images: readonly Image[]
  /** What each tag points at: one of the images. */
  readonly tags: ReadonlyMap<string, Image>
}

const exampleType1 = 'application/vnd.example.conformance.1+json'
const exampleType2 = 'application/vnd.example.conformance.2+json'

/** The suite's data sets. `seed` makes a run's content its own. */
export function createDataSets(seed: string): readonly DataSet[] {
  const image = (name: string, options: Parameters<typeof createImage>[0] = {}) =>
    createImage({ seed: `${seed} ${name}`, ...options })
  const single = (name: string, of: Image): DataSet => ({
    name,
    images: [of],
    tags: new Map([[name, of]]),
  })
  const pair = (name: string, options: Parameters<typeof createImage>[0] = {}) => [
    image(`${name} amd64`, options),
    image(`${name} arm64`, options),
  ]
  const index = (name: string, options: Partial<Parameters<typeof createIndex>[0]> = {}) =>
    createIndex({ children: pair(name), ...options })

  return [
    single('image', image('image')),
    single('docker-image', image('docker', { docker: true })),
    single('large-manifest', image('large', { annotations: largeAnnotations() })),
    single('index', index('index')),
    single(
      'docker-index',
      index('docker-index', { docker: true, children: pair('docker-index', { docker: true }) }),
    ),
    single('nested-index', createIndex({ children: [index('nested one'), index('nested two')] })),
    single('empty-index', createIndex({ children: [] })),
    single('artifact', image('artifact', { artifactType: exampleType1, layers: 1 })),
    single('artifact-index', index('artifact-index', { artifactType: exampleType1 })),
    single('artifact-without-layers', image('bare', { artifactType: exampleType1, layers: 0 })),
    artifactsWithSubject(image),
    indexWithSubject(index),
    single(
      'missing-subject',
      image('missing', {
        artifactType: exampleType1,
        layers: 1,
        annotations: { 'org.example.conformance': 'hello' },
        subject: contentOf(Buffer.from(`${seed} never pushed`), {
          mediaType: mediaTypes.ociManifest,
        }),
      }),
    ),
    single('data-field', image('data', { embed: true, layerBytes: 64 })),
    single('non-distributable-layers', image('foreign', { foreign: true })),
    single(
      'custom-fields',
      index('custom', { extra: { 'org.example.custom': { a: [1, null, 'x'] } } }),
    ),
    single('no-layers', image('no-layers', { layers: 0 })),
    untagged(
      'sha512',
      createIndex({ children: pair('sha512', { algorithm: 'sha512' }), algorithm: 'sha512' }),
    ),
  ]
}

function untagged(name: string, image: Image): DataSet {
  return { name, images: [image], tags: new Map() }
}

function artifactsWithSubject(
  image: (name: string, options?: Parameters<typeof createImage>[0]) => Image,
): DataSet {
  const subject = image('subject')
  const annotations = { 'org.example.conformance': 'hello conformance test' }
  const plain = image('referrer', { subject: subject.manifest })
  const one = image('artifact one', {
    artifactType: exampleType1,
    layers: 1,
    subject: subject.manifest,
    annotations,
  })
  const two = image('artifact two', {
    artifactType: exampleType2,
    layers: 1,
    subject: subject.manifest,
    annotations,
  })
  return {
    name: 'artifacts-with-subject',
    images: [subject, plain, one, two],
    tags: new Map([
      ['subject', subject],
      ['tagged-artifact1', one],
      ['tagged-artifact2', two],
    ]),
  }
}

function indexWithSubject(
  index: (name: string, options?: Partial<Parameters<typeof createIndex>[0]>) => Image,
): DataSet {
  const subject = index('subject index')
  const referrer = index('referring index', {
    artifactType: exampleType1,
    annotations: { 'org.example.conformance': 'hello index' },
    subject: subject.manifest,
  })
  return {
    name: 'index-with-subject',
    images: [subject, referrer],
    tags: new Map([
      ['subject-index', subject],
      ['referring-index', referrer],
    ]),
  }
}

/** 3.9 MB: as near to the limit of 4 MiB as the suite goes. */
function largeAnnotations(): Record<string, string> {
  return Object.fromEntries(
    Array.from({ length: 390 }, (_, index) => [`large-annotation-${index}`, 'A'.repeat(10_000)]),
  )
}

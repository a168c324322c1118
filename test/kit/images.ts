import { createCipheriv, createHash } from 'node:crypto'
import { digestOf, type Digest, type DigestAlgorithm } from '../../shared/oci/digest.ts'
import { mediaTypes } from '../../shared/oci/media-types.ts'
import type { Answer, RegistryClient } from './registry-client.ts'

/** Content with its digest. */
export interface Content {
  readonly digest: Digest
  readonly bytes: Buffer
  readonly mediaType: string
}

/** A manifest or index with everything that must be pushed before it. */
export interface Image {
  readonly manifest: Content
  readonly blobs: readonly Content[]
  /** The images that an index names. */
  readonly children: readonly Image[]
}

export interface ImageOptions {
  /** Images of different seeds have nothing in common. */
  readonly seed?: string
  readonly layers?: number
  readonly layerBytes?: number
  readonly algorithm?: DigestAlgorithm
  /** Docker schema 2 instead of OCI. */
  readonly docker?: boolean
  readonly artifactType?: string
  readonly annotations?: Readonly<Record<string, string>>
  readonly subject?: Content
  /** Fields that the specification does not know. */
  readonly extra?: Readonly<Record<string, unknown>>
  /** Layers that need not be pushed. */
  readonly foreign?: boolean
  /** Puts small blobs into their descriptors too. */
  readonly embed?: boolean
}

const emptyJson = {
  mediaType: 'application/vnd.oci.empty.v1+json',
  bytes: Buffer.from('{}'),
}
const layerType = 'application/vnd.oci.image.layer.v1.tar+gzip'

/** Bytes that are the same for the same seed, and compress badly. */
export function bytesOf(seed: string, length: number): Buffer {
  const key = createHash('sha256').update(seed).digest()
  const cipher = createCipheriv('aes-256-ctr', key, Buffer.alloc(16))
  return cipher.update(Buffer.alloc(length))
}

/** Content of given bytes. */
export function contentOf(
  bytes: Buffer,
  {
    mediaType = 'application/octet-stream',
    algorithm = 'sha256',
  }: { mediaType?: string; algorithm?: DigestAlgorithm } = {},
): Content {
  return { digest: digestOf(bytes, algorithm), bytes, mediaType }
}

/** Makes an image, or an artifact when `artifactType` is given. */
export function createImage(options: ImageOptions = {}): Image {
  const { seed = 'image', layers = 2, layerBytes = 1024, algorithm = 'sha256' } = options
  const config = createConfig(options)
  const blobs = Array.from({ length: layers }, (_, index) =>
    contentOf(bytesOf(`${seed} layer ${index}`, layerBytes), {
      algorithm,
      mediaType: layerMediaType(options),
    }),
  )
  const { docker = false, embed = false, artifactType, annotations, subject, extra } = options
  const mediaType = docker ? mediaTypes.dockerManifest : mediaTypes.ociManifest
  const document = {
    schemaVersion: 2,
    mediaType,
    ...(artifactType !== undefined && { artifactType }),
    config: describe(config, embed),
    layers: blobs.map((blob) => describe(blob, embed)),
    ...(subject !== undefined && { subject: describe(subject, false) }),
    ...(annotations !== undefined && { annotations }),
    ...extra,
  }
  const manifest = contentOf(Buffer.from(JSON.stringify(document)), { algorithm, mediaType })
  const owned = options.foreign === true ? [config] : [config, ...blobs]
  return { manifest, blobs: owned, children: [] }
}

export interface IndexOptions extends Pick<
  ImageOptions,
  'algorithm' | 'docker' | 'artifactType' | 'annotations' | 'subject' | 'extra'
> {
  readonly children: readonly Image[]
  /** Descriptors of manifests that are never pushed. */
  readonly absent?: readonly Content[]
}

/** Makes an index of images, or of indexes. */
export function createIndex(options: IndexOptions): Image {
  const { children, absent = [], algorithm = 'sha256', docker = false } = options
  const { artifactType, annotations, subject, extra } = options
  const mediaType = docker ? mediaTypes.dockerIndex : mediaTypes.ociIndex
  const named = [...children.map((child) => child.manifest), ...absent]
  const document = {
    schemaVersion: 2,
    mediaType,
    ...(artifactType !== undefined && { artifactType }),
    manifests: named.map((manifest, index) => ({
      ...describe(manifest, false),
      platform: { os: 'linux', architecture: index % 2 === 0 ? 'amd64' : 'arm64' },
    })),
    ...(subject !== undefined && { subject: describe(subject, false) }),
    ...(annotations !== undefined && { annotations }),
    ...extra,
  }
  const manifest = contentOf(Buffer.from(JSON.stringify(document)), { algorithm, mediaType })
  return { manifest, blobs: [], children }
}

/** All blobs of an image and its children, each once. */
export function blobsOf(image: Image): readonly Content[] {
  const all = [...image.blobs, ...image.children.flatMap(blobsOf)]
  return [...new Map(all.map((blob) => [blob.digest, blob])).values()]
}

/** The blob of an image that has this many bytes. @throws Error without one */
export function layerOf({ blobs }: Image, size: number): Content {
  const layer = blobs.find(({ bytes }) => bytes.length === size)
  if (layer === undefined) throw new Error(`the image has no layer of ${size} bytes`)
  return layer
}

/** All manifests, children first. */
export function manifestsOf(image: Image): readonly Content[] {
  const all = [...image.children.flatMap(manifestsOf), image.manifest]
  return [...new Map(all.map((manifest) => [manifest.digest, manifest])).values()]
}

/** Pushes a blob in one request. */
export function pushBlob(
  client: RegistryClient,
  repository: string,
  blob: Content,
): Promise<Answer> {
  return client.request('POST', `/v2/${repository}/blobs/uploads/`, {
    query: { digest: blob.digest },
    body: blob.bytes,
    headers: { 'Content-Type': 'application/octet-stream' },
  })
}

/** Pushes a manifest, chunked as most clients do, by its digest unless a tag is given. */
export function pushManifest(
  client: RegistryClient,
  repository: string,
  manifest: Content,
  reference: string = manifest.digest,
): Promise<Answer> {
  return client.request('PUT', `/v2/${repository}/manifests/${reference}`, {
    body: manifest.bytes,
    chunked: true,
    headers: { 'Content-Type': manifest.mediaType },
  })
}

/**
 * Pushes an image with everything in it.
 * @throws Error when the registry refuses anything
 */
export async function pushImage(
  client: RegistryClient,
  repository: string,
  image: Image,
  tag?: string,
): Promise<void> {
  for (const blob of blobsOf(image)) expectCreated(await pushBlob(client, repository, blob))
  for (const manifest of manifestsOf(image)) {
    expectCreated(await pushManifest(client, repository, manifest))
  }
  if (tag !== undefined) {
    expectCreated(await pushManifest(client, repository, image.manifest, tag))
  }
}

function expectCreated(answer: Answer): void {
  if (answer.status === 201) return
  throw new Error(
    `the registry answered ${answer.status}: ${answer.body.toString('utf8').slice(0, 500)}`,
  )
}

function createConfig({
  seed = 'image',
  algorithm = 'sha256',
  docker,
  artifactType,
}: ImageOptions): Content {
  if (artifactType !== undefined) {
    return contentOf(emptyJson.bytes, { algorithm, mediaType: emptyJson.mediaType })
  }
  const bytes = Buffer.from(
    JSON.stringify({ architecture: 'amd64', os: 'linux', seed, rootfs: { type: 'layers' } }),
  )
  const mediaType =
    docker === true
      ? 'application/vnd.docker.container.image.v1+json'
      : 'application/vnd.oci.image.config.v1+json'
  return contentOf(bytes, { algorithm, mediaType })
}

function layerMediaType({ docker, foreign, artifactType }: ImageOptions): string {
  if (foreign === true) return 'application/vnd.oci.image.layer.nondistributable.v1.tar+gzip'
  if (docker === true) return 'application/vnd.docker.image.rootfs.diff.tar.gzip'
  return artifactType ?? layerType
}

function describe({ mediaType, digest, bytes }: Content, embed: boolean) {
  return {
    mediaType,
    digest,
    size: bytes.length,
    ...(embed && { data: bytes.toString('base64') }),
  }
}

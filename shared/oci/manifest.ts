import { isDigest, type Digest } from './digest.ts'
import { OciError } from './errors.ts'
import {
  essenceOf,
  isForeignLayerMediaType,
  isIndexMediaType,
  isManifestMediaType,
  isSchema1MediaType,
  mediaTypes,
  type ManifestMediaType,
} from './media-types.ts'

/** What a document says of other content. [image-spec, descriptor.md] */
export interface Descriptor {
  readonly mediaType: string
  readonly digest: Digest
  /** Bytes. */
  readonly size: number
  readonly annotations?: Readonly<Record<string, string>>
  readonly artifactType?: string
  readonly platform?: Platform
}

export interface Platform {
  readonly os: string
  readonly architecture: string
  readonly variant?: string
}

/** A manifest or an index, as far as a registry reads it. The bytes stay the truth. */
export interface Manifest {
  readonly mediaType: ManifestMediaType
  readonly isIndex: boolean
  /** The config of an image manifest. */
  readonly config: Descriptor | undefined
  readonly layers: readonly Descriptor[]
  /** The children of an index. */
  readonly manifests: readonly Descriptor[]
  readonly subject: Descriptor | undefined
  /** `artifactType`, else the config's media type; undefined for an index without one. */
  readonly artifactType: string | undefined
  readonly annotations: Readonly<Record<string, string>> | undefined
}

/** The largest manifest that is accepted, in bytes, inclusive. [distribution-spec, Pushing Manifests: at least 4 MB] */
export const manifestMaxBytes = 4 * 1024 * 1024

/** Keys whose second appearance would let two readers see two documents (CVE-2021-41190). */
const decisiveKeys: ReadonlySet<string> = new Set([
  'schemaVersion',
  'mediaType',
  'manifests',
  'layers',
  'config',
  'subject',
  'artifactType',
  'annotations',
  'fsLayers',
])
const documentSpellings = spellingsOf(decisiveKeys)
const descriptorSpellings = spellingsOf([
  'mediaType',
  'digest',
  'size',
  'urls',
  'data',
  'artifactType',
  'annotations',
  'platform',
])

/**
 * Reads and checks a manifest or index.
 * @param bytes the document, at most `manifestMaxBytes`
 * @param contentType the request's or the stored type; '' or a generic one means: as the body says
 * @throws OciError MANIFEST_INVALID saying what is wrong, SIZE_INVALID (413) when it is too large
 */
export function parseManifest(bytes: Buffer, contentType: string | undefined): Manifest {
  if (bytes.length > manifestMaxBytes) {
    throw new OciError('SIZE_INVALID', `a manifest may have at most ${manifestMaxBytes} bytes`, {
      status: 413,
    })
  }
  const document = parseDocument(bytes)
  refuseDuplicateKeys(bytes)
  refuseOtherSpellings(document, documentSpellings)
  const mediaType = decideMediaType(document, essenceOf(contentType))
  if (document['schemaVersion'] !== 2) throw invalid('schemaVersion must be 2')
  // One digest must never be read as an image by one client and as an index by another. [CVE-2021-41190]
  if ('fsLayers' in document)
    throw invalid('a document with fsLayers is schema 1, which is not supported')
  if ('manifests' in document && ('layers' in document || 'config' in document)) {
    throw invalid('a document may have manifests, or config and layers, not both')
  }
  const isIndex = isIndexMediaType(mediaType)
  const config =
    document['config'] === undefined ? undefined : readDescriptor(document['config'], 'config')
  if (isIndex && !Array.isArray(document['manifests']))
    throw invalid('an index must have a list manifests')
  if (!isIndex && config === undefined) throw invalid('a manifest must have a config')
  const annotations = readAnnotations(document['annotations'], 'annotations')
  return {
    mediaType,
    isIndex,
    config,
    layers: readDescriptors(document['layers'], 'layers'),
    manifests: readDescriptors(document['manifests'], 'manifests'),
    subject:
      document['subject'] == null ? undefined : readDescriptor(document['subject'], 'subject'),
    artifactType: readArtifactType(document) ?? (isIndex ? undefined : config?.mediaType),
    annotations,
  }
}

/** The blobs that must be in the repository before the manifest: config and layers, foreign layers excepted. */
export function requiredBlobs(manifest: Manifest): readonly Descriptor[] {
  const owned = manifest.layers.filter((layer) => !isForeignLayerMediaType(layer.mediaType))
  return manifest.config === undefined ? owned : [manifest.config, ...owned]
}

/** A byte order mark is kept, so that JSON.parse refuses it, as other readers do. */
const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })

function parseDocument(bytes: Buffer): Record<string, unknown> {
  let parsed: unknown
  try {
    parsed = JSON.parse(decoder.decode(bytes))
  } catch (cause) {
    throw new OciError('MANIFEST_INVALID', 'the manifest is not JSON in UTF-8', { cause })
  }
  if (!isRecord(parsed)) throw invalid('the manifest must be a JSON object')
  return parsed
}

function decideMediaType(document: Record<string, unknown>, declared: string): ManifestMediaType {
  const own = document['mediaType']
  if (own !== undefined && typeof own !== 'string') throw invalid('mediaType must be a string')
  if (isSchema1MediaType(declared) || (own !== undefined && isSchema1MediaType(own))) {
    throw invalid('schema 1 is not supported: push schema 2 or OCI')
  }
  if (
    declared === '' ||
    declared === 'application/json' ||
    declared === 'application/octet-stream'
  ) {
    return accept(own ?? ('manifests' in document ? mediaTypes.ociIndex : mediaTypes.ociManifest))
  }
  const type = accept(declared)
  if (own !== undefined && own !== type) {
    throw invalid(`the body's mediaType ${own.slice(0, 100)} differs from the Content-Type ${type}`)
  }
  return type
}

function accept(type: string): ManifestMediaType {
  if (isManifestMediaType(type)) return type
  throw invalid(
    `the media type ${type.slice(0, 100)} is not one of a manifest: ${Object.values(mediaTypes).join(', ')}`,
  )
}

function readDescriptors(value: unknown, where: string): readonly Descriptor[] {
  if (value == null) return []
  if (!Array.isArray(value)) throw invalid(`${where} must be a list`)
  return value.map((element: unknown, index) => readDescriptor(element, `${where}[${index}]`))
}

function readDescriptor(value: unknown, where: string): Descriptor {
  if (!isRecord(value)) throw invalid(`${where} must be a descriptor`)
  refuseOtherSpellings(value, descriptorSpellings)
  const { digest, size, mediaType } = value
  if (typeof digest !== 'string' || !isDigest(digest))
    throw invalid(`${where}.digest is not a sha256 or sha512 digest`)
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) {
    throw invalid(`${where}.size must be a whole number of bytes`)
  }
  if (mediaType !== undefined && typeof mediaType !== 'string')
    throw invalid(`${where}.mediaType must be a string`)
  const annotations = readAnnotations(value['annotations'], `${where}.annotations`)
  const artifactType = typeof value['artifactType'] === 'string' ? value['artifactType'] : undefined
  const platform = readPlatform(value['platform'])
  return {
    mediaType: mediaType ?? '',
    digest,
    size,
    ...(annotations && { annotations }),
    ...(artifactType !== undefined && { artifactType }),
    ...(platform && { platform }),
  }
}

function readPlatform(value: unknown): Platform | undefined {
  if (!isRecord(value)) return undefined
  const { os, architecture, variant } = value
  if (typeof os !== 'string' || typeof architecture !== 'string') return undefined
  return { os, architecture, ...(typeof variant === 'string' && { variant }) }
}

function readAnnotations(
  value: unknown,
  where: string,
): Readonly<Record<string, string>> | undefined {
  if (value == null) return undefined
  if (!isRecord(value)) throw invalid(`${where} must be a map of strings`)
  const entries = Object.entries(value)
  for (const [key, text] of entries) {
    if (typeof text !== 'string') throw invalid(`${where}[${key.slice(0, 100)}] must be a string`)
  }
  return Object.fromEntries(entries) as Record<string, string>
}

function readArtifactType(document: Record<string, unknown>): string | undefined {
  const type = document['artifactType']
  if (type === undefined) return undefined
  if (typeof type !== 'string') throw invalid('artifactType must be a string')
  return type === '' ? undefined : type
}

/**
 * JSON.parse keeps the last of two equal keys, other readers the first. Walks the top level of a document
 * that JSON.parse has accepted.
 */
function refuseDuplicateKeys(bytes: Buffer): void {
  const quote = 0x22
  const backslash = 0x5c
  const seen = new Set<string>()
  let depth = 0
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at]
    if (byte === 0x7b || byte === 0x5b) depth++
    else if (byte === 0x7d || byte === 0x5d) depth--
    else if (byte === quote) {
      const start = at
      for (at++; bytes[at] !== quote; at++) if (bytes[at] === backslash) at++
      if (depth !== 1 || !isFollowedByColon(bytes, at + 1)) continue
      const key = String(JSON.parse(bytes.toString('utf8', start, at + 1)))
      if (!decisiveKeys.has(key)) continue
      if (seen.has(key)) throw invalid(`the key ${key} stands in the manifest twice`)
      seen.add(key)
    }
  }
}

/** Known keys by what Go's encoding/json compares: it ignores case, and keeps the last that matches. */
function spellingsOf(keys: Iterable<string>): ReadonlyMap<string, string> {
  return new Map([...keys].map((key) => [fold(key), key]))
}

function refuseOtherSpellings(
  record: Record<string, unknown>,
  spellings: ReadonlyMap<string, string>,
): void {
  for (const key of Object.keys(record)) {
    const known = spellings.get(fold(key))
    if (known !== undefined && known !== key) {
      throw invalid(`the key ${key} must be spelled ${known}, or it is read as that by some`)
    }
  }
}

/** Both ways, since some letters fold to ASCII only in upper case (U+017F), some only in lower (U+212A). */
function fold(key: string): string {
  return key.toUpperCase().toLowerCase()
}

function isFollowedByColon(bytes: Buffer, from: number): boolean {
  let at = from
  while (bytes[at] === 0x20 || bytes[at] === 0x0a || bytes[at] === 0x0d || bytes[at] === 0x09) at++
  return bytes[at] === 0x3a
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function invalid(message: string): OciError {
  return new OciError('MANIFEST_INVALID', message)
}

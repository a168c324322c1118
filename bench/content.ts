import { createHash, randomBytes } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { open } from 'node:fs/promises'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { digestFromHex, digestOf, type Digest } from '../shared/oci/digest.ts'

/** A blob in a file. */
export interface BlobFile {
  readonly path: string
  readonly digest: Digest
  readonly size: number
}

export interface BenchManifest {
  readonly bytes: Buffer
  readonly digest: Digest
  readonly mediaType: string
}

const unitBytes = 64 * 1024 * 1024
const readBytes = 1024 * 1024
const mediaType = 'application/vnd.oci.image.manifest.v1+json'

/** Writes a file of random bytes; beyond 64 MiB they repeat. */
export async function makeBlob(path: string, size: number): Promise<BlobFile> {
  const unit = randomBytes(Math.min(size, unitBytes))
  const hash = createHash('sha256')
  const pieces = function* (): Generator<Buffer> {
    for (let left = size; left > 0; left -= unit.length) {
      const piece = unit.subarray(0, Math.min(left, unit.length))
      hash.update(piece)
      yield piece
    }
  }
  await pipeline(Readable.from(pieces()), createWriteStream(path))
  return { path, size, digest: digestFromHex('sha256', hash.digest('hex')) }
}

/**
 * Makes another blob out of a blob's file, in place: what is written anew costs a disk, and memory that is
 * touched for the first time, more than all that is measured with it.
 */
export async function renewBlob({ path, size }: BlobFile): Promise<BlobFile> {
  const file = await open(path, 'r+')
  try {
    await file.write(randomBytes(Math.min(size, 32)), 0, undefined, 0)
  } finally {
    await file.close()
  }
  const hash = createHash('sha256')
  await pipeline(createReadStream(path, { highWaterMark: readBytes }), hash)
  return { path, size, digest: digestFromHex('sha256', hash.digest('hex')) }
}

/** A manifest of exactly `size` bytes, of one config and some layers. */
export function makeManifest(
  config: BlobFile,
  layers: readonly BlobFile[],
  size: number,
): BenchManifest {
  const formatted = (pad: string): string =>
    JSON.stringify({
      schemaVersion: 2,
      mediaType,
      config: descriptorOf(config, 'application/vnd.oci.image.config.v1+json'),
      layers: layers.map((layer) => descriptorOf(layer, 'application/vnd.oci.image.layer.v1.tar')),
      annotations: { 'org.opencontainers.image.description': pad },
    })
  const bytes = Buffer.from(formatted('x'.repeat(size - formatted('').length)))
  return { bytes, digest: digestOf(bytes), mediaType }
}

function descriptorOf({ digest, size }: BlobFile, type: string): object {
  return { mediaType: type, digest, size }
}

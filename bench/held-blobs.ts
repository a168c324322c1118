import { mkdirSync, statSync, writeFileSync } from 'node:fs'
import { link } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { openBlobFiles } from '../edge/cache/blob-files.ts'
import { openCacheIndex } from '../edge/cache/cache-index.ts'
import { digestOf, type Digest } from '../shared/oci/digest.ts'
import type { RepositoryName } from '../shared/oci/reference.ts'
import type { BlobFile } from './content.ts'

/** A cache that no edge has open. */
export interface ClosedCache {
  /** Its folder, which an edge has made. */
  readonly folder: string
  /** At the upstream `origin`. */
  readonly repository: RepositoryName
}

const parallel = 1000

/** Puts the blobs there as if the edge had fetched them: file, links, index. */
export async function holdFiles(
  { folder, repository }: ClosedCache,
  blobs: readonly BlobFile[],
): Promise<void> {
  const files = await openBlobFiles(folder)
  const place = async ({ digest, path }: BlobFile): Promise<void> => {
    mkdirSync(dirname(files.pathOf(digest)), { recursive: true })
    await link(path, files.pathOf(digest))
  }
  for (const blob of blobs) await place(blob)
  await enter({ folder, repository }, blobs)
}

/** Puts many small blobs there. @returns what they are */
export async function holdMany(
  { folder, repository }: ClosedCache,
  count: number,
): Promise<readonly Digest[]> {
  const files = await openBlobFiles(folder)
  const blobs = Array.from({ length: count }, (_, n) => {
    const bytes = Buffer.from(`held blob ${n}`)
    return { bytes, digest: digestOf(bytes), size: bytes.length }
  })
  const made = new Set<string>()
  // One after another, in place: a promise for each would take several times as long.
  for (const { bytes, digest } of blobs) {
    const path = files.pathOf(digest)
    if (!made.has(dirname(path))) mkdirSync(dirname(path), { recursive: true })
    made.add(dirname(path))
    writeFileSync(path, bytes)
  }
  await enter({ folder, repository }, blobs)
  return blobs.map(({ digest }) => digest)
}

interface HeldFile {
  readonly digest: Digest
  readonly size: number
}

/** What an edge that has fetched them knows of them, and of their use. */
async function enter(
  { folder, repository }: ClosedCache,
  blobs: readonly HeldFile[],
): Promise<void> {
  const files = await openBlobFiles(folder)
  const index = await openCacheIndex(join(folder, 'index'))
  const origin = { upstream: 'origin', repository }
  const line = JSON.stringify(origin)
  try {
    for (let start = 0; start < blobs.length; start += parallel) {
      const some = blobs.slice(start, start + parallel)
      await Promise.all(
        some.flatMap(({ digest, size }) => {
          const path = files.pathOf(digest)
          writeFileSync(`${path}.links`, `${line}\n`)
          const changedAt = statSync(path).mtimeMs
          return [index.putStored(digest, { size, changedAt }), index.putLink(origin, digest, {})]
        }),
      )
      const use = { uses: 1, lastUse: Date.now(), cost: 1, priority: 1 }
      await index.putUses(new Map(some.map(({ digest }) => [digest, use])))
    }
  } finally {
    await index.close()
  }
}

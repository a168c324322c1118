import assert from 'node:assert/strict'
import { join } from 'node:path'
import { openBlobFiles, type BlobFiles } from '../../edge/cache/blob-files.ts'
import {
  createCachedBlobs,
  type CachedBlobs,
  type CachedBlobsDeps,
} from '../../edge/cache/blobs.ts'
import type { EvictionObserver } from '../../edge/cache/evict.ts'
import { openCacheIndex, type CacheIndex } from '../../edge/cache/cache-index.ts'

/** The edge's cache in a folder, and what it is made of. */
export interface TestCache {
  readonly files: BlobFiles
  /** As the cache sees it: wrapped. */
  readonly index: CacheIndex
  readonly blobs: CachedBlobs
  close(): Promise<void>
}

export interface TestCacheOptions {
  /** Fails the test without. */
  readonly onDiskFailed?: (error: unknown) => void
  /** What a test puts between the cache and its files, to hold or fail a step. */
  readonly wrapFiles?: (files: BlobFiles) => BlobFiles
  readonly wrapIndex?: (index: CacheIndex) => CacheIndex
  /** Does not wait until all that is held is known. */
  readonly early?: boolean
  /** Bytes that it may hold. */
  readonly capacity?: (heldBytes: number) => Promise<number>
  readonly eviction?: EvictionObserver
  readonly shares?: CachedBlobsDeps['shares']
  readonly proofMs?: number
  readonly hasher?: CachedBlobsDeps['hasher']
  readonly onRotten?: CachedBlobsDeps['onRotten']
  readonly now?: () => number
}

/** Opens a cache of real files and a real index; the caller closes it, and removes the folder. */
export async function openTestCache(
  root: string,
  options: TestCacheOptions = {},
): Promise<TestCache> {
  const {
    onDiskFailed = (error) => assert.fail(String(error)),
    wrapFiles = (files) => files,
    wrapIndex = (index) => index,
    early = false,
    ...rest
  } = options
  const files = wrapFiles(await openBlobFiles(root))
  const index = wrapIndex(await openCacheIndex(join(root, 'index')))
  const blobs = await createCachedBlobs({ files, index, openFiles: 4, onDiskFailed, ...rest })
  if (!early) await blobs.room.restored
  return {
    files,
    index,
    blobs,
    async close() {
      await blobs.close()
      await index.close()
    },
  }
}

import { mkdir, rm, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isDigest } from '../../shared/oci/digest.ts'
import type { Hasher } from '../../shared/stream/hasher.ts'
import { openBlobFiles } from './blob-files.ts'
import { createCachedBlobs, type CachedBlobs, type CachedBlobsDeps } from './blobs.ts'
import { openCacheIndex, type CacheIndex } from './cache-index.ts'
import type { EvictionObserver } from './evict.ts'
import { startScrub, type Scrub } from './scrub.ts'
import type { Share } from './shares.ts'

/** An open cache; whoever opened it closes it. */
export interface Cache {
  readonly index: CacheIndex
  readonly blobs: CachedBlobs
  close(): Promise<void>
}

export interface CacheOptions {
  /** A folder of its own; made if it is not there. */
  readonly folder: string
  /** Files kept open without a reader. */
  readonly openFiles: number
  /** Told when the index was damaged and is made again from the disk. */
  readonly onDamaged: (error: unknown) => void
  /** Told of what the disk refused. */
  readonly onDiskFailed: (error: unknown) => void
  /** Told when a blob was stored. */
  readonly onStored?: () => void
  /** Bytes that it may take; without, most of what the disk has. */
  readonly size?: number | undefined
  readonly eviction?: EvictionObserver
  readonly shares?: readonly Share[]
  readonly hasher?: Hasher
  readonly proofMs?: number
  /** Told of a file that is not what its digest says; it is gone by then. */
  readonly onRotten?: CachedBlobsDeps['onRotten']
  readonly onPinLost?: CachedBlobsDeps['onPinLost']
  /** All that is held is read again and again, at so many bytes a second; not at all without, or with 0. */
  readonly scrub?: { readonly bytesPerSecond: number; readonly onRead: (bytes: number) => void }
}

/** What the cache leaves of the disk: file systems that are full are slow, and others write there too. */
const diskShare = 0.95

/** What the cache may take of its disk, which is never more than what is free there now besides what it holds. */
async function capacityOf(
  folder: string,
  { size = Infinity, heldBytes }: { readonly size: number | undefined; readonly heldBytes: number },
): Promise<number> {
  const { bavail, bsize } = await statfs(folder)
  return Math.min(size, Math.floor(diskShare * (heldBytes + bavail * bsize)))
}

/**
 * Opens the cache. An index that is damaged is thrown away: blobs, manifests and links stand on the disk too,
 * and where tags point is asked again.
 * @throws when the disk cannot be written, or another process holds the index
 */
export async function openCache(options: CacheOptions): Promise<Cache> {
  const { folder, size, onDamaged, scrub, ...rest } = options
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const files = await openBlobFiles(folder)
  const index = await openOrRemake(join(folder, 'index'), { open: openCacheIndex, onDamaged })
  const blobs = await createCachedBlobs({
    ...rest,
    files,
    index,
    capacity: (heldBytes) => capacityOf(folder, { size, heldBytes }),
  })
  const scrubbing =
    scrub === undefined || scrub.bytesPerSecond === 0
      ? undefined
      : scrubCache({ index, blobs, onFailed: options.onDiskFailed }, scrub)
  return {
    index,
    blobs,
    async close() {
      await scrubbing?.close()
      await blobs.close()
      await index.close()
    },
  }
}

/** Where the scrub has come to, in the index. */
const scrubDocument = 'scrub'

function scrubCache(
  {
    index,
    blobs,
    onFailed,
  }: Pick<Cache, 'index' | 'blobs'> & { readonly onFailed: (error: unknown) => void },
  { bytesPerSecond, onRead }: NonNullable<CacheOptions['scrub']>,
): Scrub {
  const start = index.document(scrubDocument)
  return startScrub({
    bytesPerSecond,
    start: typeof start === 'string' && isDigest(start) ? start : undefined,
    next: (after) => index.nextStored(after),
    check: (digest, pause) =>
      blobs.check(digest, (bytes) => {
        onRead(bytes)
        return pause(bytes)
      }),
    save: (position) => index.putDocument(scrubDocument, position),
    onFailed,
  })
}

/**
 * Opens what can be made again: a folder that is damaged is removed, and another begun.
 * @throws when the disk cannot be written, or another process holds the folder
 */
export async function openOrRemake<Opened>(
  folder: string,
  {
    open,
    onDamaged,
  }: {
    readonly open: (folder: string) => Promise<Opened>
    readonly onDamaged: (error: unknown) => void
  },
): Promise<Opened> {
  try {
    return await open(folder)
  } catch (error) {
    // Another process's lock is no damage: the folder is its, and stays. So does one on a disk that is broken.
    if (isLocked(error) || !(await isWritable(folder))) throw error
    onDamaged(error)
    await rm(folder, { recursive: true, force: true })
    return open(folder)
  }
}

function isLocked(error: unknown): boolean {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    if ('code' in cause && cause.code === 'LEVEL_LOCKED') return true
  }
  return false
}

/** Whether the disk takes what is written to it: then an index that does not open is itself the fault. */
async function isWritable(folder: string): Promise<boolean> {
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 })
    await writeFile(join(folder, 'probe'), 'probe', { flush: true })
    return true
  } catch {
    return false
  }
}

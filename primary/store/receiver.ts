import { createHash, type Hash } from 'node:crypto'
import { open, stat, type FileHandle } from 'node:fs/promises'
import { finished, type Readable } from 'node:stream'
import { isMissing } from '../../shared/files/open-files.ts'
import { createLru } from '../../shared/memory/lru.ts'
import {
  algorithmOf,
  digestFromHex,
  type Digest,
  type DigestAlgorithm,
} from '../../shared/oci/digest.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { freeChunk } from '../../shared/stream/free-chunk.ts'
import type { BlobKey } from './blobs.ts'
import type { Disk } from './disk.ts'

/** The files of uploads: what is held, the running hash of each, one writer at a time. */
export interface Receiver {
  held(key: BlobKey): Promise<number | undefined>
  append(
    key: BlobKey,
    request: { readonly offset: number; readonly body: Readable },
  ): Promise<number>
  /**
   * Checks the content, which stays where it is, synced.
   * @returns its size
   */
  prove(key: BlobKey, digest: Digest): Promise<number>
  /** Drops what memory knows of an upload. */
  forget(key: BlobKey): void
}

export interface ReceiverDeps {
  readonly pathOf: (key: BlobKey) => string
  readonly disk: Disk
}

/** An upload as memory knows it. */
interface Received {
  length: number
  readonly hash: Hash
}

/** Batches of this size cost a system call, and a turn of the thread pool, for every sixteen of the socket's. */
const batchBytes = 1024 * 1024
/** What one call can take. [writev(2), IOV_MAX] */
const batchBuffers = 1024
/** The disk begins to write this often while bytes still come, so that the last sync is short. */
const syncEveryBytes = 32 * 1024 * 1024
/** Uploads whose running hash is remembered; others are read again at their next request. */
const rememberedUploads = 4096
const readBytes = 1024 * 1024

export function createReceiver({ pathOf, disk }: ReceiverDeps): Receiver {
  const known = createLru<BlobKey, Received>({ max: rememberedUploads })
  const busy = new Set<BlobKey>()

  /** What is on disk counts: after a restart it is read once. */
  const find = async (key: BlobKey, file: FileHandle): Promise<Received> => {
    const remembered = known.get(key)
    const { size } = await file.stat()
    if (remembered?.length === size) return remembered
    const received = { length: size, hash: await hashFile(file, 'sha256', size) }
    known.set(key, received)
    return received
  }

  const exclusively = async <T>(
    key: BlobKey,
    work: (file: FileHandle) => Promise<T>,
  ): Promise<T> => {
    if (busy.has(key)) throw invalid('another request is writing to this upload')
    busy.add(key)
    try {
      const file = await openUpload(pathOf(key))
      try {
        return await work(file)
      } finally {
        await file.close()
      }
    } finally {
      busy.delete(key)
    }
  }

  /** What a disk that failed holds beyond `keep` is anybody's guess, also where a second sync would succeed. */
  const giveUp = async (
    {
      key,
      file,
      keep,
    }: { readonly key: BlobKey; readonly file: FileHandle; readonly keep: number },
    { cause }: WriteFailure,
  ): Promise<never> => {
    await file.truncate(keep)
    known.delete(key)
    throw isDiskFull(cause) ? diskFull(cause) : cause
  }

  return {
    async held(key) {
      // While a request here appends, the file is ahead of what is acknowledged. At all other times the file
      // knows best: another primary may have gone on with it.
      const remembered = busy.has(key) ? known.get(key) : undefined
      if (remembered !== undefined) return remembered.length
      try {
        return (await stat(pathOf(key))).size
      } catch (error) {
        if (isMissing(error)) return undefined
        throw error
      }
    },
    append: (key, { offset, body }) =>
      exclusively(key, async (file) => {
        const received = await find(key, file)
        if (offset !== received.length) {
          throw invalid(`this upload holds ${received.length} bytes: go on there`)
        }
        try {
          return await receive(received, { file, body, disk })
        } catch (error) {
          if (!(error instanceof WriteFailure)) throw error
          return giveUp({ key, file, keep: offset }, error)
        }
      }),
    prove: (key, digest) =>
      exclusively(key, async (file) => {
        const received = await find(key, file)
        const algorithm = algorithmOf(digest)
        const hash =
          algorithm === 'sha256'
            ? received.hash.copy()
            : await hashFile(file, algorithm, received.length)
        const actual = digestFromHex(algorithm, hash.digest('hex'))
        if (actual !== digest) {
          throw new OciError(
            'DIGEST_INVALID',
            `the content's digest is ${actual}: push it again under that, or send the right bytes`,
            {
              detail: { digest, actual },
            },
          )
        }
        try {
          // Bytes that a killed process received were never synced; for the others this costs next to nothing.
          await datasync(disk, file)
        } catch (error) {
          if (!(error instanceof WriteFailure)) throw error
          return giveUp({ key, file, keep: 0 }, error)
        }
        known.delete(key)
        return received.length
      }),
    forget(key) {
      known.delete(key)
    },
  }
}

/** A failure of the disk, told apart from one of the body. */
class WriteFailure extends Error {
  override readonly cause: unknown
  constructor(cause: unknown) {
    super('the upload could not be written')
    this.cause = cause
  }
}

interface ReceiveRequest {
  readonly file: FileHandle
  readonly body: Readable
  readonly disk: Disk
}

/**
 * Takes the body: hashes each chunk as it comes, writes in batches while the next one is received, and syncs
 * before it returns. What came before a broken body's end is kept and counted.
 */
async function receive(received: Received, { file, body, disk }: ReceiveRequest): Promise<number> {
  let batch: Buffer[] = []
  let batchLength = 0
  let writing: Promise<void> = Promise.resolve()
  let syncing: Promise<void> = Promise.resolve()
  let unsynced = 0

  const flush = async () => {
    await writing
    const [buffers, at] = [batch, received.length]
    received.length += batchLength
    unsynced += batchLength
    ;[batch, batchLength] = [[], 0]
    writing = writeAll(disk, file, { buffers, at }).then(() => buffers.forEach(freeChunk))
    // It is awaited before the next batch; until then nobody else may call its failure unhandled.
    writing.catch(() => undefined)
    if (unsynced < syncEveryBytes) return
    unsynced = 0
    await syncing
    syncing = writing.then(() => datasync(disk, file))
    syncing.catch(() => undefined)
  }

  const finish = async () => {
    if (batchLength > 0) await flush()
    await writing
    await syncing
    await datasync(disk, file)
  }

  const takeAll = () =>
    readAll(body, (chunk) => {
      received.hash.update(chunk)
      batch.push(chunk)
      batchLength += chunk.length
      return batchLength >= batchBytes || batch.length === batchBuffers ? flush() : undefined
    })

  try {
    await takeAll().finally(finish)
    return received.length
  } finally {
    // A write that still runs would end behind the truncation that follows a failure.
    await Promise.allSettled([writing, syncing])
  }
}

/**
 * Gives a body's chunks to `take` as they come, which may ask it to wait: by events, since an iterator costs a promise
 * a chunk. A body that is left stays open: it is the way back for the refusal.
 */
function readAll(
  body: Readable,
  take: (chunk: Buffer) => Promise<void> | undefined,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (error?: Error | null): void => {
      unwatch()
      body.off('data', onData)
      if (!error) return resolve()
      body.pause()
      reject(error)
    }
    const onData = (chunk: Buffer): void => {
      const wait = take(chunk)
      if (wait === undefined) return
      body.pause()
      wait.then(() => body.resume(), settle)
    }
    const unwatch = finished(body, { writable: false }, settle)
    body.on('data', onData)
    body.resume()
  })
}

async function writeAll(
  disk: Disk,
  file: FileHandle,
  batch: { readonly buffers: readonly Buffer[]; readonly at: number },
): Promise<void> {
  let { buffers: rest, at } = batch
  try {
    while (rest.length > 0) {
      const written = await disk.write(file, rest, at)
      at += written
      rest = after(rest, written)
    }
  } catch (cause) {
    throw new WriteFailure(cause)
  }
}

/** What a partial write left over. */
function after(buffers: readonly Buffer[], bytes: number): readonly Buffer[] {
  let left = bytes
  for (const [index, buffer] of buffers.entries()) {
    if (left < buffer.length) return [buffer.subarray(left), ...buffers.slice(index + 1)]
    left -= buffer.length
  }
  return []
}

async function datasync(disk: Disk, file: FileHandle): Promise<void> {
  try {
    await disk.datasync(file)
  } catch (cause) {
    throw new WriteFailure(cause)
  }
}

async function hashFile(file: FileHandle, algorithm: DigestAlgorithm, size: number): Promise<Hash> {
  const hash = createHash(algorithm)
  const buffer = Buffer.allocUnsafeSlow(Math.min(readBytes, Math.max(1, size)))
  for (let at = 0; at < size;) {
    const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.length, size - at), at)
    if (bytesRead === 0) throw new Error('an upload became shorter while it was read')
    hash.update(buffer.subarray(0, bytesRead))
    at += bytesRead
  }
  return hash
}

async function openUpload(path: string): Promise<FileHandle> {
  try {
    return await open(path, 'r+')
  } catch (error) {
    if (isMissing(error)) throw noUpload()
    throw error
  }
}

/** The refusal where there are no bytes of an upload, or no longer. */
export function noUpload(): OciError {
  return new OciError('BLOB_UPLOAD_UNKNOWN', 'there is no such upload: start a new one')
}

function isDiskFull(error: unknown): boolean {
  return (
    error instanceof Error &&
    'code' in error &&
    (error.code === 'ENOSPC' || error.code === 'EDQUOT')
  )
}

/** What a client hears when its bytes do not fit. [RFC 4918 §11.5] */
function diskFull(cause: unknown): OciError {
  return new OciError('UNAVAILABLE', "the registry's disk is full: try again when there is space", {
    status: 507,
    cause,
  })
}

function invalid(message: string): OciError {
  return new OciError('BLOB_UPLOAD_INVALID', message)
}

import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { Readable } from 'node:stream'
import { setTimeout as delay } from 'node:timers/promises'
import { algorithmOf, digestOf, type Digest } from '../../shared/oci/digest.ts'
import { formatPieceList, listedPieceBytes } from '../../shared/replication/piece-list.ts'
import type { BlobHandle } from '../../shared/stream/blob-handle.ts'
import type { Hasher, RunningHash } from '../../shared/stream/hasher.ts'
import { readExactly } from '../../shared/stream/read-exactly.ts'
import type { StoredBlob } from '../accounts/caller.ts'
import type { BlobStore } from '../store/blobs.ts'
import type { PieceLists } from '../store/piece-lists.ts'

export interface ListPiecesDeps {
  readonly records: PieceLists
  readonly blobs: Pick<BlobStore, 'open' | 'create' | 'append' | 'commit' | 'remove'>
  /** For whole blobs. */
  readonly hasher: Hasher
  /** Bytes from which on a blob has a list, also one that no rule selects. */
  readonly from: number
  /** What this primary's claims begin with. */
  readonly primaryId: string
  /** Told of a blob that has a list now. */
  readonly onListed: (digest: Digest) => void
  /** Told of one that cannot have any, for now. */
  readonly onFailed: (digest: Digest, error: unknown) => void
  readonly now: () => Date
}

const claimMs = 60_000

/**
 * Makes the lists that are missing, the newest blob's first: one piece at a time, and idle for as long as each took,
 * so that whoever pulls or pushes hardly feels it.
 * @param signal ends it after the piece that it reads
 * @param maxMs begins with no other blob after so long
 * @returns whether all are made that can be
 */
export async function listPieces(
  deps: ListPiecesDeps,
  { signal, maxMs }: { readonly signal: AbortSignal; readonly maxMs: number },
): Promise<boolean> {
  const failed: Digest[] = []
  const until = performance.now() + maxMs
  while (!signal.aborted && performance.now() < until) {
    const blob = await deps.records.next(deps.from, failed)
    if (blob === undefined) return true
    try {
      const list = await readList(deps, blob, signal)
      await keepList(deps, { list, blob })
      deps.onListed(blob.digest)
    } catch (error) {
      if (signal.aborted) return false
      failed.push(blob.digest)
      deps.onFailed(blob.digest, error)
    }
  }
  return false
}

/** @throws when the stored bytes are not what the digest says: no list may say otherwise than it */
async function readList(
  { blobs, hasher }: ListPiecesDeps,
  { digest, key, size }: StoredBlob,
  signal: AbortSignal,
): Promise<Buffer> {
  const opened = await blobs.open(key)
  if (opened === undefined || 'redirect' in opened) throw new Error('its bytes cannot be read here')
  const whole = hasher.start(algorithmOf(digest), size)
  try {
    const hashes = await readPieces(opened, { size, whole, signal })
    if ((await whole.digest()) !== digest) throw new Error('its bytes are not what its digest says')
    return formatPieceList({ digest, size }, hashes)
  } catch (error) {
    whole.drop()
    throw error
  } finally {
    await opened.close()
  }
}

async function readPieces(
  handle: BlobHandle,
  {
    size,
    whole,
    signal,
  }: { readonly size: number; readonly whole: RunningHash; readonly signal: AbortSignal },
): Promise<readonly Buffer[]> {
  const buffer = Buffer.from(new SharedArrayBuffer(listedPieceBytes))
  const hashes: Buffer[] = []
  for (let at = 0; at < size; at += listedPieceBytes) {
    signal.throwIfAborted()
    const since = performance.now()
    const piece = buffer.subarray(0, Math.min(listedPieceBytes, size - at))
    await readExactly(handle, piece, at)
    const hashing = whole.update(piece)
    hashes.push(createHash('sha256').update(piece).digest())
    await hashing
    await delay(performance.now() - since)
  }
  return hashes
}

async function keepList(
  { records, blobs, primaryId, now }: ListPiecesDeps,
  { list, blob }: { readonly list: Buffer; readonly blob: StoredBlob & { repositoryId: number } },
): Promise<void> {
  const [id, key] = [randomUUID(), randomBytes(16).toString('hex')]
  const claim = { by: `${primaryId} ${id}`, forMs: claimMs }
  const digest = digestOf(list)
  await records.register({ id, key }, { repositoryId: blob.repositoryId, claim })
  await blobs.create(key)
  await blobs.append(key, 0, Readable.from([list]))
  const { size } = await blobs.commit(key, digest)
  const received = { id, claimedBy: claim.by, of: blob.digest, digest, key, size }
  const isUsed = await records.commit(received, now())
  if (isUsed === false) await blobs.remove(key)
}

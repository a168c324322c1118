import assert from 'node:assert/strict'
import type { FillObserver, FillOptions, FillOutcome } from '../../shared/fill/fill-options.ts'
import {
  createFills,
  type FillReader,
  type Fills,
  type FillStart,
} from '../../shared/fill/fills.ts'
import { createPieceProof, type PieceProof } from '../../shared/fill/piece-proof.ts'
import { digestOf, type Digest } from '../../shared/oci/digest.ts'
import { parsePieceList } from '../../shared/replication/piece-list.ts'
import { bufferBytes, createBufferPool, type BufferPool } from '../../shared/stream/buffers.ts'
import type { BlobSource } from '../../shared/stream/blob-source.ts'
import { createHasher } from '../../shared/stream/hasher.ts'
import { waitFor } from './clock.ts'
import { pieceListOf } from './piece-lists.ts'
import { createTestDisk, type TestDisk } from './sink.ts'

/** Fills over a test disk, and what they tell. */
export interface FillRig {
  readonly fills: Fills
  readonly pool: BufferPool
  readonly disk: TestDisk
  readonly outcomes: FillOutcome[]
  readonly liars: string[]
  /** Who alone sent each piece that was wrong; `undefined` for several, or the disk. */
  readonly wrongPieces: (string | undefined)[]
  readonly failures: string[]
  readonly diskErrors: unknown[]
  /** Joins the fill of this digest; every joiner of a rig shares its disk. */
  readonly join: (
    digest: Digest,
    sources: FillStart['sources'],
    more?: Partial<FillStart>,
  ) => Promise<FillReader>
  /** Waits until so many fills have ended. */
  readonly ended: (count?: number) => Promise<FillOutcome>
}

export interface FillRigOptions extends Partial<FillOptions> {
  readonly poolBuffers?: number
  readonly limit?: number
  readonly maxFills?: number
  readonly workerFromBytes?: number
  /** Another disk than a fresh one: what an earlier rig left. Its owner removes it. */
  readonly disk?: TestDisk
}

/** Deadlines short enough for tests, long enough for a busy machine. */
const testOptions: Partial<FillOptions> = {
  headersTimeoutMs: 1000,
  stallMs: 1000,
  retryDelaysMs: [0, 5, 10],
  lingerMs: 20,
}

/** Runs `use` with fills, then closes everything and checks that every buffer and file came back. */
export async function withFills(
  options: FillRigOptions,
  use: (rig: FillRig) => Promise<void>,
): Promise<void> {
  const { poolBuffers = 32, limit = 16, workerFromBytes = 8 * bufferBytes } = options
  const pool = createBufferPool({ bytes: poolBuffers * bufferBytes })
  const hasher = createHasher({ workerFromBytes })
  const disk = options.disk ?? (await createTestDisk())
  const [outcomes, liars, wrongPieces, failures, diskErrors] = [[], [], [], [], []] as [
    FillOutcome[],
    string[],
    (string | undefined)[],
    string[],
    unknown[],
  ]
  const observer: FillObserver = {
    ended: (outcome) => outcomes.push(outcome),
    sourceLied: (name) => liars.push(name),
    pieceWrong: (name) => wrongPieces.push(name),
    sourceFailed: (name, error) => failures.push(`${name}: ${error.message}`),
    diskFailed: (error) => diskErrors.push(error),
  }
  const fills = createFills({
    pool,
    hasher,
    limitOf: () => limit,
    ...(options.maxFills !== undefined && { maxFills: options.maxFills }),
    options: { ...testOptions, ...options },
    observer,
  })
  const rig: FillRig = {
    fills,
    pool,
    disk,
    outcomes,
    liars,
    wrongPieces,
    failures,
    diskErrors,
    join: (digest, sources, more) =>
      fills.join(digest, { digest, sources, openSink: () => disk.openSink(), ...more }),
    ended: async (count = 1) => {
      await waitFor('the fill to end', () => outcomes.length >= count)
      const last = outcomes.at(-1)
      assert.ok(last !== undefined)
      return last
    },
  }
  try {
    await use(rig)
  } finally {
    await fills.close()
    await hasher.close()
    if (options.disk === undefined) await disk.remove()
  }
  assert.equal(disk.openSinks, 0, 'a sink was left open')
  assert.deepEqual(
    { inUse: pool.stats.inUse, lent: pool.stats.lent, requests: fills.stats.requests },
    // One buffer is set apart for reading back.
    { inUse: 1, lent: 0, requests: 0 },
    'a buffer or a request was left behind',
  )
}

export interface ReadOptions {
  readonly start?: number
  /** The first byte that is not read. */
  readonly end?: number
  readonly chunk?: number
  readonly borrow?: boolean
  /** Called before each read. */
  readonly pause?: () => Promise<void>
}

/** Reads a part of a reader's blob, as a response would, and closes the reader. */
export async function readFrom(reader: FillReader, options: ReadOptions = {}): Promise<Buffer> {
  const { start = 0, end = reader.size, chunk = bufferBytes, borrow = true, pause } = options
  const parts: Buffer[] = []
  try {
    for (let offset = start; offset < end;) {
      await pause?.()
      const part = await readPart(reader, offset, Math.min(chunk, end - offset), borrow)
      assert.ok(part.length > 0, `nothing more at ${offset} of ${end}`)
      parts.push(part)
      offset += part.length
    }
  } finally {
    await reader.close()
  }
  return Buffer.concat(parts)
}

async function readPart(reader: FillReader, offset: number, bytes: number, borrow: boolean) {
  const lent = borrow ? await reader.borrow(offset, bytes) : undefined
  if (lent !== undefined) {
    const copy = Buffer.from(lent.bytes)
    lent.release()
    return copy
  }
  const buffer = Buffer.alloc(bytes)
  return buffer.subarray(0, await reader.read(buffer, offset))
}

/** What proves each piece of a blob. */
export function proofOf(blob: Buffer, digest = digestOf(blob)): PieceProof {
  const list = pieceListOf(blob, digest)
  return createPieceProof(parsePieceList(list, digest), createHasher({ workerFromBytes: Infinity }))
}

/** A source list of one. */
export function only(source: BlobSource): readonly BlobSource[] {
  return [source]
}

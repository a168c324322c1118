import { createHash } from 'node:crypto'
import type { BufferPool, PooledBuffer } from '../stream/buffers.ts'
import type { Bell } from './bell.ts'
import type { PieceProof } from './piece-proof.ts'
import { createPieces, pieceBytes, wholePieces, type Pieces } from './segments.ts'
import type { Extent, Sink } from './sink.ts'

export interface PieceStoreOptions {
  readonly size: number
  readonly pool: BufferPool
  readonly bell: Bell
  /** Undefined: there is no disk from the beginning. */
  readonly sink: Sink | undefined
  /** What an earlier run left on disk. */
  readonly held: readonly Extent[]
  /** Pieces that stay in memory for readers near the front. */
  readonly windowPieces: number
  /** Complete pieces that may wait for the disk (or, without one, for the hash) before the network has to. */
  readonly maxUnwritten: number
  /** Reads pieces back for the hash; one at a time for all fills, so that a full pool can never block it. */
  readonly readBack: ReadBack
  /** By which each piece is proved before it counts as here; without, only the whole is. */
  readonly proof?: PieceProof | undefined
  /** Called when a piece was not what it must be, and is missing again. `sender`: who alone sent all of it. */
  readonly onWrong?: (piece: number, sender: string | undefined) => void
  /** Called when bytes of a piece go that readers may have got, though they were not proved. */
  readonly onDropped?: (piece: number) => void
  /** Called when pieces cannot be proved. */
  readonly onProofFailed?: (error: unknown) => void
  /** Called once, when the disk fails. */
  readonly onDiskFailure: (error: unknown) => void
  /** Called after pieces have reached the disk. */
  readonly onWritten: (bytes: number) => void
}

/** Runs `use` with the one buffer that is set apart for reading back. */
export type ReadBack = (use: (bytes: Buffer) => Promise<void>) => Promise<void>

interface Slot {
  readonly buffer: PooledBuffer
  /** Bytes received. */
  filled: number
}

/** Bytes of the blob that lie in memory now. */
export interface MemoryBytes {
  readonly buffer: PooledBuffer
  readonly bytes: Buffer
}

/**
 * Holds a fill's pieces: first in pooled memory, then on disk. When the disk fails it goes on without one:
 * pieces then stay in memory until they are hashed, and a digest of each is kept to prove later copies by.
 */
export interface PieceStore {
  readonly pieces: Pieces
  /** No disk any more: nothing new is kept. */
  readonly degraded: boolean
  /** Who delivered a piece: bits of RankedSource, bit 0 for the disk of an earlier run. */
  readonly deliveredBy: Uint32Array
  /** Whether pieces are proved one by one. */
  readonly provesPieces: boolean
  /** Complete pieces that are being proved. */
  readonly proving: number
  /** Whether bytes of this piece may still turn out wrong, as far as pieces are proved at all. */
  isUnproved(piece: number): boolean
  /** Proves a piece that an earlier run left on disk, if that was not done yet; a wrong one is missing then. */
  proveHeld(piece: number): Promise<void>
  /** The first byte of this piece that is not here. */
  offsetOf(piece: number): number
  /**
   * Makes the piece `coming`, with a buffer. Waits for the pool and for the disk.
   * @param sender the name of who sends what is left of it
   * @returns what is left to fill of it
   */
  begin(piece: number, sender: string, signal: AbortSignal): Promise<Buffer>
  /** What is left to fill of a begun piece. */
  rest(piece: number): Buffer
  /** Throws away what has arrived of a piece that is not complete: a request brings it from its start. */
  restartPiece(piece: number): void
  /** Lets go of what has arrived of a piece that is not complete, and of its memory; whoever claimed it keeps the claim. */
  releasePartial(piece: number): void
  /** So many bytes have arrived. @returns whether the piece is complete, and then on its way to the disk */
  advance(piece: number, count: number, bit: number): boolean
  /** A begun piece goes back to `missing`; `keep` keeps what has arrived of it for the next source. */
  abandon(piece: number, keep: boolean): void
  /** What can be had from memory at this offset. */
  memoryAt(offset: number): MemoryBytes | undefined
  /** Reads from the disk if the bytes are there; undefined when they are not. */
  readDisk(buffer: Buffer, offset: number): Promise<number> | undefined
  /**
   * The disk failed to give this piece back. @returns whether it will be fetched again: what is hashed already
   * must not be, since the new copy would be proved by nothing
   */
  lose(piece: number, error: unknown): boolean
  /** Whether the whole piece can be had without the disk. */
  inMemory(piece: number): boolean
  /**
   * Gives a complete piece to `use`, for the hash; it resolves when the bytes may go. From memory `use` is
   * called at once. @returns false when the disk no longer gives it: the piece is then missing again
   */
  withPiece(piece: number, use: (bytes: Buffer) => Promise<void>): Promise<boolean>
  /** This piece is hashed in this round. */
  hashed(piece: number): void
  /** The digest that a piece must have, or had when it passed; undefined when it is not known. */
  passedDigest(piece: number): string | undefined
  /** Makes pieces missing again. With `compare`, `differs` tells of each whose next version is another. */
  drop(which: (piece: number) => boolean, differs?: (piece: number, mask: number) => void): void
  /** Gives up the disk. */
  degrade(error: unknown): void
  /** Waits for running writes. */
  written(): Promise<void>
  /** Waits for running writes, then lets go of all memory. */
  close(): Promise<void>
}

export function createPieceStore(options: PieceStoreOptions): PieceStore {
  const { size, pool, bell, sink, windowPieces, maxUnwritten, proof } = options
  const pieces = createPieces(size)
  const deliveredBy = new Uint32Array(pieces.count)
  const slots = new Map<number, Slot>()
  /** Complete pieces whose buffer the fill itself still needs. */
  const owned = new Set<number>()
  /** Pieces in memory for readers only, oldest first. */
  const cached = new Set<number>()
  const passed = new Map<number, string>()
  const stale = new Map<number, (piece: number, mask: number) => void>()
  const staleMask = new Map<number, number>()
  const writes = new Set<Promise<void>>()
  /** Who alone sends a piece that is on its way. */
  const senders = new Map<number, string | undefined>()
  const proving = new Map<number, Promise<void>>()
  /** What an earlier run left, and nobody has proved since. */
  const unproved = new Set<number>()
  let hashedUpTo = 0
  let degraded = sink === undefined
  let closed = false

  for (const piece of wholePieces(options.held, size)) {
    pieces.set(piece, 'disk')
    deliveredBy[piece] = diskBit
    if (proof !== undefined) unproved.add(piece)
  }

  /** Not here before it is proved; who sends goes on meanwhile. */
  function prove(by: PieceProof, piece: number, slot: Slot) {
    const work = by
      .check(piece, slot.buffer.bytes.subarray(0, slot.filled))
      .then(
        (isRight) => (sender?: string) =>
          isRight ? complete(piece, slot) : dropWrong(piece, sender),
        (error: unknown) => () => options.onProofFailed?.(error),
      )
      .then((settle) => {
        const sender = senders.get(piece)
        senders.delete(piece)
        proving.delete(piece)
        if (slots.get(piece) === slot) settle(sender)
        bell.ring()
      })
    proving.set(piece, work)
  }

  function dropWrong(piece: number, sender: string | undefined) {
    forget(piece)
    options.onWrong?.(piece, sender)
  }

  /** @returns whether a piece that an earlier run left is right */
  async function checkHeld(by: PieceProof, piece: number, bytes: Buffer): Promise<boolean> {
    if (!unproved.has(piece)) return true
    const isRight = await by.check(piece, bytes)
    unproved.delete(piece)
    if (!isRight && pieces.get(piece) === 'disk') dropWrong(piece, undefined)
    bell.ring()
    return isRight
  }

  const isUnproved = (piece: number): boolean => {
    if (proof === undefined) return false
    const state = pieces.get(piece)
    return state === 'missing' || state === 'coming' || unproved.has(piece)
  }

  function complete(piece: number, slot: Slot) {
    pieces.set(piece, 'memory')
    owned.add(piece)
    if (sink === undefined || degraded) return keepUnwritten(piece, slot)
    const writing = write(sink, piece, slot).finally(() => writes.delete(writing))
    writes.add(writing)
  }

  async function write(to: Sink, piece: number, slot: Slot): Promise<void> {
    const bytes = slot.buffer.bytes.subarray(0, slot.filled)
    try {
      await compareWithStale(to, piece, bytes)
      await to.write(bytes, piece * pieceBytes)
    } catch (error) {
      degrade(error)
      if (slots.get(piece) === slot) keepUnwritten(piece, slot)
      return
    }
    // Dropped meanwhile: a round after a mismatch has begun, and its own version will be written over this.
    if (slots.get(piece) !== slot) return
    pieces.set(piece, 'disk')
    cache(piece, slot)
    options.onWritten(bytes.length)
  }

  /** Says whose earlier version was wrong: exactly the pieces that differ. */
  async function compareWithStale(to: Sink, piece: number, bytes: Buffer) {
    const differs = stale.get(piece)
    if (differs === undefined) return
    stale.delete(piece)
    const mask = staleMask.get(piece) ?? 0
    await options.readBack(async (old) => {
      const count = await to.read(old.subarray(0, bytes.length), piece * pieceBytes)
      if (!old.subarray(0, count).equals(bytes)) differs(piece, mask)
    })
  }

  function keepUnwritten(piece: number, slot: Slot) {
    // Without a disk only what the hash can take next may stay: anything else would fill the pool.
    if (pieces.firstUnready() < piece) return forget(piece)
    passed.set(piece, hashOf(slot.buffer.bytes.subarray(0, slot.filled)))
    if (piece < hashedUpTo) cache(piece, slot)
  }

  /** From now on the piece is in memory for readers only, as long as there is room. */
  function cache(piece: number, slot: Slot) {
    if (!owned.delete(piece)) return
    cached.add(piece)
    slot.buffer.cache(() => leave(piece))
    slot.buffer.release()
    const [oldest] = cached
    if (cached.size > windowPieces && oldest !== undefined) uncache(oldest)
    bell.ring()
  }

  function uncache(piece: number) {
    slots.get(piece)?.buffer.uncache()
    leave(piece)
  }

  /** The piece is no longer in memory. */
  function leave(piece: number) {
    slots.delete(piece)
    cached.delete(piece)
    if (pieces.get(piece) === 'memory') pieces.set(piece, 'passed')
  }

  /** Takes a piece out altogether: it is missing. */
  function forget(piece: number) {
    if (cached.has(piece)) uncache(piece)
    const slot = slots.get(piece)
    if (isUnproved(piece) && slot !== undefined && slot.filled > 0) options.onDropped?.(piece)
    slots.delete(piece)
    owned.delete(piece)
    passed.delete(piece)
    unproved.delete(piece)
    deliveredBy[piece] = 0
    pieces.set(piece, 'missing')
    slot?.buffer.release()
    bell.ring()
  }

  function degrade(error: unknown) {
    if (degraded) return
    degraded = true
    options.onDiskFailure(error)
    bell.ring()
  }

  /** For the hash: a disk that does not give back what was written has failed. */
  async function readWhole(piece: number, bytes: Buffer): Promise<boolean> {
    try {
      for (let count = 0; count < bytes.length;) {
        const reading = store.readDisk(bytes.subarray(count), piece * pieceBytes + count)
        const read = (await reading) ?? 0
        if (read === 0) throw new Error(`piece ${piece} is no longer in the file`)
        count += read
      }
      return true
    } catch (error) {
      degrade(error)
      // What waits in memory behind the hole would fill the pool.
      for (const waiting of [...owned]) if (waiting > piece) forget(waiting)
      if (pieces.get(piece) === 'disk') forget(piece)
      return false
    }
  }

  function slotOf(piece: number): Slot {
    const slot = slots.get(piece)
    if (slot === undefined) throw new Error(`piece ${piece} was not begun`)
    return slot
  }

  const store: PieceStore = {
    pieces,
    deliveredBy,
    get degraded() {
      return degraded
    },
    provesPieces: proof !== undefined,
    get proving() {
      return proving.size
    },
    isUnproved,
    async proveHeld(piece) {
      if (proof === undefined || !unproved.has(piece)) return
      const work =
        proving.get(piece) ??
        options
          .readBack(async (buffer) => {
            const bytes = buffer.subarray(0, pieces.lengthOf(piece))
            if (unproved.has(piece) && (await readWhole(piece, bytes)))
              await checkHeld(proof, piece, bytes)
          })
          .finally(() => proving.delete(piece))
      proving.set(piece, work)
      await work
    },
    offsetOf: (piece) => piece * pieceBytes + (slots.get(piece)?.filled ?? 0),
    async begin(piece, sender, signal) {
      pieces.set(piece, 'coming')
      try {
        while (owned.size + proving.size >= maxUnwritten) {
          signal.throwIfAborted()
          await bell.wait()
        }
        if (!slots.has(piece)) {
          const buffer = await pool.take(signal)
          slots.set(piece, { buffer, filled: 0 })
        }
        senders.set(piece, slotOf(piece).filled === 0 ? sender : undefined)
        return store.rest(piece)
      } catch (error) {
        if (!closed) pieces.set(piece, 'missing')
        throw error
      }
    },
    rest(piece) {
      const slot = slotOf(piece)
      return slot.buffer.bytes.subarray(slot.filled, pieces.lengthOf(piece))
    },
    restartPiece(piece) {
      if ((slots.get(piece)?.filled ?? 0) > 0) forget(piece)
    },
    releasePartial(piece) {
      const slot = slots.get(piece)
      if (slot === undefined || slot.filled === pieces.lengthOf(piece)) return
      if (isUnproved(piece) && slot.filled > 0) options.onDropped?.(piece)
      slots.delete(piece)
      deliveredBy[piece] = 0
      slot.buffer.release()
    },
    advance(piece, count, bit) {
      const slot = slotOf(piece)
      slot.filled += count
      deliveredBy[piece] = (deliveredBy[piece] ?? 0) | bit
      if (slot.filled < pieces.lengthOf(piece)) return false
      if (proof === undefined) complete(piece, slot)
      else prove(proof, piece, slot)
      return true
    },
    abandon(piece, keep) {
      if (pieces.get(piece) !== 'coming' || proving.has(piece)) return
      const filled = slots.get(piece)?.filled ?? 0
      if (keep && filled > 0) pieces.set(piece, 'missing')
      else forget(piece)
    },
    memoryAt(offset) {
      const piece = Math.floor(offset / pieceBytes)
      const slot = slots.get(piece)
      const start = offset - piece * pieceBytes
      if (slot === undefined || slot.filled <= start) return undefined
      return { buffer: slot.buffer, bytes: slot.buffer.bytes.subarray(start, slot.filled) }
    },
    readDisk(buffer, offset) {
      const first = Math.floor(offset / pieceBytes)
      if (sink === undefined || pieces.get(first) !== 'disk') return undefined
      let end = first + 1
      const isGood = () => pieces.get(end) === 'disk' && !unproved.has(end)
      while (end * pieceBytes < offset + buffer.length && isGood()) end++
      return sink.read(buffer.subarray(0, Math.min(end * pieceBytes, size) - offset), offset)
    },
    lose(piece, error) {
      degrade(error)
      if (piece < hashedUpTo) return false
      if (pieces.get(piece) === 'disk') forget(piece)
      return true
    },
    inMemory: (piece) => slots.get(piece)?.filled === pieces.lengthOf(piece),
    async withPiece(piece, use) {
      const slot = slots.get(piece)
      if (slot !== undefined) {
        slot.buffer.retain()
        try {
          await use(slot.buffer.bytes.subarray(0, slot.filled))
        } finally {
          slot.buffer.release()
        }
        return true
      }
      let found = false
      await options.readBack(async (buffer) => {
        const bytes = buffer.subarray(0, pieces.lengthOf(piece))
        found = await readWhole(piece, bytes)
        if (found && proof !== undefined) found = await checkHeld(proof, piece, bytes)
        if (found) await use(bytes)
      })
      return found
    },
    hashed(piece) {
      hashedUpTo = piece + 1
      const slot = slots.get(piece)
      if (degraded && slot !== undefined && passed.has(piece)) cache(piece, slot)
    },
    passedDigest: (piece) => proof?.hashOf(piece) ?? passed.get(piece),
    drop(which, differs) {
      hashedUpTo = 0
      for (let piece = 0; piece < pieces.count; piece++) {
        const state = pieces.get(piece)
        if (state === 'coming') continue
        // Without a disk nothing stays long enough to be hashed a second time.
        const lost = state === 'passed' || (degraded && state === 'memory')
        if (!lost && !which(piece)) continue
        if (differs !== undefined && state === 'disk' && !degraded) {
          stale.set(piece, differs)
          staleMask.set(piece, deliveredBy[piece] ?? 0)
        }
        forget(piece)
      }
    },
    degrade,
    async written() {
      await Promise.allSettled(proving.values())
      await Promise.allSettled(writes)
    },
    async close() {
      closed = true
      await store.written()
      for (const piece of [...cached]) uncache(piece)
      for (const slot of slots.values()) slot.buffer.release()
      slots.clear()
      owned.clear()
    },
  }
  return store
}

/** The mask of pieces that an earlier run left on disk. */
export const diskBit = 1

/** Hex digits, for comparing copies of a piece. */
export function hashOf(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex')
}

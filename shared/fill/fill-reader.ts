import { SourceError } from '../stream/blob-source.ts'
import type { Bell } from './bell.ts'
import type { Bypass } from './bypass.ts'
import type { FillOptions } from './fill-options.ts'
import type { BorrowedBytes, FillReader, FillStart } from './fills.ts'
import type { MemoryBytes, PieceStore } from './piece-store.ts'
import { pieceBytes } from './segments.ts'

/** What a reader needs of its fill. */
export interface FollowedFill {
  readonly bell: Bell
  readonly options: FillOptions
  /** Bytes that may be given out now: all but the tail, or all once the digest is proved. */
  readonly readableBytes: number
  readonly proved: boolean
  /** Whether it is where it will be found again; undefined: that is not known yet. */
  readonly isKept: boolean | undefined
  /** Why the fill ended without proof. */
  readonly failure: Error | undefined
  /** A reader waits for a piece. */
  want(wanted: WantedPiece): void
  /** Whether the front comes to this piece soon. */
  isNear(piece: number): boolean
  createBypass(): Bypass
  left(reader: OpenFillReader): void
}

export interface WantedPiece {
  readonly piece: number
  /** The first piece behind it that the reader does not want. */
  readonly end: number
  /** Who asks for it takes this place for the one that gets it for all. */
  readonly isHome: boolean
}

/** A reader as its fill sees it. */
export interface OpenFillReader extends FillReader {
  /** What it has given out is wrong, or everything ends: it fails at once. */
  cut(reason: Error): void
  /** Whether it has given out bytes of this piece that were not proved. */
  gotUnproved(piece: number): boolean
}

/** Reads in a row that must be quick before a slow reader may borrow again. */
const quickReads = 8

const pieceOf = (offset: number): number => Math.floor(offset / pieceBytes)

/** Follows `fill` in the round that `store` belongs to. */
export function createFillReader(
  fill: FollowedFill,
  store: PieceStore,
  { forEdge }: Pick<FillStart, 'forEdge'> = {},
): OpenFillReader {
  const { size } = store.pieces
  const { options } = fill
  const bell = fill.bell.branch()
  const borrowed = new Set<() => void>()
  let closed = false
  let cutBy: Error | undefined
  let expected = { start: 0, end: size - 1 }
  let bypass: Bypass | undefined
  /** Nobody gives the tail past the fill: it is waited for. */
  let hasNoBypass = false
  /** Counts down to zero while reads are quick; above zero the reader is slow. */
  let slow = 0
  let answeredAt = 0

  /** Pieces of which it gave bytes before they were proved. */
  const doubtful = new Set<number>()

  /** Where only the whole is proved, nothing is withheld from who proves it himself. */
  const provesItself = forEdge === 'home' || forEdge === 'other'
  const readableBytes = (): number => {
    const isRange = expected.start > 0 || expected.end < size - 1
    return provesItself || (store.provesPieces && isRange) ? size : fill.readableBytes
  }

  /** Bytes from this offset on that may be given though the piece may be wrong: to another edge, and never its end. */
  function unprovedFrom(offset: number): number {
    const piece = pieceOf(offset)
    if (forEdge === undefined || store.pieces.get(piece) === 'disk') return 0
    const end = piece * pieceBytes + store.pieces.lengthOf(piece) - options.withheldBytes
    return Math.max(end - offset, 0)
  }

  function memoryAt(offset: number): MemoryBytes | undefined {
    const memory = store.memoryAt(offset)
    if (memory === undefined || !store.isUnproved(pieceOf(offset))) return memory
    const bytes = memory.bytes.subarray(0, unprovedFrom(offset))
    return bytes.length === 0 ? undefined : { ...memory, bytes }
  }

  /** Bytes at this offset are being given out. */
  function gave(offset: number): void {
    if (!store.isUnproved(pieceOf(offset))) return
    for (const piece of doubtful) if (!store.isUnproved(piece)) doubtful.delete(piece)
    doubtful.add(pieceOf(offset))
  }
  const want = (offset: number): void =>
    fill.want({
      piece: pieceOf(offset),
      end: pieceOf(expected.end) + 1,
      isHome: forEdge === 'home',
    })

  function check() {
    if (closed) throw new Error('the reader is closed')
    if (cutBy !== undefined) throw cutBy
  }

  /** What is here at this offset: bytes in memory, on disk, or gone by; undefined when it has to be waited for. */
  function placeOf(offset: number): 'memory' | 'disk' | 'passed' | undefined {
    if (offset >= readableBytes()) return undefined
    if (memoryAt(offset) !== undefined) return 'memory'
    if (store.isUnproved(pieceOf(offset))) return undefined
    const state = store.pieces.get(pieceOf(offset))
    return state === 'disk' || state === 'passed' ? state : undefined
  }

  /** Only a closed range wholly inside the tail: everything else would end without proof. */
  function mayBypassTail(): boolean {
    const tail = Math.max(size - options.withheldBytes, 0)
    if (provesItself || store.provesPieces || hasNoBypass) return false
    return !fill.proved && expected.start >= tail && expected.start > 0
  }

  /** Without a disk, what lies far ahead is not kept for anybody. */
  function isOutOfReach(offset: number): boolean {
    if (!store.degraded || expected.start === 0 || offset >= readableBytes()) return false
    return !fill.isNear(pieceOf(offset))
  }

  async function readOnce(buffer: Buffer, offset: number): Promise<number | undefined> {
    const readable = buffer.subarray(0, Math.max(readableBytes() - offset, 0))
    const place = placeOf(offset)
    if (place === 'memory') {
      gave(offset)
      return memoryAt(offset)?.bytes.copy(readable) ?? 0
    }
    if (place === 'disk') {
      try {
        const count = await store.readDisk(readable, offset)
        if (count !== 0) return count
        throw new Error('the file is shorter than what was written to it')
      } catch (error) {
        if (store.lose(pieceOf(offset), error)) return undefined
        return readPassed(readable, offset, error)
      }
    }
    if (place === 'passed') return readPassed(readable, offset, undefined)
    return undefined
  }

  async function readPassed(buffer: Buffer, offset: number, error: unknown): Promise<number> {
    const digest = store.passedDigest(pieceOf(offset))
    if (digest === undefined && expected.start > 0) return readDirect(buffer, offset)
    bypass ??= fill.createBypass()
    if (digest !== undefined) return bypass.readProved(buffer, { offset, digest })
    throw new SourceError('unavailable', 'the bytes are no longer on disk', { cause: error })
  }

  async function read(buffer: Buffer, offset: number): Promise<number> {
    if (offset >= size || buffer.length === 0) return 0
    let late = false
    const deadline = setTimeout(() => {
      late = true
      if (mayBypassTail()) bell.ring()
    }, options.tailBypassMs)
    try {
      for (;;) {
        check()
        const count = await readOnce(buffer, offset)
        check()
        if (count !== undefined) return count
        if (placeOf(offset) !== undefined) continue
        if (fill.failure !== undefined) throw fill.failure
        if (late && mayBypassTail()) {
          const count = await readTail(buffer, offset)
          if (count === undefined) continue
          return count
        }
        if (isOutOfReach(offset)) {
          const count = await readPassed(buffer, offset, undefined)
          check()
          return count
        }
        want(offset)
        await bell.wait()
      }
    } finally {
      clearTimeout(deadline)
    }
  }

  /** @returns undefined when nobody gives it whose word counts */
  async function readTail(buffer: Buffer, offset: number): Promise<number | undefined> {
    try {
      return await readDirect(buffer, offset)
    } catch (error) {
      if (!(error instanceof SourceError) || closed || cutBy !== undefined) throw error
      hasNoBypass = true
      return undefined
    }
  }

  async function readDirect(buffer: Buffer, offset: number): Promise<number> {
    bypass ??= fill.createBypass()
    const count = await bypass.read(buffer, { offset, end: expected.end + 1 })
    check()
    return count
  }

  function lend(offset: number, maxBytes: number): BorrowedBytes | undefined {
    const memory = memoryAt(offset)
    const giveBack = memory?.buffer.lend()
    if (memory === undefined || giveBack === undefined) return undefined
    gave(offset)
    const length = Math.min(memory.bytes.length, readableBytes() - offset, maxBytes)
    const since = performance.now()
    const release = () => {
      if (!borrowed.delete(release)) return
      answeredAt = performance.now()
      if (answeredAt - since > options.slowReaderMs) slow = quickReads
      giveBack()
    }
    borrowed.add(release)
    return { bytes: memory.bytes.subarray(0, length), release }
  }

  const reader: OpenFillReader = {
    size,
    expect(range) {
      expected = { start: range.start, end: Math.min(range.end, size - 1) }
      want(expected.start)
    },
    isComing: (offset) =>
      !closed &&
      cutBy === undefined &&
      fill.failure === undefined &&
      placeOf(offset) === undefined &&
      !isOutOfReach(offset) &&
      !mayBypassTail(),
    async read(buffer, offset) {
      const pause = performance.now() - answeredAt
      if (slow > 0) slow = pause > options.slowReaderMs ? quickReads : slow - 1
      try {
        return await read(buffer, offset)
      } finally {
        answeredAt = performance.now()
      }
    },
    async borrow(offset, maxBytes) {
      for (;;) {
        check()
        if (slow > 0 || offset >= size) return undefined
        const place = placeOf(offset)
        if (place === 'memory') return lend(offset, maxBytes)
        if (place !== undefined || isOutOfReach(offset) || mayBypassTail()) return undefined
        if (fill.failure !== undefined) throw fill.failure
        want(offset)
        await bell.wait()
      }
    },
    async whole() {
      for (;;) {
        check()
        if (fill.isKept === true) return
        if (fill.failure !== undefined) throw fill.failure
        if (store.degraded || fill.isKept === false)
          throw new SourceError('unavailable', 'there is no disk to keep it on')
        await bell.wait()
      }
    },
    cut(reason) {
      cutBy ??= reason
      bell.ring()
    },
    gotUnproved: (piece) => doubtful.has(piece),
    async close() {
      if (closed) return
      closed = true
      for (const release of [...borrowed]) release()
      bypass?.close()
      bell.ring()
      fill.left(reader)
    },
  }
  return reader
}

import { bufferBytes } from '../stream/buffers.ts'
import type { Extent } from './sink.ts'

/** A blob is filled by pieces of this size; the last one may be shorter. */
export const pieceBytes = bufferBytes
/** The unit of requests for a distant reader, and of counting what was fetched twice: 8 MiB, aligned. */
export const segmentPieces = 8
/** The largest blob that is filled, 1 TiB: what is kept of each piece is made when a source has named the size, before any byte. */
export const maxFillBytes = 2 ** 40

/**
 * Where a piece is: `missing` nobody has asked for it · `coming` a request delivers it now or is about to ·
 * `memory` complete, not on disk (yet) · `disk` complete and written · `passed` without a disk: it was hashed
 * and given to the readers who were near, and is gone.
 */
export type PieceState = 'missing' | 'coming' | 'memory' | 'disk' | 'passed'

/** Consecutive pieces, `first` to before `end`. */
export interface Run {
  readonly first: number
  readonly end: number
}

/** Which pieces of a blob are where, and which to ask for next. Pure: no bytes, no clock. */
export interface Pieces {
  readonly size: number
  readonly count: number
  get(piece: number): PieceState
  set(piece: number, state: PieceState): void
  /** How many are in this state. */
  counted(state: PieceState): number
  /** Bytes of this piece. */
  lengthOf(piece: number): number
  /** The lowest run of missing pieces; undefined when none is missing. */
  missingRun(): Run | undefined
  /** What to ask for a distant reader: from its piece to the end of the segment or to what is not missing. */
  distantRun(piece: number): Run
  /** The lowest piece that is neither in memory nor on disk nor passed; `count` when there is none. */
  firstUnready(): number
  /** The bytes on disk, in order, adjacent ones joined. */
  onDisk(): readonly Extent[]
}

/** All pieces of a blob of `size` bytes, missing. */
export function createPieces(size: number): Pieces {
  const count = Math.ceil(size / pieceBytes)
  const states = new Array<PieceState>(count).fill('missing')
  const counts = { missing: count, coming: 0, memory: 0, disk: 0, passed: 0 }
  const stateOf = (piece: number): PieceState => states[piece] ?? 'missing'
  const endOfMissing = (first: number, limit: number) => {
    let end = first
    while (end < limit && stateOf(end) === 'missing') end++
    return end
  }
  return {
    size,
    count,
    get: stateOf,
    set(piece, state) {
      counts[stateOf(piece)]--
      counts[state]++
      states[piece] = state
    },
    counted: (state) => counts[state],
    lengthOf: (piece) => Math.min(pieceBytes, size - piece * pieceBytes),
    missingRun() {
      const first = states.indexOf('missing')
      return first < 0 ? undefined : { first, end: endOfMissing(first, count) }
    },
    distantRun(piece) {
      const segmentEnd = (Math.floor(piece / segmentPieces) + 1) * segmentPieces
      return { first: piece, end: endOfMissing(piece, Math.min(segmentEnd, count)) }
    },
    firstUnready() {
      const index = states.findIndex((state) => state === 'missing' || state === 'coming')
      return index < 0 ? count : index
    },
    onDisk() {
      const extents: Extent[] = []
      for (let piece = 0; piece < count; piece++) {
        if (stateOf(piece) !== 'disk') continue
        const first = piece
        while (stateOf(piece + 1) === 'disk') piece++
        extents.push({ start: first * pieceBytes, end: Math.min((piece + 1) * pieceBytes, size) })
      }
      return extents
    },
  }
}

/** The pieces that lie wholly inside the extents: half a piece is not worth remembering. */
export function wholePieces(extents: readonly Extent[], size: number): number[] {
  const count = Math.ceil(size / pieceBytes)
  return extents.flatMap(({ start, end }) => {
    const first = Math.ceil(Math.max(start, 0) / pieceBytes)
    const last = end >= size ? count : Math.floor(end / pieceBytes)
    return Array.from({ length: Math.max(last - first, 0) }, (_, index) => first + index)
  })
}

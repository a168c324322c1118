import { SourceError } from '../stream/blob-source.ts'
import type { BufferPool } from '../stream/buffers.ts'
import type { PieceStore } from './piece-store.ts'
import { pieceBytes, type Run } from './segments.ts'
import type { RankedSource } from './source-order.ts'
import type { Transfer } from './transfer.ts'

/** One running request and the pieces that it brings. */
export interface Stream {
  /** The piece that it receives now. */
  piece: number
  /** The first piece that it does not bring. */
  end: number
  /** Bytes that it brought from its source. */
  received: number
  /** The request at the front, which claims each piece when its turn comes. */
  readonly atFront: boolean
  readonly controller: AbortController
}

export interface Receiving {
  readonly source: RankedSource
  readonly transfer: Transfer
  readonly stream: Stream
  readonly signal: AbortSignal
  /** Told of every arrival, and whether it completed a piece. */
  readonly onBytes: (count: number, complete: boolean) => void
}

export function createStream({ first, end }: Run, atFront: boolean): Stream {
  return { piece: first, end, received: 0, atFront, controller: new AbortController() }
}

/**
 * A source that ignored the range sends everything: the front throws away what it has already.
 * @throws SourceError for anybody else, and when the body starts behind what was asked
 */
export async function skipTo(offset: number, receiving: Receiving, pool: BufferPool) {
  const { source, transfer, stream, signal, onBytes } = receiving
  if (transfer.offset === offset) return
  source.rangeless = true
  if (transfer.offset > offset || !stream.atFront)
    throw new SourceError('broken', `${source.blob.name} answers another range`)
  const buffer = await pool.take(signal)
  try {
    for (let left = offset - transfer.offset; left > 0;) {
      const count = await transfer.read(buffer.bytes.subarray(0, Math.min(left, pieceBytes)))
      if (count === 0) throw endsEarly(source)
      left -= count
      onBytes(count, false)
    }
  } finally {
    buffer.release()
  }
}

/** Puts the stream's pieces into the store, up to its end or a piece that another request has. @throws SourceError */
export async function receivePieces(receiving: Receiving, store: PieceStore): Promise<void> {
  const { stream } = receiving
  const first = stream.piece
  for (; stream.piece < stream.end; stream.piece++) {
    const { piece, atFront } = stream
    if (atFront && store.pieces.get(piece) !== 'missing') return
    // What another request left of a later piece cannot be continued from here.
    if (piece !== first) store.restartPiece(piece)
    try {
      await receivePiece(piece, receiving, store)
    } catch (error) {
      // A distant request keeps its pieces claimed: its next source goes on at the same byte.
      if (atFront) store.abandon(piece, true)
      throw error
    }
  }
}

async function receivePiece(
  piece: number,
  { source, transfer, stream, signal, onBytes }: Receiving,
  store: PieceStore,
): Promise<void> {
  let rest = await store.begin(piece, source.blob.name, signal)
  for (;;) {
    const count = await transfer.read(rest)
    if (count === 0) throw endsEarly(source)
    stream.received += count
    const complete = store.advance(piece, count, source.bit)
    onBytes(count, complete)
    if (complete) return
    rest = store.rest(piece)
  }
}

/** Trouble on the way rather than a lie: what has come may well be right. */
function endsEarly(source: RankedSource): SourceError {
  return new SourceError('unavailable', `${source.blob.name} ends early`)
}

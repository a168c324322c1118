import { isDigest, type Digest } from '../oci/digest.ts'

/** Bytes of a piece; the last one of a blob may be shorter. Part of the format. */
export const listedPieceBytes = 1024 * 1024

/** What each piece of a blob hashes to, so that each can be proved alone. */
export interface PieceList {
  /** Of the blob. */
  readonly digest: Digest
  /** Of the blob, in bytes. */
  readonly size: number
  /** The sha256 of a piece: 32 bytes. */
  hashOf(piece: number): Buffer
}

/** It is not a piece list, or not that of this blob. */
export class PieceListError extends Error {
  override readonly name = 'PieceListError'
}

/** The first line; another form of the list has another one. */
const firstLine = 'outport-pieces/1'
const hashBytes = 32
/** Of the three lines before the hashes. */
const maxHeadBytes = 256

/** How many pieces a blob has. */
export function listedPieces(size: number): number {
  return Math.ceil(size / listedPieceBytes)
}

/** The longest list of a blob of this size, in bytes. */
export function maxPieceListBytes(size: number): number {
  return maxHeadBytes + listedPieces(size) * hashBytes
}

/**
 * Writes the list of a blob: three lines of text, then the hashes in order. The same blob has the same list.
 * @throws PieceListError unless there are as many hashes as the blob has pieces
 */
export function formatPieceList(
  { digest, size }: Pick<PieceList, 'digest' | 'size'>,
  hashes: readonly Buffer[],
): Buffer {
  const isWhole = hashes.every(({ length }) => length === hashBytes)
  if (!isWhole || hashes.length !== listedPieces(size))
    throw new PieceListError(`a blob of ${size} bytes has other pieces than these`)
  return Buffer.concat([Buffer.from(`${firstLine}\n${digest}\n${size}\n`), ...hashes])
}

/**
 * Reads the list of this blob.
 * @throws PieceListError when it is of another blob, or no list at all
 */
export function parsePieceList(bytes: Buffer, digest: Digest): PieceList {
  const { lines, end } = headOf(bytes)
  const [first, second, third] = lines
  if (first !== firstLine) throw new PieceListError('this is no list of pieces')
  if (second === undefined || !isDigest(second) || second !== digest)
    throw new PieceListError(`this list of pieces is not of ${digest}`)
  const size = sizeOf(third)
  const hashes = bytes.subarray(end)
  if (size === undefined || hashes.length !== listedPieces(size) * hashBytes)
    throw new PieceListError('this list of pieces has another length than it says')
  return {
    digest,
    size,
    hashOf: (piece) => hashes.subarray(piece * hashBytes, (piece + 1) * hashBytes),
  }
}

/** The lines before the hashes, and where these begin. */
function headOf(bytes: Buffer): { readonly lines: readonly string[]; readonly end: number } {
  const head = bytes.subarray(0, maxHeadBytes)
  const lines: string[] = []
  let end = 0
  while (lines.length < 3) {
    const next = head.indexOf('\n', end)
    if (next === -1) break
    lines.push(head.toString('latin1', end, next))
    end = next + 1
  }
  return { lines, end }
}

function sizeOf(text: string | undefined): number | undefined {
  if (text === undefined || !/^[1-9]\d{0,15}$/.test(text)) return undefined
  const size = Number(text)
  return Number.isSafeInteger(size) ? size : undefined
}

import { createHash } from 'node:crypto'
import { digestOf } from '../../shared/oci/digest.ts'
import { formatPieceList, listedPieceBytes } from '../../shared/replication/piece-list.ts'

/** The list of a blob's pieces, as the primary makes it. @param digest what it says that the blob is */
export function pieceListOf(blob: Buffer, digest = digestOf(blob)): Buffer {
  const hashes = Array.from({ length: Math.ceil(blob.length / listedPieceBytes) }, (_, piece) =>
    createHash('sha256')
      .update(blob.subarray(piece * listedPieceBytes, (piece + 1) * listedPieceBytes))
      .digest(),
  )
  return formatPieceList({ digest, size: blob.length }, hashes)
}

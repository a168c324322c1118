import type { PieceList } from '../replication/piece-list.ts'
import type { Hasher } from '../stream/hasher.ts'

/** Proves each piece of a blob alone. */
export interface PieceProof {
  /** Of the blob, in bytes. */
  readonly size: number
  /** The sha256 that a piece must have, in hex digits. */
  hashOf(piece: number): string
  /** Whether these are a piece's bytes, which must not change meanwhile. */
  check(piece: number, bytes: Buffer): Promise<boolean>
}

/** @param hasher another one than hashes the whole: each piece is hashed twice, and by two threads at once */
export function createPieceProof(list: PieceList, hasher: Hasher): PieceProof {
  const rightOf = (piece: number): string => list.hashOf(piece).toString('hex')
  return {
    size: list.size,
    hashOf: rightOf,
    async check(piece, bytes) {
      const hash = hasher.start('sha256', list.size)
      try {
        await hash.update(bytes)
        return (await hash.digest()).endsWith(rightOf(piece))
      } catch (error) {
        hash.drop()
        throw error
      }
    },
  }
}

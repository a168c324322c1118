import { createPieceProof, type PieceProof } from '../../shared/fill/piece-proof.ts'
import { createLru } from '../../shared/memory/lru.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { parsePieceList } from '../../shared/replication/piece-list.ts'
import { SourceError } from '../../shared/stream/blob-source.ts'
import type { Hasher } from '../../shared/stream/hasher.ts'
import type { Origin } from '../cache/cache-index.ts'

/** By what the pieces of a blob are proved, where the primary's log names a list of them. */
export interface PieceLists {
  /** Whether the log names a list of its pieces that is believed. */
  isListed(origin: Origin, digest: Digest): boolean
  /**
   * @param read the list, which is a blob of the same repository
   * @returns undefined without a list, or when it does not come soon: then the whole alone is proved
   */
  proofOf(
    origin: Origin,
    digest: Digest,
    read: (list: Digest) => Promise<Buffer>,
  ): Promise<PieceProof | undefined>
  /** The list of this blob is wrong: nothing is proved by it any more. */
  distrust(digest: Digest): void
}

export interface PieceListsDeps {
  /** What the log says. */
  readonly listOf: (origin: Origin, digest: Digest) => Digest | undefined
  /** Another one than hashes whole blobs. */
  readonly hasher: Hasher
  /** How long a blob waits for its list, in milliseconds. */
  readonly waitMs: number
  /** Told why a list is of no use. */
  readonly onUseless: (digest: Digest, error: unknown) => void
}

export function createPieceLists({
  listOf,
  hasher,
  waitMs,
  onUseless,
}: PieceListsDeps): PieceLists {
  const distrusted = createLru<Digest, true>({ max: 10_000 })
  const late = new SourceError('unavailable', 'it does not come')
  const believed = (origin: Origin, digest: Digest): Digest | undefined =>
    distrusted.has(digest) ? undefined : listOf(origin, digest)
  return {
    isListed: (origin, digest) => believed(origin, digest) !== undefined,
    async proofOf(origin, digest, read) {
      const list = believed(origin, digest)
      if (list === undefined) return undefined
      const lateness = Promise.withResolvers<never>()
      const timer = setTimeout(() => lateness.reject(late), waitMs)
      try {
        const bytes = await Promise.race([read(list), lateness.promise])
        return createPieceProof(parsePieceList(bytes, digest), hasher)
      } catch (error) {
        // Whatever it is, the blob itself may well come.
        onUseless(digest, error)
        return undefined
      } finally {
        clearTimeout(timer)
      }
    },
    distrust: (digest) => void distrusted.set(digest, true),
  }
}

import { pieceBytes, segmentPieces } from '../../shared/fill/segments.ts'
import type { Spread } from '../../shared/fill/spread.ts'
import type { BlobSource } from '../../shared/stream/blob-source.ts'

/** Parts that each edge is the home of, unless the blob is too small or too large for that. */
const partsOfEach = 8
/** Edges that are asked for a part before the parent and the upstream. */
const asked = 3

/**
 * Shares a blob out among the edges that fetch it together: by turns, so that each is the home of as many parts as any
 * other. The parts of one that is gone go to all others by turns.
 * @param homes as all of them order them; undefined: this one itself, or one that is not asked
 */
export function createSpread(homes: readonly (BlobSource | undefined)[], size: number): Spread {
  const count = homes.length
  const pieces = Math.ceil(size / pieceBytes)
  const fair = Math.floor(pieces / (count * partsOfEach))
  return {
    partPieces: Math.min(Math.max(fair, 1), segmentPieces),
    sourcesOf(part) {
      const round = Math.floor(part / count)
      const ranked = new Set([part % count])
      for (
        let next = part + 1 + (round % Math.max(count - 1, 1));
        ranked.size < Math.min(asked, count);
        next++
      )
        ranked.add(next % count)
      return beforeMine([...ranked].map((index) => homes[index]))
    },
  }
}

/** Parts of a blob of which each piece has its home, unless it is too small or too large for that. */
const parts = 64

/**
 * Asks for each part of a blob whoever is its home in the site. How it is parted hangs on its size alone, so that all
 * agree who that is though they know different members.
 * @param rank who is asked for what begins with this piece, its home first; undefined: this one itself
 */
export function createHomeSpread(
  rank: (piece: number) => readonly (BlobSource | undefined)[],
  size: number,
): Spread {
  const pieces = Math.ceil(size / pieceBytes)
  const partPieces = Math.min(Math.max(Math.floor(pieces / parts), 1), segmentPieces)
  // All members are ranked for it, and it is asked again and again.
  const known = new Map<number, readonly BlobSource[]>()
  return {
    partPieces,
    sourcesOf(part) {
      const sources = known.get(part) ?? beforeMine(rank(part * partPieces).slice(0, asked))
      known.set(part, sources)
      return sources
    },
  }
}

/** In this one's own turn it asks upwards, and those behind it ask it. */
function beforeMine(ranked: readonly (BlobSource | undefined)[]): readonly BlobSource[] {
  const found: BlobSource[] = []
  for (const home of ranked) {
    if (home === undefined) break
    found.push(home)
  }
  return found
}

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
      const found: BlobSource[] = []
      for (const index of ranked) {
        const home = homes[index]
        // This one's own turn: it asks upwards, and those behind it ask it.
        if (home === undefined) break
        found.push(home)
      }
      return found
    },
  }
}

import type { FeedStart } from '../store/feed-starts.ts'

/** So often in so long do two starts of one identity take each other's place before that is no accident. */
const cloneSwaps = 4
const cloneWindowMs = 600_000

export interface CloneWatchDeps {
  /** Milliseconds of a clock that never jumps. */
  readonly now: () => number
  /** Told of an identity that two use by turns, where the last turn was here. */
  readonly onClone: (edgeId: string, addresses: readonly string[]) => void
}

/**
 * Tells of an identity whose two starts keep taking each other's place.
 * @returns what takes each start; `where`: which primary feeds it
 */
export function createCloneWatch({ now, onClone }: CloneWatchDeps) {
  interface Seen extends Omit<FeedStart, 'edgeId'> {
    readonly at: number
  }
  const seen = new Map<string, Seen[]>()
  return ({ edgeId, instance, address }: FeedStart, where: 'here' | 'elsewhere'): void => {
    const time = now()
    const starts = (seen.get(edgeId) ?? []).filter(({ at }) => time - at < cloneWindowMs)
    seen.set(edgeId, starts)
    const last = starts.at(-1)
    if (last?.instance === instance) return
    starts.push({ instance, address, at: time })
    // One that starts again and again has a new instance each time; a clone's come back.
    const isBack = starts.slice(0, -1).some((start) => start.instance === instance)
    if (!isBack || starts.length < cloneSwaps) return
    seen.delete(edgeId)
    // The other primary has seen as much.
    if (where === 'here') onClone(edgeId, [...new Set(starts.map((start) => start.address))])
  }
}

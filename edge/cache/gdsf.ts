import type { Digest } from '../../shared/oci/digest.ts'

/**
 * Which blob goes when there is no room: Greedy-Dual-Size-Frequency with the square root of the size.
 * Each blob has the priority `H = L + uses × cost / √bytes`, and the lowest goes. `L` is the priority of the last one that
 * went, so that what was used often, long ago, does not stay for ever.
 * [Cherkasova, HPL-98-69R1, 1998; the exponent: a replay of the IBM registry trace, where at 5 % of the footprint it finds
 * a fifth of LRU's missed objects for a point of its bytes]
 */
export interface Gdsf {
  /** A blob is here now. One that was given up lately begins with the uses it had. @returns when it was given up, if it was */
  add(digest: Digest, blob: { readonly bytes: number; readonly now: number }): number | undefined
  /** It was asked for; nothing happens when it is not here. */
  use(digest: Digest, now: number): void
  /** What it costs to have it again, as a multiple of what is usual. */
  setCost(digest: Digest, cost: number): void
  /** It may be that nobody asks for it again: it goes next, unless somebody does. */
  demote(digest: Digest): void
  /** It went for another reason: nothing of it is remembered. */
  remove(digest: Digest): void
  /**
   * Gives up the blob of the lowest priority, and remembers its uses for when it comes back.
   * @param isKept whether a blob must stay for now
   */
  giveUp(now: number, isKept: (digest: Digest) => boolean): GivenUp | undefined
  /** What a restart should know of a blob. */
  recordOf(digest: Digest): UseRecord | undefined
  /** Takes it out as it is, for `put` of another order of the same clock. */
  take(digest: Digest): HeldBlob | undefined
  put(blob: HeldBlob): void
  /** Blobs that are here since before the start, before any is added; one without a record is the first to go. */
  restore(blobs: Iterable<HeldBlob>): void
  /** Whether it is here. */
  has(digest: Digest): boolean
  /** The priority of the one that would go; undefined when there is none. */
  readonly lowest: number | undefined
  readonly count: number
  /** Of all that are here. */
  readonly bytes: number
}

/** What several orders of going share, so that the priorities of their blobs can be compared. */
export interface GdsfClock {
  /** The priority of the last one that went; undefined before the first. */
  age: number | undefined
}

export interface GivenUp {
  readonly digest: Digest
  readonly bytes: number
  /** When it was last asked for, on the clock of `now`; 0 when that is not known. */
  readonly lastUse: number
}

/** Of a blob, across restarts. */
export interface UseRecord {
  readonly uses: number
  readonly lastUse: number
  readonly cost: number
  readonly priority: number
}

export interface HeldBlob {
  readonly digest: Digest
  readonly bytes: number
  readonly record: UseRecord | undefined
  /** Whose share of the cache it counts in. */
  readonly owner?: string | undefined
}

interface Entry {
  readonly digest: Digest
  readonly bytes: number
  uses: number
  cost: number
  lastUse: number
  priority: number
  /** The priority by which it stands in the heap: never above its own, which a use raises without moving it. */
  queued: number
  /** Where it stands in the heap. */
  place: number
}

interface Ghost {
  readonly uses: number
  readonly cost: number
  readonly at: number
}

/** Blobs that went are remembered as long as so many others have gone, or as are here if these are more. */
const minimumGhosts = 1024

export function createGdsf(clock: GdsfClock = { age: undefined }): Gdsf {
  const entries = new Map<Digest, Entry>()
  const heap: Entry[] = []
  // In the order of going: the first is the oldest.
  const ghosts = new Map<Digest, Ghost>()
  let bytesHere = 0

  const put = (entry: Entry, place: number): void => {
    heap[place] = entry
    entry.place = place
  }
  const siftUp = (entry: Entry): void => {
    let { place } = entry
    while (place > 0) {
      const above = (place - 1) >> 1
      const parent = heap[above]
      if (parent === undefined || parent.queued <= entry.queued) break
      put(parent, place)
      place = above
    }
    put(entry, place)
  }
  const siftDown = (entry: Entry): void => {
    let { place } = entry
    for (;;) {
      const [left, right] = [heap[2 * place + 1], heap[2 * place + 2]]
      const child =
        right !== undefined && left !== undefined && right.queued < left.queued ? right : left
      if (child === undefined || child.queued >= entry.queued) break
      const below = child.place
      put(child, place)
      place = below
    }
    put(entry, place)
  }
  const takeOut = (entry: Entry): void => {
    const last = heap.pop()
    if (last === undefined || last === entry) return
    put(last, entry.place)
    siftUp(last)
    siftDown(last)
  }
  const enqueue = (entry: Entry): void => {
    entry.place = heap.length
    heap.push(entry)
    siftUp(entry)
  }
  const insert = (entry: Entry): void => {
    entries.set(entry.digest, entry)
    bytesHere += entry.bytes
    enqueue(entry)
  }
  const remove = (digest: Digest): void => {
    const entry = entries.get(digest)
    if (entry === undefined) return
    entries.delete(digest)
    bytesHere -= entry.bytes
    takeOut(entry)
  }
  const priorityOf = ({ uses, cost, bytes }: Pick<Entry, 'uses' | 'cost' | 'bytes'>): number =>
    (clock.age ?? 0) + (uses * cost) / Math.sqrt(Math.max(bytes, 1))
  /** Moves it to where its priority belongs. */
  const settle = (entry: Entry): void => {
    const before = entry.queued
    entry.queued = entry.priority
    if (entry.queued < before) siftUp(entry)
    else siftDown(entry)
  }
  /** Uses raise a priority without moving the entry: the top may not belong there any more. */
  const settleTop = (): void => {
    for (let top = heap[0]; top !== undefined && top.queued < top.priority; top = heap[0])
      settle(top)
  }
  const recordOf = (digest: Digest): UseRecord | undefined => {
    const entry = entries.get(digest)
    if (entry === undefined) return undefined
    const { uses, lastUse, cost, priority } = entry
    return { uses, lastUse, cost, priority }
  }
  const putBack = ({ digest, bytes, record }: HeldBlob): void => {
    const known = record ?? { uses: 0, lastUse: 0, cost: 1, priority: 0 }
    insert({ digest, bytes, ...known, queued: known.priority, place: -1 })
  }
  const lay = (digest: Digest, ghost: Ghost): void => {
    ghosts.set(digest, ghost)
    const most = Math.max(minimumGhosts, entries.size)
    for (const oldest of ghosts.keys()) {
      if (ghosts.size <= most) return
      ghosts.delete(oldest)
    }
  }

  return {
    get count() {
      return entries.size
    },
    get bytes() {
      return bytesHere
    },
    has: (digest) => entries.has(digest),
    get lowest() {
      settleTop()
      return heap[0]?.priority
    },
    add(digest, { bytes, now }) {
      const ghost = ghosts.get(digest)
      ghosts.delete(digest)
      const cost = entries.get(digest)?.cost ?? ghost?.cost ?? 1
      const uses = (entries.get(digest)?.uses ?? ghost?.uses ?? 0) + 1
      remove(digest)
      const priority = priorityOf({ uses, cost, bytes })
      insert({ digest, bytes, uses, cost, lastUse: now, priority, queued: priority, place: -1 })
      return ghost?.at
    },
    use(digest, now) {
      const entry = entries.get(digest)
      if (entry === undefined) return
      entry.uses++
      entry.lastUse = now
      // It moves when it comes to the top of the heap: a hit must cost nothing.
      entry.priority = priorityOf(entry)
    },
    setCost(digest, cost) {
      const entry = entries.get(digest)
      if (entry === undefined) return
      entry.cost = cost
      entry.priority = priorityOf(entry)
      settle(entry)
    },
    demote(digest) {
      const entry = entries.get(digest)
      if (entry === undefined) return
      entry.priority = clock.age ?? 0
      settle(entry)
    },
    remove,
    giveUp(now, isKept) {
      const kept: Entry[] = []
      try {
        for (;;) {
          settleTop()
          const [top] = heap
          if (top === undefined) return undefined
          if (isKept(top.digest)) {
            takeOut(top)
            kept.push(top)
          } else {
            const { digest, bytes, uses, cost, lastUse } = top
            clock.age = Math.max(clock.age ?? 0, top.priority)
            remove(digest)
            lay(digest, { uses, cost, at: now })
            return { digest, bytes, lastUse }
          }
        }
      } finally {
        for (const entry of kept) enqueue(entry)
      }
    },
    recordOf,
    take(digest) {
      const entry = entries.get(digest)
      if (entry === undefined) return undefined
      const record = recordOf(digest)
      remove(digest)
      return { digest, bytes: entry.bytes, record }
    },
    put: putBack,
    restore(blobs) {
      const all = [...blobs]
      // Nothing that is here stands below the last one that went.
      for (const { record } of all)
        if (record !== undefined) clock.age = Math.min(clock.age ?? Infinity, record.priority)
      for (const blob of all) putBack(blob)
    },
  }
}

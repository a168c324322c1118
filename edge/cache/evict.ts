import type { Digest } from '../../shared/oci/digest.ts'
import type { HeldBlob, UseRecord } from './gdsf.ts'
import { createSharedGdsf, pinnedPart, type Share } from './shares.ts'

/** Keeps the cache within its size: what is held, what is on its way, and who goes for it. */
export interface Evictor {
  /** Bytes that the cache may take now; as of the last look at the disk. */
  readonly capacityBytes: number
  /** Bytes of fills that are running. */
  readonly reservedBytes: number
  /** A blob is held now. @param blob `owner`: whose share it counts in */
  added(digest: Digest, blob: { readonly bytes: number; readonly owner: string | undefined }): void
  /** How long it took to have a held blob: what is dear to fetch again stays longer. */
  fetched(digest: Digest, blob: { readonly bytes: number; readonly ms: number }): void
  /** A held blob was asked for. */
  used(digest: Digest): void
  /** A blob went for another reason than room. */
  removed(digest: Digest): void
  /** It may be that nobody asks for it again: it goes next, unless somebody does. */
  demote(digest: Digest): void
  /** Which blobs stay, whoever needs room, from now on; as long as they take no more than their part of the capacity. */
  setPins(pins: ReadonlySet<Digest>): void
  /** Held bytes of them. */
  readonly pinnedBytes: number
  /** Bytes that they may take. */
  readonly pinnableBytes: number
  /**
   * Resolves when all that was held before the start is known. Until then nothing goes, and sums are of what is known
   * so far: a start does not wait for it, because it takes as long as much is held.
   */
  readonly restored: Promise<void>
  /**
   * Makes room for a blob that is to be stored.
   * @returns what gives the room back, once the blob is held or given up
   * @throws CacheFullError when nothing that is held may go for it
   */
  reserve(bytes: number): Promise<() => void>
  /** Resolves when nothing is being evicted and all uses are recorded. */
  close(): Promise<void>
}

/** There is no room, and none can be made: the blob is passed on without being kept. */
export class CacheFullError extends Error {
  constructor(bytes: number) {
    super(`there is no room for ${bytes} bytes in the cache`)
  }
}

export interface EvictorDeps {
  /** What is held since before the start, as it is read. */
  readonly held: AsyncIterable<readonly HeldBlob[]>
  readonly heldBytes: () => number
  /** Bytes that the cache may take, by a look at the disk. */
  readonly capacity: () => Promise<number>
  /** Removes something that is less worth than any blob. @returns whether there was anything */
  readonly removeRest: () => Promise<boolean>
  /** Removes a blob unless somebody reads it. @returns whether it went */
  readonly remove: (digest: Digest) => Promise<boolean>
  /** Whether somebody reads it. */
  readonly isRead: (digest: Digest) => boolean
  /** Whose share a held blob counts in. */
  readonly ownerOf: (digest: Digest) => string | undefined
  /** Told when a blob could not be removed. */
  readonly onFailed: (error: unknown) => void
  readonly saveUses: (records: ReadonlyMap<Digest, UseRecord>) => Promise<void>
  readonly now: () => number
  /** What some owners may take at most. */
  readonly shares?: readonly Share[] | undefined
  readonly observer?: EvictionObserver | undefined
}

/** For the metrics. */
export interface EvictionObserver {
  /** @param idleMs since it was last asked for, if that is known */
  evicted(bytes: number, idleMs: number | undefined): void
  /** A blob is back. @param afterMs since it was evicted */
  returned(afterMs: number): void
}

/** Shares of the capacity: above the high one blobs go until the low one is reached. */
const watermarks = { high: 0.92, low: 0.85 }
/** What comes at this rate or faster, as from a primary nearby, costs 1; slower, as from a hub that limits, in proportion. */
const usualBytesPerMs = 50 * 1024
const dearest = 8
/** A shorter fetch tells of the way there and back alone. */
const measuredFromBytes = 256 * 1024
/** How long a client's first byte may wait for others to go, or a start's first ones for what is held to be known. */
const roomWithinMs = 1000
/** How often uses are recorded (a crash forgets those since), and how old the last look at the disk may be. */
const turnMs = 5000

/** The caller closes it before the index. */
export async function createEvictor(deps: EvictorDeps): Promise<Evictor> {
  const { heldBytes, remove, isRead, now, observer } = deps
  const gdsf = createSharedGdsf(deps.shares ?? [])
  /** What happens before all that is held is known: the order of going takes it after that. */
  let postponed: (() => void)[] | undefined = []
  const unsaved = new Set<Digest>()
  const startedAt = performance.now()
  let capacityBytes = await deps.capacity()
  let lookedAt = now()
  let reservedBytes = 0
  let running: Promise<void> | undefined
  let stepping: Promise<unknown> = Promise.resolve()
  let sharing: Promise<void> | undefined
  let saving: Promise<void> = Promise.resolve()
  let closed = false

  const change = (order: () => void): void => {
    if (postponed === undefined) order()
    else postponed.push(order)
  }
  const save = (): void => {
    if (unsaved.size === 0 || postponed !== undefined) return
    const records = new Map<Digest, UseRecord>()
    for (const digest of unsaved) {
      const record = gdsf.recordOf(digest)
      if (record !== undefined) records.set(digest, record)
    }
    unsaved.clear()
    // What a disk that fails forgets costs a worse choice later.
    saving = saving.then(() => deps.saveUses(records)).catch(() => undefined)
  }

  const taken = (): number => heldBytes() + reservedBytes
  const look = async (): Promise<void> => {
    if (Math.abs(now() - lookedAt) < turnMs) return
    lookedAt = now()
    capacityBytes = await deps.capacity().catch(() => capacityBytes)
  }
  const evictOne = async (only: 'shares' | undefined): Promise<boolean> => {
    // What unfinished fills left is nobody's: it goes for the room of all.
    if (only === undefined && (await deps.removeRest())) return true
    const given = gdsf.giveUp(now(), isRead, { capacityBytes, only })
    if (given === undefined) return false
    let gone = false
    try {
      gone = await remove(given.digest)
    } finally {
      // One whose removal failed is still there, and another time it may go.
      if (!gone) {
        const { digest, bytes } = given
        gdsf.add(digest, { bytes, owner: deps.ownerOf(digest), now: now() })
      }
    }
    if (!gone) return true
    unsaved.delete(given.digest)
    observer?.evicted(given.bytes, given.lastUse === 0 ? undefined : now() - given.lastUse)
    return true
  }
  // One at a time, whoever asks, and only if it still has to be: two would each count what the other removes.
  const step = (isNeeded: () => boolean, only?: 'shares'): Promise<boolean> => {
    const mine = stepping.then(() => (isNeeded() ? evictOne(only) : true))
    stepping = mine.catch(() => undefined)
    return mine
  }
  const evictDownTo = async (bytes: () => number, until = Infinity): Promise<void> => {
    if (postponed !== undefined) await untilRestored(Math.min(until, startedAt + roomWithinMs))
    const isNeeded = (): boolean => !closed && postponed === undefined && taken() > bytes()
    while (isNeeded() && performance.now() < until && (await step(isNeeded)));
  }
  const run = (): Promise<void> => {
    running ??= evictDownTo(() => watermarks.low * capacityBytes).finally(() => {
      running = undefined
    })
    return running
  }
  /** Who is above its share loses by itself, but for what is being read. */
  const keepShares = (): Promise<void> => {
    const isOver = (): boolean => !closed && gdsf.isOver(capacityBytes)
    const evict = async (): Promise<void> => {
      while (isOver() && (await step(isOver, 'shares')));
    }
    sharing ??= evict().finally(() => {
      sharing = undefined
    })
    return sharing
  }
  const check = async (): Promise<void> => {
    await look()
    if (taken() > watermarks.high * capacityBytes) await run()
    if (gdsf.isOver(capacityBytes)) await keepShares()
  }
  const checkInBackground = (): void => {
    if (postponed === undefined) check().catch(deps.onFailed)
  }

  const restore = async (): Promise<void> => {
    try {
      for await (const blobs of deps.held) {
        if (closed) return
        gdsf.restore(blobs)
      }
    } catch (error) {
      // What was not read is never given up by itself; whoever asks for it finds it as before.
      deps.onFailed(error)
    }
    const changes = postponed ?? []
    postponed = undefined
    for (const order of changes) order()
    lookedAt = -Infinity
    checkInBackground()
  }
  const restored = restore()
  const untilRestored = async (until: number): Promise<void> => {
    const late = Promise.withResolvers<void>()
    const timer = setTimeout(late.resolve, Math.max(0, until - performance.now()))
    await Promise.race([restored, late.promise])
    clearTimeout(timer)
  }

  const timer = setInterval(() => {
    save()
    // Others may have filled the disk.
    checkInBackground()
  }, turnMs).unref()

  return {
    get capacityBytes() {
      return capacityBytes
    },
    get reservedBytes() {
      return reservedBytes
    },
    restored,
    added(digest, { bytes, owner }) {
      const at = now()
      change(() => {
        const goneAt = gdsf.add(digest, { bytes, owner, now: at })
        if (goneAt !== undefined) observer?.returned(at - goneAt)
      })
      unsaved.add(digest)
      checkInBackground()
    },
    fetched(digest, { bytes, ms }) {
      if (bytes < measuredFromBytes) return
      const slowness = (usualBytesPerMs * Math.max(ms, 1)) / bytes
      change(() => gdsf.setCost(digest, Math.min(Math.max(slowness, 1), dearest)))
      unsaved.add(digest)
    },
    used(digest) {
      const at = now()
      change(() => gdsf.use(digest, at))
      unsaved.add(digest)
    },
    removed(digest) {
      change(() => gdsf.remove(digest))
      unsaved.delete(digest)
    },
    demote(digest) {
      change(() => gdsf.demote(digest))
      unsaved.add(digest)
    },
    setPins(pins) {
      change(() => gdsf.setPins(pins, deps.ownerOf))
      checkInBackground()
    },
    get pinnedBytes() {
      return gdsf.pinnedBytes
    },
    get pinnableBytes() {
      return pinnedPart * capacityBytes
    },
    async reserve(bytes) {
      reservedBytes += bytes
      let reserved = true
      const release = (): void => {
        if (reserved) reservedBytes -= bytes
        reserved = false
      }
      try {
        // Whatever went, those that are on their way would not fit with it: nothing has to go.
        const fits = bytes <= watermarks.low * capacityBytes && reservedBytes <= capacityBytes
        if (!fits) throw new CacheFullError(bytes)
        await look()
        checkInBackground()
        // A client waits: this one needs room, not all that the low mark asks for, and it needs it soon.
        await evictDownTo(() => capacityBytes, performance.now() + roomWithinMs)
        if (taken() > capacityBytes) throw new CacheFullError(bytes)
        return release
      } catch (error) {
        release()
        throw error
      }
    },
    async close() {
      closed = true
      clearInterval(timer)
      await Promise.allSettled([restored, running, sharing, stepping])
      save()
      await saving
    },
  }
}

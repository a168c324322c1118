import type { Digest } from '../oci/digest.ts'
import type { BlobHandle } from '../stream/blob-handle.ts'
import { SourceError, type BlobSource } from '../stream/blob-source.ts'
import type { BufferPool } from '../stream/buffers.ts'
import type { Hasher } from '../stream/hasher.ts'
import { lasts } from '../stream/lasts.ts'
import { Fill, type FillDeps } from './fill.ts'
import { fillDefaults, type FillObserver, type FillOptions } from './fill-options.ts'
import { createLanes, type FillPriority } from './lanes.ts'
import type { PieceProof } from './piece-proof.ts'
import type { ReadBack } from './piece-store.ts'
import type { OpenedSink } from './sink.ts'
import type { Spread } from './spread.ts'

/** What a fill needs to begin; a joiner gives it too, since it cannot know whether it is the first. */
export interface FillStart {
  readonly digest: Digest
  /** Bytes, from a descriptor that is trusted; a source that says otherwise is passed over. */
  readonly size?: number | undefined
  /**
   * Where to ask, best first; the last one counts as the origin, whose refusal is the fill's. A function is
   * asked again when all that it gave have failed: it may bring fresh credentials or other members. `once` is asked
   * when somebody is to be asked, which most joiners of a fill that goes well never are.
   */
  readonly sources: SourceList
  /** Called at most once per fill. Throwing (a full disk) means: serve without a cache. */
  readonly openSink: () => Promise<OpenedSink>
  /** A fill for nobody waiting (prefetch) queues behind those that clients wait for. Default `client`. */
  readonly priority?: FillPriority
  /** Bytes, as somebody says who may be wrong; a spread needs it to begin. */
  readonly expectedSize?: number | undefined
  /** Asked once per fill, before it begins: by what each piece is proved alone, if that is known in time. */
  readonly proof?: (() => Promise<PieceProof | undefined>) | undefined
  /** Others that fetch it too, and with whom it is shared out. */
  readonly spread?: Spread | undefined
  /** Whom to ask for which part, for so many bytes: of use only where each piece is proved alone. */
  readonly homes?: ((size: number) => Spread | undefined) | undefined
  /**
   * This is only the home of some parts: those that readers ask for are fetched, and nothing else before somebody joins
   * who wants all. It is `absent` here where pieces are not proved alone.
   */
  readonly partsOnly?: boolean
  /**
   * Another edge reads. `home` and `other` prove it themselves, and nothing is withheld where only the whole is proved;
   * what one that takes this place for its home wants of a spread fill comes from the fill's own sources.
   */
  readonly forEdge?: 'home' | 'other' | 'relay' | undefined
  /** Stops waiting for the size (a client gone, a deadline); never stops the fill. */
  readonly signal?: AbortSignal
}

export type SourceList =
  | readonly BlobSource[]
  | { readonly once: () => readonly BlobSource[] }
  | (() => readonly BlobSource[] | Promise<readonly BlobSource[]>)

/** The table of fills in progress. */
export interface Fills {
  /**
   * Joins the fill of `key`, or begins it, and returns a reader once the size is known.
   * The caller closes the reader; the fill goes on without it.
   * @throws SourceError when no source gives the blob: `absent`, `refused`, `busy`, `unavailable`, `broken`; `busy`
   * also when it cannot begin here: too many fills run, or no place at a source becomes free in time
   * @throws the signal's reason when it aborts first
   */
  join(key: string, start: FillStart): Promise<FillReader>
  /** Whether a fill of this key is here that brings all of it, or has just brought it. */
  has(key: string): boolean
  /** Whether such a fill is not proved yet. */
  isRunning(key: string): boolean
  readonly stats: FillStats
  /** Ends all fills where they are (their bytes stay for a resume), fails their readers, closes all sinks. */
  close(): Promise<void>
}

export interface FillStats {
  /** Fills that are not yet proved. */
  readonly running: number
  readonly readers: number
  /** Requests open at sources. */
  readonly requests: number
}

/**
 * Follows a fill from any offset. `read` waits for bytes that are on their way, and is the laggard's way
 * too: it copies from memory or reads the file. The last 64 KiB come only once the digest is proved.
 * `read` and `borrow` throw SourceError when the bytes never come or turn out wrong: cut the response then.
 */
export interface FillReader extends BlobHandle {
  /**
   * Says that only `start` to `end` (both inclusive) will be read: a closed range inside the withheld tail
   * need then not wait for the whole blob. Optional; call it before the first read.
   */
  expect(range: { readonly start: number; readonly end: number }): void
  /** Whether bytes at this offset have still to come. */
  isComing(offset: number): boolean
  /**
   * At most `maxBytes` from `offset` without a copy, as soon as some are here; undefined when they should be
   * had by `read` (they are in the file, or this reader is slow). Release after the write, and on `close` of
   * the response: write callbacks do not fire after an abort. `close()` releases what is still borrowed.
   */
  borrow(offset: number, maxBytes: number): Promise<BorrowedBytes | undefined>
  /**
   * Resolves when the blob is proved and kept, without reading it.
   * @throws SourceError when it will not be, or cannot be kept
   */
  whole(): Promise<void>
}

export interface BorrowedBytes {
  readonly bytes: Buffer
  /** More than once does nothing. */
  release(): void
}

export interface FillsDeps {
  /** Both belong to the caller, who closes them after the fills. */
  readonly pool: BufferPool
  readonly hasher: Hasher
  /** Requests open at once at the source of this name. */
  readonly limitOf: (sourceName: string) => number
  /** Fills that may run at once, so that the table is bounded; joining one of them is always possible. Default: any number. */
  readonly maxFills?: number
  readonly options?: Partial<FillOptions>
  readonly observer?: FillObserver
  /** Milliseconds, monotonic. */
  readonly now?: () => number
}

/** How long the next fill waits for the file of one that failed. */
const takeOverMs = 1000

/** The fills of this process; `main.ts` makes one table and closes it. */
export function createFills(given: FillsDeps): Fills {
  const { pool, hasher } = given
  // Every open request holds a buffer while it waits for bytes; a quarter stays for what is being written.
  const total = Math.max(Math.floor((pool.stats.capacity * 3) / 4), 1)
  const lanes = createLanes({ limitOf: given.limitOf, total })
  const deps: FillDeps = {
    pool,
    hasher,
    lanes,
    readBack: createReadBack(pool),
    options: { ...fillDefaults, ...given.options },
    observer: given.observer ?? {},
    now: given.now ?? (() => performance.now()),
  }
  const table = new Map<string, { readonly fill: Fill; readonly gone: Promise<void> }>()
  const open = new Set<Fill>()
  const closing = new Set<Promise<void>>()
  let closed: Error | undefined

  const running = () => [...open].filter((fill) => fill.running).length

  function begin(key: string, start: FillStart): Fill {
    if (running() >= (given.maxFills ?? Infinity)) {
      const retryAfterMs = deps.options.openTimeoutMs
      throw new SourceError('busy', 'too many blobs are being fetched', { retryAfterMs })
    }
    const fill = new Fill(start, deps)
    open.add(fill)
    const ended = fill.run().then(() => (fill.proved && !closed ? linger() : undefined))
    const closedFill = ended.then(() => close(fill)).finally(() => closing.delete(closedFill))
    closing.add(closedFill)
    const gone = ended
      // What a failed one has got is the next one's only once its file is let go, which stalled clients may delay.
      .then(() => (fill.proved ? undefined : lasts(closedFill, takeOverMs)))
      .then(() => {
        if (table.get(key)?.fill === fill) table.delete(key)
      })
    table.set(key, { fill, gone })
    return fill
  }

  /** The fill of this key, unless only parts of it are wanted. */
  const wholeOf = (key: string): Fill | undefined => {
    const fill = table.get(key)?.fill
    return fill?.partsOnly === false ? fill : undefined
  }

  async function close(fill: Fill): Promise<void> {
    try {
      await fill.close()
    } catch (error) {
      deps.observer.diskFailed?.(error)
    }
    open.delete(fill)
    if (open.size === 0) pool.trim()
  }

  const lingering = new Set<() => void>()

  function linger(): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        clearTimeout(timer)
        lingering.delete(end)
        resolve()
      }
      const timer = setTimeout(end, deps.options.lingerMs)
      lingering.add(end)
    })
  }

  return {
    async join(key, start) {
      for (;;) {
        if (closed !== undefined) throw closed
        start.signal?.throwIfAborted()
        const known = table.get(key)
        if (known?.fill.joinable === true) {
          known.fill.joined(start)
          return known.fill.openReader(start)
        }
        // One that was proved had its file dropped since, and has only its readers left.
        if (known === undefined || known.fill.proved) return begin(key, start).openReader(start)
        // It has failed and writes down how far it came: the next one resumes from there.
        await known.gone
      }
    },
    has: (key) => wholeOf(key)?.joinable === true,
    isRunning: (key) => wholeOf(key)?.running === true,
    get stats() {
      return {
        running: running(),
        readers: [...open].reduce((sum, fill) => sum + fill.readerCount, 0),
        requests: lanes.open,
      }
    },
    async close() {
      closed = new Error('the fills are closed')
      for (const fill of open) fill.abort(closed)
      for (const end of lingering) end()
      await Promise.all(closing)
    },
  }
}

/**
 * One buffer, set apart for reading pieces back for the hash, one at a time: the hash must go on when all
 * other buffers wait for it.
 */
function createReadBack(pool: BufferPool): ReadBack {
  const buffer = pool.take()
  let last: Promise<unknown> = Promise.resolve()
  return (use) => {
    const turn = last.then(async () => use((await buffer).bytes))
    last = turn.catch(() => undefined)
    return turn
  }
}

import { SourceError, type BlobSource } from '../stream/blob-source.ts'
import type { SourceList } from './fills.ts'

export interface SourceOrderOptions {
  /** Failures in a row, none of which brought `progressBytes`, after which a source is given up. */
  readonly attempts: number
  /** Milliseconds to leave a source alone after its first, second, … failure in a row; the last one repeats. */
  readonly retryDelaysMs: readonly number[]
  /** The longest pause that a busy source may ask for. */
  readonly maxBusyMs: number
  readonly now: () => number
  /** Whether all places at the source of this name are taken. */
  readonly isFull?: (name: string) => boolean
}

/** A source and what this fill has seen of it. */
export interface RankedSource {
  readonly blob: BlobSource
  /** A bit of its own in masks that say who delivered a piece. */
  readonly bit: number
  /** It answered a range with everything: of no use to a distant reader. */
  rangeless: boolean
  /** It says another size than was adopted, or that the blob ends before what was asked for. */
  disputesSize: boolean
  /** Out of the race, with the reason in `failure`. */
  dead: boolean
  failure: SourceError | undefined
  strikes: number
  readyAt: number
  /** How many pieces it sent that were proved wrong. */
  lies: number
}

/** Which source to ask next. */
export interface SourceOrder {
  readonly all: readonly RankedSource[]
  /** Adds a joiner's sources behind the others; a name that is known already adds nothing. */
  add(list: SourceList): void
  /**
   * The next source to try and how long to wait before. After a failure it is the one behind the failed
   * one, so that a stalled source is replaced at once.
   * @throws SourceError the origin's (last source's) failure when all are given up
   */
  next(): Promise<{ readonly source: RankedSource; readonly waitMs: number }>
  /** Those worth a try by a distant reader right now, best first. */
  candidates(): RankedSource[]
  /** Those that know no ranges, and are worth a try by whoever can use the whole. */
  wholes(): RankedSource[]
  /** Notes a failure after `progressBytes` were delivered; whoever it names instead is asked next. */
  failed(source: RankedSource, error: SourceError, progressBytes: number): void
  /** It sent a wrong piece: it is out of the race, unless it is the origin, which may have been misheard once. */
  lied(source: RankedSource, error: SourceError): void
  /** The first headers are here: from now on a failing source is worth a second try, and `sources` may be asked again. */
  started(): void
  /** Leaves only these in the race (a round after a mismatch), with a clean record. */
  restrictTo(sources: readonly RankedSource[]): void
}

/** So much delivered in one go clears a source's record: it is slow or cut, not useless. */
const progressBytes = 256 * 1024
/** Bits of the masks: bit 0 is the disk. */
const maxSources = 30

function read(list: SourceList): readonly BlobSource[] | Promise<readonly BlobSource[]> {
  if (typeof list === 'function') return list()
  return 'once' in list ? list.once() : list
}

export function createSourceOrder(first: SourceList, options: SourceOrderOptions): SourceOrder {
  const { attempts, retryDelaysMs, maxBusyMs, now, isFull = () => false } = options
  const all: RankedSource[] = []
  const unread: SourceList[] = [first]
  const providers: (() => readonly BlobSource[] | Promise<readonly BlobSource[]>)[] = []
  let hasStarted = false
  let refreshable = false
  let position = 0

  function rank(blob: BlobSource, at = all.length) {
    if (all.length >= maxSources || all.some((source) => source.blob.name === blob.name)) return
    all.splice(at, 0, {
      blob,
      bit: 1 << (all.length + 1),
      rangeless: false,
      disputesSize: false,
      dead: false,
      failure: undefined,
      strikes: 0,
      readyAt: 0,
      lies: 0,
    })
  }

  async function readLists() {
    for (let list = unread.shift(); list !== undefined; list = unread.shift()) {
      if (typeof list === 'function') providers.push(list)
      for (const blob of await read(list)) rank(blob)
    }
  }

  /** Asks the providers again, once after each progress: they may have fresh credentials. */
  async function refresh(): Promise<boolean> {
    if (!refreshable || providers.length === 0) return false
    refreshable = false
    const fresh = (await Promise.all(providers.map(async (provide) => provide()))).flat()
    let revived = false
    for (const blob of fresh) {
      const index = all.findIndex((source) => source.blob.name === blob.name)
      const known = all[index]
      // A source that lied stays out whatever credentials it is asked with.
      if (known?.failure?.code === 'broken') continue
      if (known === undefined) rank(blob)
      else all[index] = { ...known, blob, dead: false, failure: undefined, strikes: 0, readyAt: 0 }
      revived = true
    }
    return revived
  }

  /** Only the last one that is left is waited for: who has the places of another may be slow for ever. */
  function isPassed(source: RankedSource): boolean {
    const behind = all.slice(all.indexOf(source) + 1)
    return isFull(source.blob.name) && behind.some(({ dead }) => !dead)
  }

  function pick(): { source: RankedSource; waitMs: number } | undefined {
    const inTurn = [...all.slice(position), ...all.slice(0, position)].filter(
      (source) => !source.dead && !isPassed(source),
    )
    const at = now()
    const ready = inTurn.find((source) => source.readyAt <= at)
    const soonest = inTurn.reduce<RankedSource | undefined>(
      (best, source) => (best === undefined || source.readyAt < best.readyAt ? source : best),
      undefined,
    )
    const source = ready ?? soonest
    return source && { source, waitMs: Math.max(source.readyAt - at, 0) }
  }

  const ready = (): RankedSource[] =>
    all.filter((source) => !source.dead && source.readyAt <= now() && !isPassed(source))

  return {
    all,
    add(list) {
      unread.push(list)
    },
    async next() {
      await readLists()
      const picked = pick() ?? ((await refresh()) ? pick() : undefined)
      if (picked !== undefined) return picked
      throw all.at(-1)?.failure ?? new SourceError('unavailable', 'there is no source to ask')
    },
    candidates: () => ready().filter(({ rangeless }) => !rangeless),
    wholes: () => ready().filter(({ rangeless }) => rangeless),
    failed(source, error, delivered) {
      if (delivered >= progressBytes) {
        source.strikes = 0
        refreshable = hasStarted
      }
      source.failure = error
      source.strikes++
      const final = error.code === 'absent' || error.code === 'refused' || source.disputesSize
      if (final || !hasStarted || source.strikes >= attempts) source.dead = true
      const delay = retryDelaysMs[Math.min(source.strikes, retryDelaysMs.length) - 1] ?? 0
      const asked = Math.min(error.retryAfterMs ?? 0, maxBusyMs)
      source.readyAt = now() + Math.max(delay, asked)
      const behind = all.indexOf(source) + 1
      for (const other of error.others.toReversed()) rank(other, behind)
      position = (all.indexOf(source) + 1) % Math.max(all.length, 1)
    },
    lied(source, error) {
      source.failure = error
      source.lies++
      if (source !== all.at(-1) || source.lies > 1) source.dead = true
      position = (all.indexOf(source) + 1) % all.length
    },
    started() {
      refreshable ||= !hasStarted
      hasStarted = true
    },
    restrictTo(sources) {
      for (const source of all) source.dead = !sources.includes(source)
      for (const source of sources) {
        source.strikes = 0
        source.readyAt = 0
        source.disputesSize = false
        source.failure = undefined
      }
      position = Math.max(
        all.findIndex((source) => sources.includes(source)),
        0,
      )
    },
  }
}

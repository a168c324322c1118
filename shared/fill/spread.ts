import { SourceError, type BlobSource } from '../stream/blob-source.ts'
import type { Bell } from './bell.ts'
import { createCuts, isCut, last, slower, standing } from './cuts.ts'
import { createPaces, medianOf, type Pace } from './paces.ts'
import type { PieceStore } from './piece-store.ts'
import { createStream, type Stream } from './receive.ts'
import { pieceBytes, type Run } from './segments.ts'
import type { RankedSource } from './source-order.ts'

/**
 * Who has which part of a blob that many fetch together: each part has a home, which gets it from the fill's own
 * sources, and from which all others get it. So the upstream gives each part once, and every uplink carries as much.
 */
export interface Spread {
  /** Pieces of a part; the last one may have fewer. */
  readonly partPieces: number
  /** Whom to ask for a part, its home first; the fill's own sources come behind them, and alone where this is its home. */
  sourcesOf(part: number): readonly BlobSource[]
}

export interface SpreaderDeps {
  readonly spread: Spread
  readonly store: PieceStore
  readonly signal: AbortSignal
  /** Rung whenever anything changes. */
  readonly bell: Bell
  /** The fill's own sources, best first, as they are now. */
  readonly own: () => readonly RankedSource[]
  /** Brings the stream's pieces from this source. @throws SourceError */
  readonly fetch: (source: RankedSource, stream: Stream) => Promise<void>
  readonly onFailed: (name: string, error: SourceError) => void
  /** How long another one may be far slower than the rest. */
  readonly patienceMs: number
  /** Milliseconds, monotonic. */
  readonly now: () => number
}

/** Fetches all parts, several at once, each from whoever is best for it. */
export interface Spreader {
  /** Resolves when every piece is here, or when the fill's own sources failed: whoever goes on takes what is missing. */
  run(): Promise<void>
  /**
   * A reader waits for this piece: its part is next.
   * @param isDoubted it is another edge that comes here because the part's home gave nothing
   */
  want(piece: number, isDoubted: boolean): void
  /** Whether this is the home of the part that this piece is in. */
  isOwn(piece: number): boolean
  /** The pieces of the part that this one is in which nobody has asked for, from this one on. */
  missingFrom(piece: number): Run
  /** Who has this name sent a wrong piece: it is not asked again. */
  lied(name: string): void
  /** Who sent this piece, if it came from one other edge alone. */
  senderOf(piece: number): string | undefined
}

/** Parts that are on their way at once; and how many where nobody is busy: who comes late has all uplinks for itself. */
const atOnce = 4
const mostAtOnce = 24
/** Somebody who was busy is a sign that many fetch the same: so long no more than usual are asked for at once. */
const crowdedMs = 5000
/** Who is busy, or has not begun yet, is asked again so much later. */
const holdMs = 150
/** Who has not begun by then is passed by: it may have heard of it later. */
const absentMs = 10_000
/** Who is busy gives to others: it is passed by only when it needs so many times as long as is usual here. */
const busyFactor = 4
const longestBusyMs = 60_000
/** How long somebody is passed by, four times as long each time. */
const passedMs = 15_000
const lookMs = 250
/** Who has given nothing for so long may be gone: another one is asked for something else meanwhile. */
const stuckMs = 1000
/** One that was slow once may have been starved for a moment. */
const cutsUntilPassed = 2
/** Failures in a row after which the fill's own sources are left to who goes on; and how long each is waited after. */
const ownAttempts = 5
const ownPauseMs = 250

/** The bit of other edges in masks that say who delivered a piece. */
export const spreadBit = 2 ** 31

interface Neighbour {
  readonly name: string
  running: number
  /** Not before. */
  heldUntil: number
  passedUntil: number
  /** How long it is passed by the next time. */
  passMs: number
  /** How often in a row it was cut for being slow. */
  cuts: number
  /** It sent a wrong piece. */
  isLiar: boolean
  /** Since when it has given nothing. */
  troubleSince: number | undefined
}

interface RunningPart {
  readonly part: number
  readonly name: string
  readonly pace: Pace
  readonly since: number
}

interface Asked {
  readonly neighbour: Neighbour
  /** As it is asked for this part. */
  readonly blob: BlobSource
}

interface Choice {
  readonly run: Run
  /** Undefined: the fill's own sources. */
  readonly asked: Asked | undefined
}

export function createSpreader(deps: SpreaderDeps): Spreader {
  const { spread, store, signal, bell, now } = deps
  const { partPieces } = spread
  const { pieces } = store
  const parts = Math.ceil(pieces.count / partPieces)
  const neighbours = new Map<string, Neighbour>()
  const senders = new Map<number, Set<string>>()
  const wanted = new Set<number>()
  const doubted = new Set<number>()
  const paces = createPaces(now)
  const reasonToCut = createCuts(deps.patienceMs)
  const running = new Map<Stream, RunningPart>()
  /** Who was cut while it sent a part: another one is asked for it next. */
  const tried = new Map<number, Set<string>>()
  /** How long parts took from the first time that their sender was asked, in milliseconds. */
  const waits: number[] = []
  /** Who is said to have a part, besides those that are asked for it first. */
  const named = new Map<number, Map<string, BlobSource>>()
  const order = orderOf(parts, spread)
  const workers = new Set<Promise<void>>()
  let working = 0
  let crew = atOnce
  let stuck = 0
  let crowdedUntil = 0
  let gaveUp = false
  let ownFailures = 0
  let ownFrom = 0

  const neighbourOf = ({ name }: BlobSource): Neighbour => {
    const known = neighbours.get(name)
    if (known !== undefined) return known
    const made = {
      name,
      running: 0,
      heldUntil: 0,
      passedUntil: 0,
      passMs: passedMs,
      cuts: 0,
      isLiar: false,
      troubleSince: undefined,
    }
    neighbours.set(name, made)
    return made
  }
  const asking = (blob: BlobSource): Asked => ({ blob, neighbour: neighbourOf(blob) })

  const partOf = ({ first }: Pick<Run, 'first'>): number => Math.floor(first / partPieces)
  const missingFrom = (piece: number): Run => {
    const limit = Math.min((Math.floor(piece / partPieces) + 1) * partPieces, pieces.count)
    let end = piece
    while (end < limit && pieces.get(end) === 'missing') end++
    return { first: piece, end }
  }
  const missingIn = (part: number): Run | undefined => {
    for (let piece = part * partPieces; piece < (part + 1) * partPieces; piece++)
      if (piece < pieces.count && pieces.get(piece) === 'missing') return missingFrom(piece)
    return undefined
  }

  /** Who may be asked for a part now, best first. */
  const ableFor = (part: number): readonly Asked[] => {
    const at = now()
    const isAble = ({ neighbour }: Asked) =>
      !neighbour.isLiar && neighbour.passedUntil <= at && !(neighbour.cuts > 0 && doubted.has(part))
    const all = [...spread.sourcesOf(part), ...(named.get(part)?.values() ?? [])]
    return all.map(asking).filter(isAble)
  }
  /** Whether it was not cut while it sent this part. */
  const isNewFor =
    (part: number) =>
    ({ blob }: Asked): boolean =>
      tried.get(part)?.has(blob.name) !== true

  /** Whom to ask, or undefined while the one to ask is busy: a home before who was named, and that before those above. */
  const whomToAsk = (part: number): Asked | 'own' | undefined => {
    const at = now()
    const all = ableFor(part)
    const able = all.find(isNewFor(part)) ?? all[0]
    if (able === undefined) return ownFrom > at ? undefined : 'own'
    return able.neighbour.heldUntil > at || able.neighbour.running > 0 ? undefined : able
  }

  /** @returns undefined when nothing is missing; `wait` when those to ask for it are busy */
  const choose = (): Choice | 'wait' | undefined => {
    let isMissing = false
    for (const part of [...wanted, ...order]) {
      const run = missingIn(part)
      if (run === undefined) {
        wanted.delete(part)
        continue
      }
      isMissing = true
      const whom = whomToAsk(part)
      if (whom !== undefined) return { run, asked: whom === 'own' ? undefined : whom }
    }
    return isMissing ? 'wait' : undefined
  }

  const patienceFor = (error: SourceError, { cuts }: Neighbour): number => {
    const { code } = error
    if (isCut(error) && cuts < cutsUntilPassed) return Infinity
    if (code === 'absent') return absentMs
    if (code !== 'busy') return 0
    return Math.min(Math.max(busyFactor * medianOf(waits), absentMs), longestBusyMs)
  }

  const failed = ({ neighbour, blob }: Asked, error: SourceError, part: number): void => {
    const at = now()
    // Who was only named is not asked for it again.
    if (named.get(part)?.get(blob.name) === blob) named.get(part)?.delete(blob.name)
    if (isCut(error)) tried.set(part, (tried.get(part) ?? new Set()).add(blob.name))
    if (error === last) return deps.onFailed(neighbour.name, error)
    if (error === slower) neighbour.cuts++
    if (error === standing) neighbour.cuts += cutsUntilPassed
    neighbour.troubleSince ??= at
    neighbour.heldUntil = at + holdMs * (1 + Math.random())
    if (at - neighbour.troubleSince >= patienceFor(error, neighbour)) {
      neighbour.passedUntil = at + neighbour.passMs
      neighbour.passMs *= 4
      neighbour.troubleSince = undefined
    }
    deps.onFailed(neighbour.name, error)
  }

  const fetchFrom = async ({ neighbour, blob }: Asked, stream: Stream): Promise<void> => {
    const since = neighbour.troubleSince ?? now()
    const pace = paces.began(() => stream.received)
    running.set(stream, {
      part: partOf({ first: stream.piece }),
      name: blob.name,
      pace,
      since: now(),
    })
    neighbour.running++
    let isComplete = false
    try {
      for (let { piece } = stream; piece < stream.end; piece++) sentBy(piece, blob.name)
      await deps.fetch({ ...unranked, blob }, stream)
      isComplete = true
      neighbour.troubleSince = undefined
      neighbour.cuts = 0
      waits.push(now() - since)
      if (now() >= crowdedUntil) crew = Math.min(crew + 1, mostAtOnce)
    } finally {
      pace.ended(isComplete)
      running.delete(stream)
      neighbour.running--
    }
  }
  const sentBy = (piece: number, name: string): void => {
    const names = senders.get(piece) ?? new Set()
    senders.set(piece, names.add(name))
  }
  const remember = (part: number, others: readonly BlobSource[]): void => {
    const known = named.get(part) ?? new Map<string, BlobSource>()
    for (const blob of others) if (!known.has(blob.name)) known.set(blob.name, blob)
    named.set(part, known)
  }

  /** A busy home names those that it gave the part to: the first of them that can is asked. */
  const fetchFromOthers = async (
    error: SourceError,
    {
      run,
      streams,
      home,
    }: { readonly run: Run; readonly streams: Stream[]; readonly home: Neighbour },
  ): Promise<boolean> => {
    remember(partOf(run), error.others)
    for (const blob of error.others) {
      const other = asking(blob)
      const { isLiar, passedUntil, running } = other.neighbour
      if (isLiar || passedUntil > now() || running > 0) continue
      const stream = createStream(run, false)
      streams.push(stream)
      try {
        await fetchFrom(other, stream)
        return true
      } catch (caught) {
        if (!(caught instanceof SourceError) || signal.aborted) throw caught
        // It may itself wait for who is to blame.
        deps.onFailed(blob.name, caught)
        // Whom it sends us to gets nothing from it either.
        if (caught === standing) home.cuts++
        if (stream.piece > run.first || store.offsetOf(run.first) % pieceBytes > 0) return false
      }
    }
    return false
  }

  const fetchOwn = async (stream: Stream): Promise<void> => {
    let isFinal = true
    for (const source of deps.own()) {
      try {
        await deps.fetch(source, stream)
        ownFailures = 0
        return
      } catch (error) {
        if (!(error instanceof SourceError) || signal.aborted) throw error
        isFinal = error.code !== 'busy' && error.code !== 'unavailable'
        deps.onFailed(source.blob.name, error)
      }
    }
    gaveUp ||= isFinal
    // Those that ran at once failed at once.
    if (now() < ownFrom) return
    // Whoever goes on takes all that is missing from above: one that is slow for a moment is no reason.
    ownFailures = stream.received > 0 ? 1 : ownFailures + 1
    ownFrom = now() + ownPauseMs * 2 ** ownFailures
    gaveUp ||= ownFailures >= ownAttempts
  }

  const fetchRun = async ({ run, asked }: Choice): Promise<void> => {
    for (let piece = run.first; piece < run.end; piece++) pieces.set(piece, 'coming')
    const stream = createStream(run, false)
    const streams = [stream]
    try {
      if (asked === undefined) await fetchOwn(stream)
      else await fetchFrom(asked, stream)
    } catch (error) {
      if (!(error instanceof SourceError) || signal.aborted) throw error
      if (error.code === 'busy') {
        crew = atOnce
        crowdedUntil = now() + crowdedMs
      }
      if (
        asked !== undefined &&
        !(await fetchFromOthers(error, { run, streams, home: asked.neighbour }))
      )
        failed(asked, error, partOf(run))
    } finally {
      // What came whole may be another's by now, if it was wrong.
      const next = Math.max(...streams.map(({ piece }) => piece))
      // What has come of a piece stays: the next one to ask goes on there.
      for (let piece = next; piece < run.end; piece++) store.abandon(piece, true)
      bell.ring()
    }
  }

  const work = async (): Promise<void> => {
    working++
    try {
      while (!gaveUp && !store.degraded && working <= crew + stuck) {
        signal.throwIfAborted()
        const choice = choose()
        // What is being proved may turn out to be missing.
        if (choice === undefined && store.proving === 0) return
        if (choice === undefined) {
          await bell.wait()
          continue
        }
        if (choice === 'wait') await pause(bell, holdMs)
        else await fetchRun(choice)
        if (working < crew + stuck) hire()
      }
    } finally {
      working--
    }
  }

  const failures: unknown[] = []
  const hire = (): void => {
    const worker: Promise<void> = work()
      .catch((error: unknown) => void failures.push(error))
      .finally(() => workers.delete(worker))
    workers.add(worker)
  }

  const look = (): void => {
    const choice = choose()
    const isIdle = choice === undefined || choice === 'wait'
    for (const [stream, { pace, part, name }] of running) {
      const isOther = ({ blob }: Asked): boolean => blob.name !== name
      const isReplaceable = isIdle && ableFor(part).filter(isOther).some(isNewFor(part))
      const reason = reasonToCut(pace, { isDoubted: doubted.has(part), isIdle, isReplaceable })
      if (reason !== undefined) stream.controller.abort(reason)
    }
    const isStuck = ([{ received }, { since }]: [Stream, RunningPart]): boolean =>
      received === 0 && now() - since >= stuckMs
    stuck = [...running].filter(isStuck).length
    if (working < crew + stuck) hire()
  }

  return {
    async run() {
      const looking = setInterval(look, lookMs)
      try {
        for (let count = 0; count < atOnce; count++) hire()
        while (workers.size > 0) await Promise.all(workers)
        if (failures.length > 0) throw failures[0]
      } finally {
        clearInterval(looking)
      }
    },
    want(piece, isDoubted) {
      const part = partOf({ first: piece })
      if (isDoubted) doubted.add(part)
      if (wanted.has(part)) return
      wanted.add(part)
      bell.ring()
    },
    lied(name) {
      const known = neighbours.get(name)
      if (known !== undefined) known.isLiar = true
    },
    isOwn: (piece) => spread.sourcesOf(partOf({ first: piece })).length === 0,
    missingFrom,
    senderOf(piece) {
      const [only, ...others] = senders.get(piece) ?? []
      return others.length === 0 ? only : undefined
    },
  }
}

/** This one's own parts first: all others wait for them. Then in an order of its own, each home once before any twice. */
function orderOf(parts: number, spread: Spread): readonly number[] {
  const turns = new Map<string, number>()
  const ranked = shuffled(Array.from({ length: parts }, (_, part) => part)).map((part) => {
    const [home] = spread.sourcesOf(part)
    if (home === undefined) return { part, turn: -1 }
    const turn = turns.get(home.name) ?? 0
    turns.set(home.name, turn + 1)
    return { part, turn }
  })
  return ranked.sort((one, other) => one.turn - other.turn).map(({ part }) => part)
}

function shuffled(items: number[]): number[] {
  return items
    .map((item) => ({ item, at: Math.random() }))
    .sort((one, other) => one.at - other.at)
    .map(({ item }) => item)
}

async function pause(bell: Bell, ms: number): Promise<void> {
  const timer = setTimeout(() => bell.ring(), ms)
  await bell.wait()
  clearTimeout(timer)
}

const unranked = {
  bit: spreadBit,
  rangeless: false,
  disputesSize: false,
  dead: false,
  failure: undefined,
  strikes: 0,
  readyAt: 0,
  lies: 0,
}

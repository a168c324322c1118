import { SourceError, type BlobSource } from '../stream/blob-source.ts'
import type { Bell } from './bell.ts'
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
  /** Milliseconds, monotonic. */
  readonly now: () => number
}

/** Fetches all parts, several at once, each from whoever is best for it. */
export interface Spreader {
  /** Resolves when every piece is here, or when the fill's own sources failed: whoever goes on takes what is missing. */
  run(): Promise<void>
  /** A reader waits for this piece: its part is next. */
  want(piece: number): void
  /** The pieces of the part that this one is in which nobody has asked for, from this one on. */
  missingFrom(piece: number): Run
  /** Who sent this piece, if it came from one other edge alone. */
  senderOf(piece: number): string | undefined
}

/** Parts that are on their way at once. */
const atOnce = 4
/** Who is busy, or has not begun yet, is asked again so much later. */
const holdMs = 150
/** Who has been busy for so long is passed by, and who has not begun by then: it may have heard of it later. */
const patienceMs = 10_000
/** How long somebody is passed by, four times as long each time. */
const passedMs = 15_000
/** Who needs so many times as long for a part as is usual here is passed by too, but nobody sooner than that. */
const slowFactor = 4
const slowMs = 3000
const lookMs = 250
const usualFrom = 4

/** The bit of other edges in masks that say who delivered a piece. */
export const spreadBit = 2 ** 31

interface Neighbour {
  readonly source: RankedSource
  running: number
  /** Not before. */
  heldUntil: number
  passedUntil: number
  /** How long it is passed by the next time. */
  passMs: number
  /** Since when it has given nothing. */
  troubleSince: number | undefined
}

interface Choice {
  readonly run: Run
  /** Undefined: the fill's own sources. */
  readonly neighbour: Neighbour | undefined
}

export function createSpreader(deps: SpreaderDeps): Spreader {
  const { spread, store, signal, bell, now } = deps
  const { partPieces } = spread
  const { pieces } = store
  const parts = Math.ceil(pieces.count / partPieces)
  const neighbours = new Map<string, Neighbour>()
  const senders = new Map<number, Set<string>>()
  const wanted = new Set<number>()
  const usual: number[] = []
  const running = new Set<{ readonly startedAt: number; readonly stream: Stream }>()
  const order = orderOf(parts, spread)
  let gaveUp = false

  const neighbourOf = (blob: BlobSource): Neighbour => {
    const known = neighbours.get(blob.name)
    if (known !== undefined) return known
    const source = { ...unranked, blob }
    const made = {
      source,
      running: 0,
      heldUntil: 0,
      passedUntil: 0,
      passMs: passedMs,
      troubleSince: undefined,
    }
    neighbours.set(blob.name, made)
    return made
  }

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

  /** The neighbour to ask, `own`, or undefined while the one to ask is busy. */
  const whomToAsk = (part: number): Neighbour | 'own' | undefined => {
    const at = now()
    const able = spread
      .sourcesOf(part)
      .map(neighbourOf)
      .find((each) => each.passedUntil <= at)
    if (able === undefined) return 'own'
    return able.heldUntil > at || able.running > 0 ? undefined : able
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
      if (whom !== undefined) return { run, neighbour: whom === 'own' ? undefined : whom }
    }
    return isMissing ? 'wait' : undefined
  }

  const failed = (neighbour: Neighbour, error: SourceError): void => {
    const at = now()
    const { code } = error
    const patience = code === 'busy' || code === 'absent' ? patienceMs : 0
    neighbour.troubleSince ??= at
    neighbour.heldUntil = at + holdMs * (1 + Math.random())
    if (at - neighbour.troubleSince >= patience) {
      neighbour.passedUntil = at + neighbour.passMs
      neighbour.passMs *= 4
      neighbour.troubleSince = undefined
    }
    deps.onFailed(neighbour.source.blob.name, error)
  }

  const fetchFrom = async (
    neighbour: Neighbour,
    stream: Stream,
    { source }: Pick<Neighbour, 'source'> = neighbour,
  ): Promise<void> => {
    const startedAt = now()
    const watched = { startedAt, stream }
    const { piece: first, end } = stream
    running.add(watched)
    neighbour.running++
    try {
      for (let piece = first; piece < end; piece++) sentBy(piece, source.blob.name)
      await deps.fetch(source, stream)
      neighbour.troubleSince = undefined
      usual.push((now() - startedAt) / (end - first))
    } finally {
      running.delete(watched)
      neighbour.running--
    }
  }
  const sentBy = (piece: number, name: string): void => {
    const names = senders.get(piece) ?? new Set()
    senders.set(piece, names.add(name))
  }

  /** A busy home names those that it gave the part to: the first of them that can is asked. */
  const fetchFromOthers = async (error: SourceError, run: Run): Promise<boolean> => {
    for (const blob of error.others) {
      const other = neighbourOf(blob)
      if (other.passedUntil > now() || other.running > 0) continue
      const stream = createStream(run, false)
      try {
        await fetchFrom(other, stream, { source: { ...unranked, blob } })
        return true
      } catch (caught) {
        if (!(caught instanceof SourceError) || signal.aborted) throw caught
        // It may itself wait for who is to blame.
        deps.onFailed(blob.name, caught)
        if (stream.piece > run.first || store.offsetOf(run.first) % pieceBytes > 0) return false
      }
    }
    return false
  }

  const fetchOwn = async (stream: Stream): Promise<void> => {
    for (const source of deps.own()) {
      try {
        return await deps.fetch(source, stream)
      } catch (error) {
        if (!(error instanceof SourceError) || signal.aborted) throw error
        deps.onFailed(source.blob.name, error)
      }
    }
    gaveUp = true
  }

  const fetchRun = async ({ run, neighbour }: Choice): Promise<void> => {
    for (let piece = run.first; piece < run.end; piece++) pieces.set(piece, 'coming')
    const stream = createStream(run, false)
    try {
      if (neighbour === undefined) await fetchOwn(stream)
      else await fetchFrom(neighbour, stream)
    } catch (error) {
      if (!(error instanceof SourceError) || signal.aborted) throw error
      if (neighbour !== undefined && !(await fetchFromOthers(error, run))) failed(neighbour, error)
    } finally {
      // What has come of a piece stays: the next one to ask goes on there.
      for (let piece = run.first; piece < run.end; piece++) store.abandon(piece, true)
      bell.ring()
    }
  }

  const work = async (): Promise<void> => {
    while (!gaveUp && !store.degraded) {
      signal.throwIfAborted()
      const choice = choose()
      if (choice === undefined) return
      if (choice === 'wait') await pause(bell, holdMs)
      else await fetchRun(choice)
    }
  }

  const cutSlow = (): void => {
    if (usual.length < usualFrom) return
    const limit = Math.max(slowMs, slowFactor * medianOf(usual) * partPieces)
    for (const { startedAt, stream } of running)
      if (now() - startedAt > limit)
        stream.controller.abort(new SourceError('unavailable', 'slower than all others'))
  }

  return {
    async run() {
      const looking = setInterval(cutSlow, lookMs)
      try {
        const workers = await Promise.allSettled(Array.from({ length: atOnce }, work))
        for (const worker of workers) if (worker.status === 'rejected') throw worker.reason
      } finally {
        clearInterval(looking)
      }
    },
    want(piece) {
      const part = Math.floor(piece / partPieces)
      if (wanted.has(part)) return
      wanted.add(part)
      bell.ring()
    },
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

function medianOf(values: readonly number[]): number {
  return values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)] ?? 0
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
}

import type { Writable } from 'node:stream'
import type { Logger } from '../../shared/observability/log.ts'
import type { LogPlace } from '../../shared/replication/chain.ts'
import { isEntitled, type RosterEdge } from '../../shared/replication/events.ts'
import { aliveMs } from '../../shared/replication/feed.ts'
import { writeAll } from '../../shared/stream/write.ts'
import type { FeedStart } from '../store/feed-starts.ts'
import type { Trust } from '../store/trust.ts'
import { createCloneWatch, type CloneWatchDeps } from './clone-watch.ts'
import { lineOf, type FramedBatch, type Tail } from './tail.ts'

/** An edge that would be fed. */
export interface FeedRequest {
  readonly edge: RosterEdge
  /** Which start of it asks. */
  readonly instance: string
  readonly address: string
  /** The last event that it has. */
  readonly from: LogPlace
}

/** Where the lines for an edge go. */
export interface FeedOutput {
  readonly stream: Writable
  /** Says that they come, before the first one. */
  begin(): void
}

/** Why an edge is not fed now. `behind`: the log does not reach back that far, or is another one. `busy`: later. `held`: the log is behind itself. */
export type FeedRefusal = 'behind' | 'busy' | 'held'

export interface Feeds {
  /**
   * Feeds an edge from where it is until either side ends that. One that the edge had before ends.
   * @returns why not, and nothing was written
   */
  open(request: FeedRequest, output: FeedOutput): Promise<FeedRefusal | undefined>
  /** Another primary feeds an edge now: one that is fed here under its name ends. */
  startedElsewhere(start: FeedStart): void
  /** The edges that are fed now. */
  connected(): ReadonlySet<string>
  isFed(edgeId: string): boolean
  /** Tells all of them the list of trusted keys, where it is new to them. */
  tellTrust(): void
  /** Ends those that are open; new ones may come. */
  endAll(): void
  /** Ends all of them. */
  close(): void
}

export interface FeedsDeps extends CloneWatchDeps {
  readonly tail: Tail
  readonly trust: () => Trust
  /** Whether the log is behind itself: nobody is fed then. */
  readonly isHeld: () => boolean
  readonly log: Logger
  /** Tells other primaries who is fed here now. */
  readonly announce: (start: FeedStart) => void
}

interface Feed {
  readonly edge: { readonly id: string; scope: RosterEdge['scope'] }
  readonly stream: Writable
  readonly epoch: number
  seq: number
  trustVersion: number
  /** Whether it is being written to, or waits for its socket. */
  busy: boolean
}

/** Edges that are read from the database at once, being behind what memory holds. */
const maxCatchUps = 16

/** The log as a stream to each edge: every header, and the bodies of its own streams. */
export function createFeeds({ tail, trust, isHeld, log, announce, ...clones }: FeedsDeps): Feeds {
  const feeds = new Map<string, Feed>()
  const watchClones = createCloneWatch(clones)
  let catchUps = 0

  /** @returns ends it; called again it does nothing */
  const beginCatchUp = (): (() => void) => {
    let isRunning = true
    catchUps++
    return () => {
      if (isRunning) catchUps--
      isRunning = false
    }
  }

  const end = (feed: Feed): void => {
    if (feeds.get(feed.edge.id) === feed) feeds.delete(feed.edge.id)
    feed.stream.destroy()
  }

  /** Sends a batch, and follows what it says of the edge itself. */
  const send = async (feed: Feed, batch: FramedBatch): Promise<boolean> => {
    const { list, envelope } = trust()
    const chunks: Buffer[] = []
    if (list.version !== feed.trustVersion) chunks.push(lineOf({ trust: envelope }))
    feed.trustVersion = list.version
    let isOver = false
    for (const { stream, edgeFact, header, whole } of batch.frames) {
      chunks.push(isEntitled(feed.edge.scope, stream) ? whole : header)
      if (edgeFact === undefined || edgeFact.edgeId !== feed.edge.id) continue
      if (edgeFact.type === 'edge-deleted' || edgeFact.suspended) isOver = true
      else feed.edge.scope = edgeFact.scope
    }
    chunks.push(batch.end)
    await writeAll(feed.stream, Buffer.concat(chunks))
    feed.seq = batch.lastSeq
    return !isOver
  }

  /** @param first what comes next, where memory does not hold it. @returns false where it ends: the rest was trimmed */
  const catchUp = async (feed: Feed, first: readonly FramedBatch[]): Promise<boolean> => {
    for (let next = first; tail.next(feed.seq) === 'gone'; next = await tail.read(feed.seq)) {
      if (next.length === 0) return false
      for (const batch of next) if (!(await send(feed, batch))) return false
    }
    return true
  }

  /** Sends all that there is; the one who is writing goes on with what comes meanwhile. */
  const pump = async (feed: Feed): Promise<void> => {
    if (feed.busy) return
    feed.busy = true
    try {
      for (;;) {
        // Another log, in which the numbers mean something else.
        if (feed.epoch !== tail.epoch) return end(feed)
        const batch = tail.next(feed.seq)
        if (batch === undefined) return
        // One that falls behind what memory holds comes back for a catch-up, by turns.
        const goesOn = batch === 'gone' ? false : await send(feed, batch)
        if (!goesOn) return end(feed)
      }
    } catch (err) {
      log.debug({ edge: feed.edge.id, err }, 'a feed broke')
      end(feed)
    } finally {
      feed.busy = false
    }
  }

  const stopTelling = tail.onGrown(() => {
    for (const feed of feeds.values()) void pump(feed)
  })
  const alive = setInterval(() => {
    const line = lineOf({ alive: true })
    for (const { stream, busy } of feeds.values())
      if (!busy && stream.writableLength === 0) stream.write(line)
  }, aliveMs).unref()

  return {
    async open({ edge, instance, address, from }, { stream, begin }) {
      if (isHeld()) return 'held'
      // Another primary, or a snapshot, may have told it what is not read here yet.
      if (from.seq > tail.seq) await tail.readOn()
      if (from.epoch !== tail.epoch || from.seq > tail.seq) return 'behind'
      const isBehind = tail.next(from.seq) === 'gone'
      if (isBehind && catchUps >= maxCatchUps) return 'busy'
      const { list, envelope } = trust()
      const feed: Feed = {
        edge: { id: edge.edgeId, scope: edge.scope },
        stream,
        epoch: from.epoch,
        seq: from.seq,
        trustVersion: list.version,
        busy: true,
      }
      // Whether the log reaches back that far is seen before the answer begins.
      const endCatchUp = isBehind ? beginCatchUp() : () => undefined
      const first = isBehind
        ? await tail.read(from.seq).catch((error: unknown) => {
            endCatchUp()
            throw error
          })
        : []
      if ((isBehind && first.length === 0) || stream.destroyed) {
        endCatchUp()
        return 'behind'
      }
      const start = { edgeId: edge.edgeId, instance, address }
      watchClones(start, 'here')
      announce(start)
      const before = feeds.get(edge.edgeId)
      if (before !== undefined) end(before)
      feeds.set(edge.edgeId, feed)
      stream.on('close', () => end(feed))
      begin()
      void (async () => {
        try {
          await writeAll(stream, lineOf({ trust: envelope }))
          if (!(await catchUp(feed, first))) return end(feed)
        } catch {
          // Its socket went.
          return end(feed)
        } finally {
          endCatchUp()
          feed.busy = false
        }
        await pump(feed)
      })()
      return undefined
    },
    startedElsewhere(start) {
      watchClones(start, 'elsewhere')
      const before = feeds.get(start.edgeId)
      if (before !== undefined) end(before)
    },
    connected: () => new Set(feeds.keys()),
    isFed: (edgeId) => feeds.has(edgeId),
    tellTrust() {
      const { list, envelope } = trust()
      const line = lineOf({ trust: envelope })
      for (const feed of feeds.values()) {
        if (list.version === feed.trustVersion) continue
        feed.trustVersion = list.version
        feed.stream.write(line)
      }
    },
    endAll() {
      for (const feed of feeds.values()) end(feed)
    },
    close() {
      clearInterval(alive)
      stopTelling()
      for (const feed of feeds.values()) end(feed)
    },
  }
}

import type { Logger } from '../../shared/observability/log.ts'
import type { EventBody, EventFact, EventStream } from '../../shared/replication/events.ts'
import type { FeedLine } from '../../shared/replication/feed.ts'
import type { EventBatch, Events } from '../store/events.ts'
import { createBell } from './bell.ts'

/** An event as lines that all feeds share. */
export interface Frame {
  readonly stream: EventStream
  /** What it says of edges, by which feeds change what they show. */
  readonly edgeFact: Extract<EventFact, { type: 'edge' | 'edge-deleted' }> | undefined
  readonly header: Buffer
  readonly whole: Buffer
}

/** A signed batch, ready to be sent. */
export interface FramedBatch {
  readonly epoch: number
  readonly firstSeq: number
  readonly lastSeq: number
  readonly frames: readonly Frame[]
  /** The signature, which ends it. */
  readonly end: Buffer
}

/** The end of the log in memory, framed once for all feeds. */
export interface Tail {
  /** The last batch's last event. */
  readonly seq: number
  readonly epoch: number
  /** The batch behind this place; undefined at the end; 'gone' when memory does not reach back that far. */
  next(seq: number): FramedBatch | undefined | 'gone'
  /** Reads it from the database instead, which may know more: empty when nothing comes next there, or it was trimmed. */
  read(seq: number): Promise<readonly FramedBatch[]>
  /** Reads on now, not when it is next woken. */
  readOn(): Promise<void>
  /** Keeps nothing of what it read: what signed it may count no more. */
  forget(): void
  /** Calls back when there is more. Returns how to stop. */
  onGrown(listener: () => void): () => void
  wake(): void
  stop(): Promise<void>
}

export interface TailOptions {
  readonly events: Pick<Events, 'head' | 'readBatchesAfter'>
  readonly log: Logger
  readonly pollMs: number
  /** Bytes of lines that are kept. */
  readonly keepBytes: number
}

/** Begins at the log's present end. `main.ts` stops it before it closes the database. */
export async function startTail({ events, log, pollMs, keepBytes }: TailOptions): Promise<Tail> {
  const bell = createBell()
  const listeners = new Set<() => void>()
  const kept = new Map<number, FramedBatch>()
  let keptBytes = 0
  let stopped = false
  let failing = false
  let { epoch, seq } = await events.head()

  const keep = (batch: FramedBatch): void => {
    kept.set(batch.firstSeq, batch)
    keptBytes += bytesOf(batch)
    for (const [first, oldest] of kept) {
      if (keptBytes <= keepBytes || oldest === batch) break
      kept.delete(first)
      keptBytes -= bytesOf(oldest)
    }
  }
  const forget = (): void => {
    kept.clear()
    keptBytes = 0
  }
  const readAll = async (): Promise<void> => {
    const head = await events.head()
    if (head.epoch !== epoch || head.seq < seq) {
      forget()
      ;({ epoch, seq } = head)
    }
    while (seq < head.seq && !stopped) {
      const batches = await events.readBatchesAfter(seq)
      if (batches === undefined) {
        // It was trimmed before it was read: whoever needs it takes a snapshot.
        forget()
        seq = head.seq
      } else if (batches.length === 0) return
      else {
        for (const batch of batches) keep(frame(batch))
        seq = lastSeqOf(batches)
      }
      for (const listener of listeners) listener()
    }
  }
  let reading: Promise<void> | undefined
  const readOnce = (): Promise<void> =>
    (reading ??= readAll().finally(() => {
      reading = undefined
    }))
  const run = async (): Promise<void> => {
    while (!stopped) {
      try {
        await readOnce()
        failing = false
      } catch (err) {
        if (!failing && !stopped) log.warn({ err }, 'the event log cannot be read: feeds wait')
        failing = true
      }
      if (!stopped) await bell.sleep(pollMs)
    }
  }
  const running = run()
  return {
    get seq() {
      return seq
    },
    get epoch() {
      return epoch
    },
    next: (after) => (after === seq ? undefined : (kept.get(after + 1) ?? 'gone')),
    read: async (after) => ((await events.readBatchesAfter(after)) ?? []).map(frame),
    async readOn() {
      // The one that runs may have begun before what is wanted was there.
      await reading?.catch(() => undefined)
      await readOnce()
    },
    forget,
    onGrown(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    wake: bell.ring,
    async stop() {
      stopped = true
      bell.ring()
      await running
    },
  }
}

function lastSeqOf(batches: readonly EventBatch[]): number {
  return batches.at(-1)?.events.at(-1)?.seq ?? 0
}

function frame({ epoch, events, envelope }: EventBatch): FramedBatch {
  return {
    epoch,
    firstSeq: events[0]?.seq ?? 0,
    lastSeq: events.at(-1)?.seq ?? 0,
    frames: events.map(({ seq, stream, body, bodyHash }) => {
      const header = { seq, stream, bodyHash: bodyHash.toString('hex') }
      const { fact } = JSON.parse(body) as EventBody
      return {
        stream,
        edgeFact: fact.type === 'edge' || fact.type === 'edge-deleted' ? fact : undefined,
        header: lineOf(header),
        whole: lineOf({ ...header, body }),
      }
    }),
    end: lineOf({ head: envelope }),
  }
}

/** A line of the feed. */
export function lineOf(line: FeedLine): Buffer {
  return Buffer.from(`${JSON.stringify(line)}\n`)
}

function bytesOf({ frames, end }: FramedBatch): number {
  return frames.reduce((sum, { header, whole }) => sum + header.length + whole.length, end.length)
}

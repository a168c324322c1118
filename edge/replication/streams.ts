import { createHash } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import type { EventStream } from '../../shared/replication/events.ts'
import {
  lineReadabilityOf,
  maxLineBytes,
  type SnapshotLine,
  type SnapshotStatement,
} from '../../shared/replication/feed.ts'
import { openStatement, StatementError, statementTypes } from '../../shared/trust/statement.ts'
import { createTurns as createFetchTurns } from '../../shared/http/turns.ts'
import { createTurns } from '../cache/turns.ts'
import { everyone, revokedBy } from '../access/revocations.ts'
import { readLines, type PrimaryLink } from './link.ts'
import type { RecordedHead } from '../cache/statement-records.ts'
import type { KnownEvent } from '../cache/statement-events.ts'
import type { SnapshotWriter, Statements } from '../cache/statements.ts'
import { NewerVersionError } from './newer.ts'

export interface StreamsDeps {
  readonly statements: Statements
  readonly link: PrimaryLink
  readonly keyOf: (kid: string) => KeyObject | undefined
  /** The one that the root has announced: a key of the log cannot begin another. */
  readonly epoch: () => number | undefined
  readonly signal: AbortSignal
  /** Told when a stream's whole state came, or went. */
  readonly onChanged: () => void
  readonly onFailed: (stream: EventStream, error: unknown) => void
}

/** Which streams this edge has, and those that are on their way. */
export interface Streams {
  /** Takes what one signed batch says: of streams that are on their way, it waits. */
  apply(events: readonly KnownEvent[], head: RecordedHead): Promise<void>
  /**
   * Makes these the streams: what is missing is fetched, what is no longer listed is forgotten.
   * @returns when all that was missing when it was called is there
   */
  settle(listed: readonly EventStream[]): Promise<void>
  /** Where the log stood when the first snapshot was made; the feed goes on from there. */
  begin(stream: EventStream): Promise<void>
}

/** A stream's snapshot is on its way; what the log says of it meanwhile. */
interface Coming {
  readonly queue: KnownEvent[]
  readonly done: Promise<void>
}

/** More than this is not waited with: the snapshot is asked for again. */
const maxQueued = 20_000
const atOnce = 4
/** Batches and the ends of snapshots come one after another. */
const batches = 'batches'

export function createStreams({
  statements,
  link,
  keyOf,
  epoch,
  signal,
  onChanged,
  onFailed,
}: StreamsDeps): Streams {
  const coming = new Map<EventStream, Coming>()
  const fetches = createFetchTurns(atOnce)
  const { inTurn } = createTurns()

  const fetchStream = async (stream: EventStream, after: number, queue: KnownEvent[]) => {
    let endTurn: (() => void) | undefined
    try {
      endTurn = await fetches.take('snapshots', signal)
      const writer = statements.startSnapshot(stream)
      const statement = await readSnapshot(await link.snapshot(stream, after, signal), {
        stream,
        writer,
        keyOf,
      })
      if (statement.epoch !== epoch())
        throw new StatementError(
          `the snapshot of ${stream} is of epoch ${statement.epoch}, which the root did not announce`,
        )
      if (statement.seq < after)
        throw new StatementError(`the snapshot of ${stream} is older than what was asked for`)
      await inTurn(batches, async () => {
        coming.delete(stream)
        await writer.commit(statement, { events: queue, revoked: revokedIn(queue) })
        onChanged()
      })
      return statement
    } catch (error) {
      coming.delete(stream)
      throw error
    } finally {
      endTurn?.()
    }
  }
  /** What this edge may not read any more it forgets, and takes no token for it that was signed before. */
  const leave = async (stream: EventStream): Promise<void> => {
    await statements.drop(stream)
    const { cursor } = statements
    if (cursor !== undefined) await statements.apply([], cursor, new Map([[stream, Date.now()]]))
  }
  const want = (stream: EventStream, after: number): Coming => {
    const known = coming.get(stream)
    if (known !== undefined) return known
    const queue: KnownEvent[] = []
    const fetching = fetchStream(stream, after, queue)
    const done = fetching.then(ignore, (error: unknown) => onFailed(stream, error))
    const entry = { queue, done }
    coming.set(stream, entry)
    return entry
  }

  return {
    apply: (events, head) =>
      inTurn(batches, async () => {
        const known: KnownEvent[] = []
        for (const event of events) {
          const { stream } = event
          // A stream that nobody told of: a project that was just made.
          const wait = statements.knows(stream) ? coming.get(stream) : want(stream, event.seq - 1)
          if (wait === undefined) known.push(event)
          else if (wait.queue.length < maxQueued) wait.queue.push(event)
          else throw new StatementError(`the snapshot of ${stream} does not come`)
        }
        // Whatever becomes of a stream, whose rights ended is known at once.
        await statements.apply(known, head, revokedIn(events))
      }),
    async settle(listed) {
      const all = new Set(listed)
      for (const stream of statements.streams())
        if (!all.has(stream)) {
          await inTurn(batches, () => leave(stream))
          onChanged()
        }
      const after = statements.cursor?.seq ?? 0
      const missing = listed.filter((stream) => !statements.knows(stream))
      await Promise.all(missing.map((stream) => want(stream, after).done))
    },
    async begin(stream) {
      const hadLog = statements.streams().length > 0
      const statement = await fetchStream(stream, 0, [])
      const { epoch, seq, hash, at } = statement
      const head = { epoch, seq, hash: Buffer.from(hash, 'hex') }
      // Whose rights ended while it heard nothing is not known: whoever has a token from then gets another one. What was
      // signed before it ever had a log counts as long as it says: docker does not ask again in the midst of a pull.
      await statements.apply([], head, new Map(hadLog ? [[everyone, at]] : []))
    },
  }
}

/** Subjects whose tokens lost their worth, and when. */
function revokedIn(events: readonly KnownEvent[]): ReadonlyMap<string, number> {
  const revoked = new Map<string, number>()
  for (const { fact, at } of events) {
    const subject = revokedBy(fact)
    if (subject !== undefined) revoked.set(subject, at)
  }
  return revoked
}

/** Reads a snapshot whole. @throws StatementError when its last line does not sign all the others */
async function readSnapshot(
  body: Parameters<typeof readLines>[0] & { cancel(): void },
  {
    stream,
    writer,
    keyOf,
  }: {
    readonly stream: EventStream
    readonly writer: SnapshotWriter
    readonly keyOf: StreamsDeps['keyOf']
  },
): Promise<SnapshotStatement & { readonly stream: EventStream }> {
  const hash = createHash('sha256')
  try {
    for await (const text of readLines(body, maxLineBytes)) {
      const line = JSON.parse(text) as SnapshotLine | { readonly signed: unknown }
      if (!('signed' in line)) {
        hash.update(`${text}\n`)
        const readability = lineReadabilityOf(line)
        if (readability === 'known') await writer.take(line)
        if (readability === 'newer')
          throw new NewerVersionError(
            `the state of ${stream} has a ${Object.keys(line).join(', ')}`,
          )
        continue
      }
      const statement = openStatement(statementTypes.snapshot, line.signed, keyOf)
      const { digest, stream: of } = statement as SnapshotStatement
      if (of !== stream || digest !== hash.digest('hex'))
        throw new StatementError(`the snapshot of ${stream} is not what was signed`)
      return { ...(statement as SnapshotStatement), stream }
    }
    throw new StatementError(`the snapshot of ${stream} is not signed`)
  } finally {
    body.cancel()
  }
}

function ignore(): void {
  // Whoever waits for it is told.
}

import { sql } from 'kysely'
import {
  hashOfBody,
  headerHash,
  isAfter,
  type LogHead,
  type LogPlace,
} from '../../shared/replication/chain.ts'
import type { EventBody, EventStream } from '../../shared/replication/events.ts'
import type { Envelope } from '../../shared/trust/statement.ts'
import type { Records } from './database.ts'

/** One numbered event. */
export interface NumberedEvent {
  readonly seq: number
  readonly stream: EventStream
  readonly body: EventBody
}

/** An event as it travels. */
export interface LoggedEvent {
  readonly seq: number
  readonly stream: EventStream
  /** The text that was hashed. */
  readonly body: string
  readonly bodyHash: Buffer
}

/** What was numbered at once, and the signature over its last header. */
export interface EventBatch {
  readonly events: readonly LoggedEvent[]
  readonly epoch: number
  readonly envelope: Envelope
}

/** Where the log ends, and what waits to be numbered, as one look sees them. */
export interface LogPosition extends LogPlace {
  /** Ids of the outbox; undefined when it is empty. */
  readonly waiting: { readonly oldest: number; readonly newest: number } | undefined
}

/** The channel on which a new head is announced: a hint, polling is the truth. */
export const headChannel = 'outport_events'

/** Rows that one batch moves; more waits for the next, so that nobody waits long for the lock. */
export const batchRows = 1000
const readRows = 1000
const readBatches = 64
/** Milliseconds after which the database ends a batch whose primary says nothing more, so that another goes on. */
const silenceMs = 5000

export type Events = ReturnType<typeof createEvents>

/** The outbox and the log that it is numbered into. */
export function createEvents(records: Records) {
  return {
    /**
     * Moves what the outbox holds into the log, in the order of its ids, and announces the new head. Who finds
     * the head locked waits for its holder.
     * @param sign signs where the log ends by then; it is asked for each batch
     * @param known how far the log is known to be
     * @returns how many were moved; `full` when more may be waiting; `held` when the log is behind itself: nothing is
     *   numbered then
     */
    number(
      sign: (head: LogHead) => Envelope,
      known?: LogPlace,
    ): Promise<{ readonly moved: number; readonly full: boolean; readonly held?: boolean }> {
      return records.transaction().execute(async (trx) => {
        const head = await trx
          .selectFrom('event_head')
          .select(['epoch', 'seq', 'header_hash', 'behind'])
          .select(
            sql`set_config('idle_in_transaction_session_timeout', ${String(silenceMs)}, true)`.as(
              'silence',
            ),
          )
          .forUpdate()
          .executeTakeFirstOrThrow()
        if (head.behind !== null || (known !== undefined && isAfter(known, head)))
          return { moved: 0, full: false, held: true }
        // A statement of its own, after the lock: it sees all that was committed while we waited for it.
        const rows = await trx
          .deleteFrom('outbox')
          .where('id', 'in', trx.selectFrom('outbox').select('id').orderBy('id').limit(batchRows))
          .returning(['id', 'stream', 'body'])
          .execute()
        if (rows.length === 0) return { moved: 0, full: false }
        rows.sort((one, other) => one.id - other.id)
        const { numbered, next } = chain({ ...head, hash: head.header_hash }, rows)
        const end = { last_seq: next.seq, epoch: next.epoch, envelope: JSON.stringify(sign(next)) }
        // One question for all of it: edges wait for this.
        await trx
          .with('numbered', (at) => at.insertInto('events').values(numbered))
          .with('signed', (at) => at.insertInto('event_batches').values(end))
          .with('moved', (at) =>
            at.updateTable('event_head').set({ seq: next.seq, header_hash: next.hash }),
          )
          .selectNoFrom(sql`pg_notify(${headChannel}, ${String(next.seq)})`.as('told'))
          .execute()
        return { moved: rows.length, full: rows.length === batchRows }
      })
    },

    /** Whether the outbox holds anything: cheaper than the lock. */
    async waiting(): Promise<boolean> {
      const row = await records.selectFrom('outbox').select('id').limit(1).executeTakeFirst()
      return row !== undefined
    },

    async head(): Promise<LogPlace> {
      return records.selectFrom('event_head').select(['epoch', 'seq']).executeTakeFirstOrThrow()
    },

    async position(): Promise<LogPosition> {
      const { epoch, seq, oldest, newest } = await records
        .selectFrom('event_head')
        .select(['epoch', 'seq'])
        .select((head) => [
          head
            .selectFrom('outbox')
            .select((row) => row.fn.min('id').as('id'))
            .as('oldest'),
          head
            .selectFrom('outbox')
            .select((row) => row.fn.max('id').as('id'))
            .as('newest'),
        ])
        .executeTakeFirstOrThrow()
      const waiting = oldest === null || newest === null ? undefined : { oldest, newest }
      return { epoch, seq, waiting }
    },

    /** When the first event after each of these was numbered, as far as the log reaches back; without one, it is missing. */
    async firstAfter(seqs: readonly number[]): Promise<ReadonlyMap<number, Date>> {
      const asked = [...new Set(seqs)]
      if (asked.length === 0) return new Map()
      const { rows } = await sql<{ readonly seq: number; readonly at: Date }>`
        SELECT asked.seq, first.at FROM unnest(${asked}::bigint[]) AS asked (seq)
        CROSS JOIN LATERAL (SELECT at FROM events WHERE events.seq > asked.seq ORDER BY events.seq LIMIT 1) AS first`.execute(
        records,
      )
      return new Map(rows.map(({ seq, at }) => [seq, at]))
    },

    /** The events after `seq`, in order, at most a thousand. A gap before the first means that the log was trimmed. */
    async readAfter(seq: number): Promise<readonly NumberedEvent[]> {
      const rows = await records
        .selectFrom('events')
        .select(['seq', 'stream', 'body'])
        .where('seq', '>', seq)
        .orderBy('seq')
        .limit(readRows)
        .execute()
      return rows.map((row) => ({
        seq: row.seq,
        stream: row.stream,
        body: JSON.parse(row.body) as EventBody,
      }))
    },

    /**
     * The signed batches after `seq`, in order, a few thousand events at most: fewer than there are say nothing of an end.
     * @param seq a batch's last; undefined is returned when what comes next was trimmed
     */
    async readBatchesAfter(seq: number): Promise<readonly EventBatch[] | undefined> {
      const ends = await records
        .selectFrom('event_batches')
        .selectAll()
        .where('last_seq', '>', seq)
        .orderBy('last_seq')
        .limit(readBatches)
        .execute()
      const last = ends.at(-1)
      if (last === undefined) return []
      const rows = await records
        .selectFrom('events')
        .select(['seq', 'stream', 'body', 'body_hash'])
        .where('seq', '>', seq)
        .where('seq', '<=', last.last_seq)
        .orderBy('seq')
        .execute()
      if (rows[0]?.seq !== seq + 1) return undefined
      let at = 0
      return ends.map(({ last_seq, epoch, envelope }) => {
        const from = at
        while ((rows[at]?.seq ?? Infinity) <= last_seq) at++
        return {
          epoch,
          envelope: JSON.parse(envelope) as Envelope,
          events: rows
            .slice(from, at)
            .map(({ body_hash, ...event }) => ({ ...event, bodyHash: body_hash })),
        }
      })
    },

    /**
     * Removes the events up to the last one that is older than `before`, and what was signed of them: the log has no
     * holes.
     * @returns how many
     */
    trim(before: Date): Promise<number> {
      return records.transaction().execute(async (trx) => {
        const { behind } = await trx
          .selectFrom('event_head')
          .select('behind')
          .executeTakeFirstOrThrow()
        // What is left of a log that was found to be behind is all that it can be compared by.
        if (behind !== null) return 0
        const { seq } = await trx
          .selectFrom('events')
          .select((row) => row.fn.max('seq').as('seq'))
          .where('at', '<', before)
          .executeTakeFirstOrThrow()
        // Nothing is that old.
        if ((seq as number | null) === null) return 0
        const result = await trx.deleteFrom('events').where('seq', '<=', seq).executeTakeFirst()
        await trx.deleteFrom('event_batches').where('last_seq', '<=', seq).execute()
        return Number(result.numDeletedRows)
      })
    },
  }
}

interface OutboxRow {
  readonly stream: EventStream
  readonly body: string
}

/** Numbers rows densely and chains their headers: {epoch, seq, stream, body hash} over the one before. */
function chain(head: LogHead, rows: readonly OutboxRow[]) {
  const { epoch } = head
  let [seq, previous] = [head.seq, head.hash]
  const numbered = rows.map(({ stream, body }) => {
    seq++
    const bodyHash = hashOfBody(body)
    previous = headerHash({ epoch, seq, stream, bodyHash, previous })
    return { seq, stream, body, body_hash: bodyHash, header_hash: previous }
  })
  return { numbered, next: { epoch, seq, hash: previous } }
}

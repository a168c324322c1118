import { sql, type Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import { parseJson } from '../../shared/auth/json.ts'
import { isRecord } from '../../shared/config/record.ts'
import type { LogHead, LogPlace } from '../../shared/replication/chain.ts'
import type { Envelope } from '../../shared/trust/statement.ts'
import { appendAudit, type Deed } from './audit.ts'
import type { StoreRecords } from './blobs.ts'
import type { Records } from './database.ts'
import { forgetIn, revokeIn } from './edge-standings.ts'
import { appendRosterEvent, edgeAudit } from './edges.ts'
import { announceEpoch } from './pending-lists.ts'
import type { Schema } from './schema.ts'
import type { TrustOptions } from './trust.ts'

/** How far the log is known to have been, and who shows it. */
export interface LogBehind extends LogPlace {
  /** For people: `the blob store`, `edge rack-7`. */
  readonly shownBy: string
  /** RFC 3339. */
  readonly since: string
}

/** Where the log is, and what shows that there was more of it. */
export interface LogState extends LogPlace {
  readonly behind: LogBehind | undefined
}

/** How an administrator has the log go on. */
export interface EpochOptions {
  readonly force: boolean
  readonly list?: Envelope | undefined
}

/** What is kept beside the blobs, where a restored database does not reach. */
interface Mark extends LogHead {
  /** Edges that were forgotten, revoked and suspended: a database from before does not know it. */
  readonly forgotten: readonly string[]
  readonly revoked: readonly string[]
  readonly suspended: readonly string[]
}

const recordName = 'log-mark'
/** Whoever holds it compares and writes the mark. Any number that nothing else locks by. */
const lockNumber = 4_171_501_001

/**
 * How many ids are passed over in a database that is behind: what was given out since then is known to edges, and must
 * never name anything else. An edge's number is a part of its tasks' ids, of 20 bits.
 */
const skippedIds = {
  projects: ['id', 1_000_000],
  repositories: ['id', 1_000_000],
  users: ['id', 1_000_000],
  robots: ['id', 1_000_000],
  labels: ['id', 1_000_000],
  replication_policies: ['id', 1_000_000],
  edges: ['number', 1000],
} as const

export type LogMarks = ReturnType<typeof createLogMarks>

/** The high-water mark of the log: a database that was restored from an older copy shows by it. */
export function createLogMarks(records: Records, store: StoreRecords, trust: TrustOptions) {
  const keptMark = async (): Promise<Mark | undefined> => {
    const known = await store.readRecord(recordName)
    return known && readMark(known.value)
  }
  return {
    /** Compares the log with the mark, which it writes anew where the log has gone on. */
    check(now: Date): Promise<LogState> {
      return records.transaction().execute(async (trx) => {
        await sql`SELECT pg_advisory_xact_lock(${lockNumber}::bigint)`.execute(trx)
        const head = await headOf(trx)
        if (head.behind !== undefined) return head
        const known = await store.readRecord(recordName)
        const mark = known && readMark(known.value)
        if (mark !== undefined && (await isLost(trx, head, mark)))
          return hold(trx, { head, place: mark, shownBy: 'the blob store', mark, now })
        if (mark === undefined || mark.epoch !== head.epoch || mark.seq !== head.seq) {
          const condition = known === undefined ? { absent: true as const } : { tag: known.tag }
          await store.writeRecord(recordName, await formatMark(trx, head), condition)
        }
        return head
      })
    },

    /** Somebody is proved to have had the log up to here. @returns where it is; `behind` if it has less, or another one */
    async shown(place: LogHead, shownBy: string, now: Date): Promise<LogState> {
      const seen = await headOf(records)
      if (seen.behind !== undefined || !(await isLost(records, seen, place))) return seen
      return records.transaction().execute(async (trx) => {
        // The lock: what is being numbered now is seen, too.
        const head = await headOf(trx, { forUpdate: true })
        if (head.behind !== undefined || !(await isLost(trx, head, place))) return head
        return hold(trx, { head, place, shownBy, mark: await keptMark(), now })
      })
    },

    async state(): Promise<LogState> {
      return headOf(records)
    },

    /** The epoch that `accept` begins. */
    async nextEpoch(): Promise<number> {
      return nextEpochOf(await headOf(records), await keptMark())
    },

    /**
     * Begins a new epoch, which is greater than any that is known to have been, and which the root announces. Numbering
     * goes on.
     * @param options.force also where nothing shows that the log is behind
     * @param options.list what announces it, signed by a root that is kept offline
     * @throws ApiError CONFLICT where it is not, without `force`, or where the list is not what is wanted now;
     *   PRECONDITION where it is missing, BAD_REQUEST where it is not signed
     */
    accept({ force, list }: EpochOptions, { actor, now }: Deed): Promise<LogState> {
      return records.transaction().execute(async (trx) => {
        const head = await headOf(trx, { forUpdate: true })
        if (head.behind === undefined && !force)
          throw new ApiError(
            'CONFLICT',
            'nothing shows that the database was restored: the log goes on as it is',
          )
        const mark = await keptMark()
        if (head.behind === undefined) await passOver(trx, { mark, now })
        const epoch = nextEpochOf(head, mark)
        await trx.updateTable('event_head').set({ epoch, behind: null }).execute()
        const description = `epoch ${epoch} begins at event ${head.seq}`
        const entry = { operation: 'update', resourceType: 'log', resource: 'epoch' } as const
        await appendAudit(trx, { ...entry, actor, description }, now)
        await announceEpoch(trx, { ...trust, given: list }, { actor, now })
        return { epoch, seq: head.seq, behind: undefined }
      })
    },
  }
}

function nextEpochOf(head: LogState, mark: Mark | undefined): number {
  return Math.max(head.epoch, head.behind?.epoch ?? 0, mark?.epoch ?? 0) + 1
}

interface Head extends LogState {
  readonly hash: Buffer
}

async function headOf(
  trx: Records | Transaction<Schema>,
  { forUpdate = false }: { readonly forUpdate?: boolean } = {},
): Promise<Head> {
  const query = trx.selectFrom('event_head').select(['epoch', 'seq', 'header_hash', 'behind'])
  const row = await (forUpdate ? query.forUpdate() : query).executeTakeFirstOrThrow()
  const { epoch, seq, header_hash: hash, behind } = row
  return { epoch, seq, hash, behind: behind ?? undefined }
}

/** Whether the log does not hold what was in it once: it ends before, or another event has that number. */
async function isLost(
  trx: Records | Transaction<Schema>,
  head: Head,
  { epoch, seq, hash }: LogHead,
): Promise<boolean> {
  if (epoch !== head.epoch) return epoch > head.epoch
  if (seq >= head.seq) return seq > head.seq || !hash.equals(head.hash)
  const row = await trx
    .selectFrom('events')
    .select('header_hash')
    .where('seq', '=', seq)
    .executeTakeFirst()
  // What was trimmed cannot be compared.
  return row !== undefined && !row.header_hash.equals(hash)
}

/** Nothing is numbered from here on, and nothing new is called what something lost was. */
async function hold(
  trx: Transaction<Schema>,
  {
    head,
    place: { epoch, seq },
    shownBy,
    mark,
    now,
  }: {
    readonly head: LogPlace
    readonly place: LogPlace
    readonly shownBy: string
    readonly mark: Mark | undefined
    readonly now: Date
  },
): Promise<LogState> {
  const behind: LogBehind = { epoch, seq, shownBy, since: now.toISOString() }
  await trx
    .updateTable('event_head')
    .set({ behind: JSON.stringify(behind) })
    .execute()
  await passOver(trx, { mark, now })
  return { epoch: head.epoch, seq: head.seq, behind }
}

/** Ids that may have been given out are not given again, and edges that had lost their rights do not have them back. */
async function passOver(
  trx: Transaction<Schema>,
  { mark, now }: { readonly mark: Mark | undefined; readonly now: Date },
): Promise<void> {
  for (const [table, [column, count]] of Object.entries(skippedIds))
    await sql`SELECT setval(s.name, nextval(s.name) + ${count}::bigint)
      FROM (SELECT pg_get_serial_sequence(${table}, ${column})::regclass AS name) s`.execute(trx)
  const { forgotten = [], revoked = [], suspended = [] } = mark ?? {}
  const live = async (ids: readonly string[]) => {
    if (ids.length === 0) return []
    const rows = await trx
      .selectFrom('edges')
      .select(['id', 'suspended', 'revoked_at'])
      .where('id', 'in', ids)
      .where('deleted_at', 'is', null)
      .execute()
    return rows
  }
  const actor = { username: '', address: '' }
  const description = 'as before the database was restored'
  for (const { id } of await live(forgotten)) await forgetIn(trx, id, { actor, now, description })
  for (const { id, revoked_at: at } of await live(revoked))
    if (at === null) await revokeIn(trx, id, { actor, now, description })
  for (const { id, suspended: isSuspended } of await live(suspended)) {
    if (isSuspended) continue
    await trx.updateTable('edges').set({ suspended: true }).where('id', '=', id).execute()
    await appendAudit(trx, edgeAudit({ actor, operation: 'update', id, description }), now)
    await appendRosterEvent(trx, id, now)
  }
}

async function formatMark(trx: Transaction<Schema>, { epoch, seq, hash }: Head): Promise<Buffer> {
  const rows = await trx
    .selectFrom('edges')
    .select(['id', 'suspended', 'revoked_at', 'deleted_at'])
    .where(({ or, eb }) => or([eb('suspended', '=', true), eb('deleted_at', 'is not', null)]))
    .orderBy('id')
    .execute()
  const forgotten = rows.filter((row) => row.deleted_at !== null)
  const listed = rows.filter((row) => row.deleted_at === null)
  const revoked = listed.filter((row) => row.revoked_at !== null)
  const suspended = listed.filter((row) => row.revoked_at === null)
  const idsOf = (edges: typeof rows) => edges.map(({ id }) => id)
  const mark = {
    epoch,
    seq,
    hash: hash.toString('hex'),
    forgotten: idsOf(forgotten),
    revoked: idsOf(revoked),
    suspended: idsOf(suspended),
  }
  return Buffer.from(`${JSON.stringify(mark)}\n`)
}

/** @throws Error when it is something else: no mark at all would let a restored database pass */
function readMark(value: Buffer): Mark {
  const mark = parseJson(value.toString('utf8'))
  if (isRecord(mark)) {
    const { epoch, seq, hash } = mark
    if (typeof epoch === 'number' && typeof seq === 'number' && typeof hash === 'string')
      return {
        epoch,
        seq,
        hash: Buffer.from(hash, 'hex'),
        forgotten: stringsIn(mark['forgotten']),
        revoked: stringsIn(mark['revoked']),
        suspended: stringsIn(mark['suspended']),
      }
  }
  throw new Error(`the record ${recordName} beside the blobs is damaged: restore it, or remove it`)
}

function stringsIn(value: unknown): readonly string[] {
  return Array.isArray(value) ? value.filter((each) => typeof each === 'string') : []
}

import { createHash } from 'node:crypto'
import { sql, type Selectable, type Transaction } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import type { Listing } from '../../shared/api/listing.ts'
import type { Fields } from '../../shared/api/query.ts'
import type { PreheatFact, RosterEdge } from '../../shared/replication/events.ts'
import type { PreheatReport } from '../../shared/replication/lease.ts'
import { appendAudit, type Deed } from './audit.ts'
import type { Records } from './database.ts'
import { applyFilters, readPage } from './filters.ts'
import { appendEvents } from './outbox.ts'
import type { PreheatBlob, PreheatEdge, PreheatOutcome, PreheatsTable, Schema } from './schema.ts'

/** What is to be preheated. */
export interface PreheatOrder {
  readonly projectId: number
  readonly repositoryId: number
  /** As it was asked for: `project/repository:tag`. */
  readonly image: string
  readonly digest: Digest
  /** Sorted; empty: all. */
  readonly platforms: readonly string[]
  readonly edges: readonly PreheatEdge[]
  readonly blobs: readonly PreheatBlob[]
  readonly deadline: Date
}

/** An image that edges are to hold by a deadline. */
export interface Preheat extends PreheatOrder {
  readonly id: number
  readonly creator: string
  readonly status: PreheatsTable['status']
  readonly startedAt: Date
  readonly endedAt: Date | undefined
  /** How it was at each edge when it ended. */
  readonly outcome: readonly PreheatOutcome[] | undefined
}

/** What an edge said that has to do with preheats. */
export interface PreheatingEdge extends Pick<RosterEdge, 'scope' | 'suspended'> {
  /** undefined: it has not been heard of. */
  readonly seenAt: Date | undefined
  /** undefined: it has not been heard of, or is too old to know of any. */
  readonly reports: readonly PreheatReport[] | undefined
}

/** How a preheat ended. */
export interface PreheatEnd {
  readonly status: Exclude<Preheat['status'], 'Running'>
  readonly outcome: readonly PreheatOutcome[]
}

/** What preheats may be filtered and sorted by. */
export const preheatFields: Fields = {
  id: { column: 'id', type: 'integer' },
  project_id: { column: 'project_id', type: 'integer' },
  image: { column: 'image', type: 'text' },
  digest: { column: 'digest', type: 'text' },
  status: { column: 'status', type: 'text' },
  start_time: { column: 'started_at', type: 'time' },
  deadline: { column: 'deadline_at', type: 'time' },
}

/** Of all projects: older ones are forgotten once they are over. */
const kept = 1000

export type Preheats = ReturnType<typeof createPreheats>

/** What edges are to hold by a deadline. */
export function createPreheats(records: Records) {
  return {
    /**
     * Begins a preheat and tells the edges, unless the same one runs.
     * @returns its id
     */
    start(order: PreheatOrder, { actor, now }: Deed): Promise<{ id: number; isNew: boolean }> {
      return records.transaction().execute(async (trx) => {
        const sameAs = sameAsOf(order)
        const row = await trx
          .insertInto('preheats')
          .values({
            project_id: order.projectId,
            repository_id: order.repositoryId,
            image: order.image,
            digest: order.digest,
            platforms: order.platforms,
            edges: JSON.stringify(order.edges),
            blobs: JSON.stringify(order.blobs),
            same_as: sameAs,
            creator: actor.username,
            status: 'Running',
            started_at: now,
            deadline_at: order.deadline,
          })
          .onConflict((conflict) =>
            conflict.column('same_as').where('status', '=', 'Running').doNothing(),
          )
          .returningAll()
          .executeTakeFirst()
        if (row === undefined) {
          const { id } = await trx
            .selectFrom('preheats')
            .select('id')
            .where('same_as', '=', sameAs)
            .orderBy('id', 'desc')
            .limit(1)
            .executeTakeFirstOrThrow()
          return { id, isNew: false }
        }
        await trimPreheats(trx)
        const { projectId, image: resource } = order
        const deed = { actor, operation: 'create', resourceType: 'preheat' } as const
        await appendAudit(trx, { ...deed, projectId, resource }, now)
        await appendEvents(trx, [{ type: 'preheat', ...factOf(row) }], now)
        return { id: row.id, isNew: true }
      })
    },

    async get(id: number): Promise<Preheat | undefined> {
      const row = await records
        .selectFrom('preheats')
        .selectAll()
        .where('id', '=', id)
        .executeTakeFirst()
      return row && readPreheat(row)
    },

    /** One page, newest first unless sorted otherwise, and how many there are. */
    async list({ filters, sorts, page }: Listing): Promise<{
      readonly rows: readonly Preheat[]
      readonly total: number
    }> {
      const query = applyFilters(records.selectFrom('preheats'), filters)
      const { rows, total } = await readPage(query, {
        sorts,
        page,
        last: { column: 'id', descending: true },
        select: (sorted) => sorted.selectAll(),
      })
      return { rows: rows.map(readPreheat), total }
    },

    async running(): Promise<readonly Preheat[]> {
      const rows = await records
        .selectFrom('preheats')
        .selectAll()
        .where('status', '=', 'Running')
        .orderBy('id')
        .execute()
      return rows.map(readPreheat)
    },

    /** What these edges last said, by their ids; one that is gone or revoked is left out. */
    async edges(ids: readonly string[]): Promise<ReadonlyMap<string, PreheatingEdge>> {
      const rows = await records
        .selectFrom('edges')
        .leftJoin('edge_states as s', 's.edge_id', 'edges.id')
        .select(['edges.id', 'edges.scope', 'edges.suspended', 's.seen_at'])
        .select(sql<readonly PreheatReport[] | null>`s.report -> 'preheats'`.as('reports'))
        .where('edges.id', '=', sql<string>`ANY(${ids}::text[])`)
        .where('edges.deleted_at', 'is', null)
        .where('edges.revoked_at', 'is', null)
        .execute()
      return new Map(
        rows.map(({ id, scope, suspended, seen_at: seenAt, reports }) => [
          id,
          { scope, suspended, seenAt: seenAt ?? undefined, reports: reports ?? undefined },
        ]),
      )
    },

    /** Ends one, unless it has ended. Edges keep what they hold of it until its deadline. */
    async end(id: number, { status, outcome }: PreheatEnd, now: Date): Promise<void> {
      await records
        .updateTable('preheats')
        .set({ status, outcome: JSON.stringify(outcome), ended_at: now })
        .where('id', '=', id)
        .where('status', '=', 'Running')
        .execute()
    },

    /** Ends one before its time, and tells the edges; one that has ended stays as it is. */
    stop(id: number, { outcome }: PreheatEnd, { actor, now }: Deed): Promise<void> {
      return records.transaction().execute(async (trx) => {
        const row = await trx
          .updateTable('preheats')
          .set({ status: 'Stopped', outcome: JSON.stringify(outcome), ended_at: now })
          .where('id', '=', id)
          .where('status', '=', 'Running')
          .returning(['project_id as projectId', 'image as resource'])
          .executeTakeFirst()
        if (row === undefined) return
        const deed = { actor, operation: 'stop', resourceType: 'preheat' } as const
        await appendAudit(trx, { ...deed, ...row }, now)
        const { projectId } = row
        await appendEvents(trx, [{ type: 'preheat-ended', projectId, preheatId: id }], now)
      })
    },
  }
}

/** The preheats of a project that edges still have to know of. */
export async function preheatsOf(
  trx: Transaction<Schema>,
  projectId: number,
): Promise<readonly PreheatFact[]> {
  const rows = await trx
    .selectFrom('preheats')
    .selectAll()
    .where('project_id', '=', projectId)
    .where('deadline_at', '>', sql<Date>`now()`)
    .where('status', '!=', 'Stopped')
    .orderBy('id')
    .execute()
  return rows.map(factOf)
}

async function trimPreheats(trx: Transaction<Schema>): Promise<void> {
  const newest = trx.selectFrom('preheats').select('id').orderBy('id', 'desc').limit(kept)
  await trx
    .deleteFrom('preheats')
    .where('status', '!=', 'Running')
    .where('deadline_at', '<', sql<Date>`now()`)
    .where('id', 'not in', newest)
    .execute()
}

function sameAsOf({ repositoryId, digest, platforms, edges }: PreheatOrder): Buffer {
  const same = [repositoryId, digest, platforms, edges.map(({ id }) => id).sort()]
  return createHash('sha256').update(JSON.stringify(same)).digest()
}

function factOf(row: Selectable<PreheatsTable>): PreheatFact {
  const { id: preheatId, project_id: projectId, repository_id: repositoryId, platforms } = row
  return {
    preheatId,
    projectId,
    repositoryId,
    digest: row.digest as Digest,
    platforms,
    edges: row.edges.map(({ id }) => id),
    until: row.deadline_at.getTime(),
  }
}

function readPreheat(row: Selectable<PreheatsTable>): Preheat {
  return {
    id: row.id,
    projectId: row.project_id,
    repositoryId: row.repository_id,
    image: row.image,
    digest: row.digest as Digest,
    platforms: row.platforms,
    edges: row.edges,
    blobs: row.blobs,
    deadline: row.deadline_at,
    creator: row.creator,
    status: row.status,
    startedAt: row.started_at,
    endedAt: row.ended_at ?? undefined,
    outcome: row.outcome ?? undefined,
  }
}

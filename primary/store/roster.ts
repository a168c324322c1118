import { sql } from 'kysely'
import type { LogPlace } from '../../shared/replication/chain.ts'
import type { RosterEdge } from '../../shared/replication/events.ts'
import type { PrefetchFailure } from '../../shared/replication/lease.ts'
import type { Records } from './database.ts'

/** An edge, and how far it says that it has come. */
export interface RosterMember extends RosterEdge {
  /** Small and never used again. */
  readonly number: number
  readonly createdAt: Date
  /** undefined: it has not been heard of. */
  readonly state:
    | {
        /** It holds all that rules selected for it up to here, or has given up on it. */
        readonly held: LogPlace
        readonly waitingBytes: number
        readonly seenAt: Date
        readonly failures: readonly PrefetchFailure[]
      }
    | undefined
}

/** Where an edge says that its clients reach it. */
export interface EdgeUrl extends Pick<RosterEdge, 'edgeId' | 'site' | 'region'> {
  readonly url: string
}

export type Roster = ReturnType<typeof createRoster>

/** All edges that were not revoked, with their progress. */
export function createRoster(records: Records) {
  return {
    /** Of all edges that take requests and say where they are, by name. */
    urls(): Promise<readonly EdgeUrl[]> {
      const url = sql<string>`s.report ->> 'url'`
      return records
        .selectFrom('edges')
        .innerJoin('edge_states as s', 's.edge_id', 'edges.id')
        .select(['edges.id as edgeId', 'edges.site', 'edges.region', url.as('url')])
        .where('edges.deleted_at', 'is', null)
        .where('edges.suspended', '=', false)
        .where('edges.draining', '=', false)
        .where(url, '!=', '')
        .orderBy('edges.name')
        .execute()
    },

    /** By name. */
    async list(): Promise<readonly RosterMember[]> {
      const rows = await records
        .selectFrom('edges')
        .leftJoin('edge_states as s', 's.edge_id', 'edges.id')
        .select([
          'edges.id as edgeId',
          'edges.name',
          'edges.site',
          'edges.region',
          'edges.labels',
          'edges.scope',
          'edges.suspended',
          'edges.number',
          'edges.created_at as createdAt',
          's.epoch',
          's.held_seq as seq',
          's.waiting_bytes as waitingBytes',
          's.seen_at as seenAt',
        ])
        .select(sql<readonly PrefetchFailure[] | null>`s.report -> 'failures'`.as('failures'))
        .where('edges.deleted_at', 'is', null)
        .where('edges.revoked_at', 'is', null)
        .orderBy('edges.name')
        .execute()
      return rows.map(({ epoch, seq, waitingBytes, seenAt, failures, ...edge }) => ({
        ...edge,
        state:
          epoch === null || seq === null || waitingBytes === null || seenAt === null
            ? undefined
            : { held: { epoch, seq }, waitingBytes, seenAt, failures: failures ?? [] },
      }))
    },
  }
}

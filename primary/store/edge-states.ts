import type { LeaseRequest } from '../../shared/replication/lease.ts'
import type { Records } from './database.ts'

/** What an edge last said of itself. */
export interface EdgeState extends Omit<LeaseRequest, 'nonce' | 'peerUrl' | 'proof'> {
  readonly edgeId: string
  readonly seenAt: Date
}

export type EdgeStates = ReturnType<typeof createEdgeStates>

/** What edges say of themselves with each request for a lease: shown, never believed. */
export function createEdgeStates(records: Records) {
  return {
    /** Writes the newest state of each edge. One of an edge that is gone is left out. */
    async put(states: readonly EdgeState[]): Promise<void> {
      if (states.length === 0) return
      const rows = states.map(({ edgeId, applied, heldSeq, waitingBytes, report, seenAt }) => ({
        edge_id: edgeId,
        epoch: applied.epoch,
        applied_seq: applied.seq,
        held_seq: heldSeq,
        waiting_bytes: waitingBytes,
        seen_at: seenAt,
        report: JSON.stringify(report),
      }))
      await records
        .insertInto('edge_states')
        .values(rows)
        .onConflict((conflict) =>
          conflict.column('edge_id').doUpdateSet((row) => ({
            epoch: row.ref('excluded.epoch'),
            applied_seq: row.ref('excluded.applied_seq'),
            held_seq: row.ref('excluded.held_seq'),
            waiting_bytes: row.ref('excluded.waiting_bytes'),
            seen_at: row.ref('excluded.seen_at'),
            report: row.ref('excluded.report'),
          })),
        )
        .execute()
    },

    /** The states of these edges, by their ids. */
    async of(edgeIds: readonly string[]): Promise<ReadonlyMap<string, EdgeState>> {
      if (edgeIds.length === 0) return new Map()
      const rows = await records
        .selectFrom('edge_states')
        .selectAll()
        .where('edge_id', 'in', edgeIds)
        .execute()
      return new Map(
        rows.map((row) => [
          row.edge_id,
          {
            edgeId: row.edge_id,
            applied: { epoch: row.epoch, seq: row.applied_seq },
            heldSeq: row.held_seq,
            waitingBytes: row.waiting_bytes,
            seenAt: row.seen_at,
            report: row.report,
          },
        ]),
      )
    },
  }
}

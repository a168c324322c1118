import { randomUUID } from 'node:crypto'
import type { Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import { appendAudit, type Deed } from './audit.ts'
import type { Records } from './database.ts'
import { appendRosterEvent, edgeAudit, edgeIn, isRevoked, type Edge } from './edges.ts'
import { appendEvents } from './outbox.ts'
import type { Schema } from './schema.ts'

export type EdgeStandings = ReturnType<typeof createEdgeStandings>

/** What becomes of edges: they leave, get nothing for now, come back, or end. */
export function createEdgeStandings(records: Records) {
  /** Has an edge to itself, so that of two deeds the second sees what the first made of it. */
  const within = <Result>(
    id: string,
    work: (trx: Transaction<Schema>, edge: Edge) => Promise<Result>,
  ): Promise<Result | undefined> =>
    records.transaction().execute(async (trx) => {
      const edge = await edgeIn(trx, id)
      return edge && work(trx, edge)
    })
  const change = async (
    trx: Transaction<Schema>,
    id: string,
    { set, description }: { readonly set: StandingColumns; readonly description: string },
    { actor, now }: Deed,
  ): Promise<Edge> => {
    await trx
      .updateTable('edges')
      .set({ ...set, updated_at: now })
      .where('id', '=', id)
      .execute()
    await appendAudit(trx, edgeAudit({ actor, operation: 'update', id, description }), now)
    await appendRosterEvent(trx, id, now)
    const edge = await edgeIn(trx, id)
    if (edge === undefined) throw new Error(`the edge ${id} is gone within its own transaction`)
    return edge
  }

  return {
    /**
     * Gives an edge, and who logs in through it, nothing for now.
     * @param options.reason why, where it was no administrator who said so
     * @returns it as it is then; undefined when there is none
     * @throws ApiError CONFLICT for a revoked one
     */
    suspend: (id: string, deed: Deed, { reason = '' } = {}): Promise<Edge | undefined> =>
      within(id, async (trx, { state }) => {
        if (state === 'revoked') throw isRevoked(id)
        const description = reason === '' ? 'suspended' : `suspended: ${reason}`
        return change(
          trx,
          id,
          { set: { suspended: true, standing_reason: reason }, description },
          deed,
        )
      }),

    /**
     * Has an edge leave: nobody is sent there any more, and it ends what it is sending.
     * @returns it as it is then; undefined when there is none
     * @throws ApiError CONFLICT for one that may not read, and would not hear of it
     */
    drain: (id: string, deed: Deed): Promise<Edge | undefined> =>
      within(id, async (trx, { state }) => {
        if (state === 'revoked') throw isRevoked(id)
        if (state === 'suspended')
          throw new ApiError(
            'CONFLICT',
            `the edge ${id} is suspended, and hears nothing of the primary: stop it, or resume it first`,
          )
        return change(trx, id, { set: { draining: true }, description: 'draining' }, deed)
      }),

    /**
     * Ends a suspension or a drain; one of the configuration comes back even from being revoked.
     * @returns it as it is then; undefined when there is none
     * @throws ApiError CONFLICT for one that joined and was revoked: its key may be anywhere
     */
    resume: (id: string, deed: Deed): Promise<Edge | undefined> =>
      within(id, async (trx, { state, enrolled }) => {
        if (state === 'revoked' && enrolled) throw isRevoked(id)
        const set = { suspended: false, draining: false, revoked_at: null, standing_reason: '' }
        return change(trx, id, { set, description: 'resumed' }, deed)
      }),

    /** Ends an edge for good: its secret and certificate count no more. Returns false when there is none. */
    async revoke(id: string, { actor, now }: Deed): Promise<boolean> {
      const isDone = await within(id, async (trx, { state }) => {
        // Else it is said again by whoever was not answered.
        if (state !== 'revoked') await revokeIn(trx, id, { actor, now, description: 'revoked' })
        return true
      })
      return isDone === true
    },

    /**
     * Takes a revoked edge, or one that never joined, off the list, and frees its name.
     * @returns false when there is none
     * @throws ApiError CONFLICT for any other: it would go on reading for as long as nobody looks
     */
    async forget(id: string, { actor, now }: Deed): Promise<boolean> {
      const isDone = await within(id, async (trx, { state }) => {
        if (state !== 'revoked' && !(await isUnheardOf(trx, id)))
          throw new ApiError(
            'CONFLICT',
            `the edge ${id} is not revoked: revoke it first ('outport edges revoke ${id}'), or drain it and let it be`,
          )
        await forgetIn(trx, id, { actor, now, description: 'forgotten' })
        return true
      })
      return isDone === true
    },
  }
}

interface EndingDeed extends Deed {
  /** For the audit log. */
  readonly description: string
}

/** Ends an edge for good, in the transaction that decided it. */
export async function revokeIn(
  trx: Transaction<Schema>,
  id: string,
  deed: EndingDeed,
): Promise<void> {
  const { now } = deed
  await trx
    .updateTable('edges')
    .set({ suspended: true, revoked_at: now, updated_at: now })
    .where('id', '=', id)
    .execute()
  await tellOfEnd(trx, id, deed)
}

/** Takes an edge off the list, in the transaction that decided it. */
export async function forgetIn(
  trx: Transaction<Schema>,
  id: string,
  deed: EndingDeed,
): Promise<void> {
  const { now } = deed
  await trx.deleteFrom('edge_states').where('edge_id', '=', id).execute()
  await trx.deleteFrom('edge_pulls').where('edge_id', '=', id).execute()
  await trx
    .updateTable('edges')
    .set({
      deleted_at: now,
      deletion_id: randomUUID(),
      // Should the configuration name it again, it begins anew.
      suspended: false,
      draining: false,
      revoked_at: null,
      standing_reason: '',
      public_key: null,
      peer_url: '',
      updated_at: now,
    })
    .where('id', '=', id)
    .execute()
  await tellOfEnd(trx, id, deed)
}

async function tellOfEnd(
  trx: Transaction<Schema>,
  id: string,
  { actor, now, description }: EndingDeed,
): Promise<void> {
  await appendAudit(trx, edgeAudit({ actor, operation: 'delete', id, description }), now)
  await appendEvents(trx, [{ type: 'edge-deleted', edgeId: id }], now)
}

interface StandingColumns {
  readonly suspended?: boolean
  readonly draining?: boolean
  readonly revoked_at?: null
  readonly standing_reason?: string
}

/** It showed no key, and said nothing of itself. */
async function isUnheardOf(trx: Transaction<Schema>, id: string): Promise<boolean> {
  const heard = await trx
    .selectFrom('edges')
    .leftJoin('edge_states as s', 's.edge_id', 'edges.id')
    .select('edges.id')
    .where('edges.id', '=', id)
    .where((is) => is.or([is('edges.public_key', 'is not', null), is('s.edge_id', 'is not', null)]))
    .executeTakeFirst()
  return heard === undefined
}

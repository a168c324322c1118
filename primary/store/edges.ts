import { randomUUID } from 'node:crypto'
import { edgePrefix, type Account } from '../accounts/account.ts'
import { appendAudit, type AuditActor, type AuditEntry, type AuditOperation } from './audit.ts'
import type { Records } from './database.ts'
import { appendEvents } from './outbox.ts'

/** An edge as the primary knows it, without its secret. */
export interface Edge {
  readonly id: string
  readonly name: string
  /** `*`, or the ids of the projects that it may read. */
  readonly scope: '*' | readonly number[]
  /** Whether people may log in through it, who then show it their passwords. */
  readonly acceptsPeople: boolean
}

export type Edges = ReturnType<typeof createEdges>

/** The edges that may read from this primary. */
export function createEdges(records: Records) {
  return {
    /** The account that logs in by `edge$id`. */
    async findLogIn(name: string): Promise<Account | undefined> {
      const row = await records
        .selectFrom('edges')
        .select(['id', 'name', 'scope', 'credential_hash'])
        .where('id', '=', name.slice(edgePrefix.length))
        .where('deleted_at', 'is', null)
        .executeTakeFirst()
      return (
        row && {
          caller: { kind: 'edge', id: row.id, name: edgePrefix + row.id, access: undefined },
          facts: { kind: 'edge', id: row.id, scope: row.scope },
          secretHash: row.credential_hash,
        }
      )
    },

    async get(id: string): Promise<Edge | undefined> {
      const row = await records
        .selectFrom('edges')
        .select(['id', 'name', 'scope', 'accept_people'])
        .where('id', '=', id)
        .where('deleted_at', 'is', null)
        .executeTakeFirst()
      return (
        row && {
          id: row.id,
          name: row.name,
          scope: row.scope,
          acceptsPeople: row.accept_people,
        }
      )
    },

    /** The stored hash of an edge's secret, to see whether a configured secret is the same. */
    async getSecretHash(id: string): Promise<string | undefined> {
      const row = await records
        .selectFrom('edges')
        .select('credential_hash')
        .where('id', '=', id)
        .where('deleted_at', 'is', null)
        .executeTakeFirst()
      return row?.credential_hash
    },

    /** Writes an edge as the configuration has it: a new one, or the new state of a known one. */
    put(edge: Edge, secretHash: string, now: Date): Promise<void> {
      return records.transaction().execute(async (trx) => {
        const state = {
          name: edge.name,
          credential_hash: secretHash,
          scope: JSON.stringify(edge.scope),
          accept_people: edge.acceptsPeople,
          updated_at: now,
          deleted_at: null,
          deletion_id: null,
        }
        await trx
          .insertInto('edges')
          .values({ id: edge.id, created_at: now, ...state })
          .onConflict((conflict) => conflict.column('id').doUpdateSet(state))
          .execute()
        const actor = { username: '', address: '' }
        const description = `scope ${edge.scope === '*' ? '*' : edge.scope.join(' ')}`
        await appendAudit(
          trx,
          edgeAudit({ actor, operation: 'update', id: edge.id, description }),
          now,
        )
        await appendEvents(trx, [{ type: 'edge', edgeId: edge.id, name: edge.name }], now)
      })
    },

    /** Removes an edge: what it holds is worth nothing from then on. Returns false when there is none. */
    remove(id: string, actor: AuditActor, now: Date): Promise<boolean> {
      return records.transaction().execute(async (trx) => {
        const removed = await trx
          .updateTable('edges')
          .set({ deleted_at: now, deletion_id: randomUUID() })
          .where('id', '=', id)
          .where('deleted_at', 'is', null)
          .returning('id')
          .executeTakeFirst()
        if (removed === undefined) return false
        await appendAudit(trx, edgeAudit({ actor, operation: 'delete', id, description: '' }), now)
        await appendEvents(trx, [{ type: 'edge-deleted', edgeId: id }], now)
        return true
      })
    },
  }
}

function edgeAudit(deed: {
  readonly actor: AuditActor
  readonly operation: AuditOperation<'edge'>
  readonly id: string
  readonly description: string
}): AuditEntry {
  const { actor, operation, id, description } = deed
  return { actor, operation, resourceType: 'edge', resource: id, description }
}

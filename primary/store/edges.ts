import { sql, type Selectable, type Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import type { Listing } from '../../shared/api/listing.ts'
import type { Fields } from '../../shared/api/query.ts'
import type { EnrolledEdge } from '../../shared/replication/enrolment.ts'
import type { RosterEdge } from '../../shared/replication/events.ts'
import { edgePrefix, type Account } from '../accounts/account.ts'
import {
  appendAudit,
  type AuditActor,
  type AuditEntry,
  type AuditOperation,
  type Deed,
} from './audit.ts'
import type { Records } from './database.ts'
import { applyFilters, readPage } from './filters.ts'
import { appendEvents } from './outbox.ts'
import type { EdgesTable, Schema } from './schema.ts'

/** What an edge may do, as the configuration or an administrator says. */
export interface EdgeRights {
  readonly id: string
  readonly name: string
  /** `*`, or the ids of the projects that it may read. */
  readonly scope: '*' | readonly number[]
  /** Whether people may log in through it, who then show it their passwords. */
  readonly acceptsPeople: boolean
}

/** Where an edge is, by which it is selected: an administrator says so, never the edge itself. */
export interface EdgePlace {
  readonly site: string
  readonly region: string
  readonly labels: Readonly<Record<string, string>>
}

/**
 * What was made of an edge. Neither a suspended one nor who logs in through it gets anything; a revoked one never again;
 * a draining one may read, and nobody is sent there.
 */
export type EdgeStanding = 'ready' | 'draining' | 'suspended' | 'revoked'

/** An edge as the primary knows it, without its secret. */
export interface Edge extends EdgeRights, EdgePlace {
  /** Where other edges of its site reach it; undefined: they do not. */
  readonly peerUrl: string | undefined
  readonly state: EdgeStanding
  /** Why it is suspended, where no administrator did it; else empty. */
  readonly reason: string
  /** Whether it joined by a token; the others stand in the configuration, which says again at each start what they are. */
  readonly enrolled: boolean
  readonly createdAt: Date
  readonly updatedAt: Date
}

/** What may be changed of an edge. */
export type EdgeChanges = Partial<Omit<EdgeRights, 'id'> & EdgePlace>

/** What edges may be filtered and sorted by. The secret is not among them. */
export const edgeFields: Fields = {
  id: { column: 'id', type: 'text' },
  name: { column: 'name', type: 'text' },
  site: { column: 'site', type: 'text' },
  region: { column: 'region', type: 'text' },
  creation_time: { column: 'created_at', type: 'time' },
  update_time: { column: 'updated_at', type: 'time' },
}

const columns = [
  'id',
  'name',
  'scope',
  'accept_people',
  'site',
  'region',
  'labels',
  'suspended',
  'draining',
  'revoked_at',
  'standing_reason',
  'configured',
  'peer_url',
  'created_at',
  'updated_at',
] as const

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
        .where('suspended', '=', false)
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
        .select(columns)
        .where('id', '=', id)
        .where('deleted_at', 'is', null)
        .executeTakeFirst()
      return row && readEdge(row)
    },

    /** The edge of this id, if this is its key, and it is not suspended. @param publicKey SPKI PEM */
    async findByKey(id: string, publicKey: string): Promise<RosterEdge | undefined> {
      const row = await records
        .selectFrom('edges')
        .select(columns)
        .where('id', '=', id)
        .where('public_key', '=', publicKey)
        .where('deleted_at', 'is', null)
        .where('suspended', '=', false)
        .executeTakeFirst()
      return row && rosterEdgeOf(readEdge(row))
    },

    /** One page of the edges, and how many there are. */
    async list({ filters, sorts, page }: Listing): Promise<{
      readonly rows: readonly Edge[]
      readonly total: number
    }> {
      const all = records.selectFrom('edges').where('deleted_at', 'is', null)
      const query = applyFilters(all, filters)
      const { rows, total } = await readPage(query, {
        sorts,
        page,
        last: { column: 'id', descending: false },
        select: (sorted) => sorted.select(columns),
      })
      return { rows: rows.map(readEdge), total }
    },

    /** The stored hash of an edge's secret, to see whether a configured secret is the same; a revoked one has none. */
    async getSecretHash(id: string): Promise<string | undefined> {
      const row = await records
        .selectFrom('edges')
        .select('credential_hash')
        .where('id', '=', id)
        .where('deleted_at', 'is', null)
        .where('revoked_at', 'is', null)
        .executeTakeFirst()
      return row?.credential_hash
    },

    /**
     * The edge with this key, which becomes its own if it had none.
     * @param publicKey RSA, SPKI PEM, in node:crypto's spelling
     * @returns undefined when it has another one, or there is no such edge
     */
    bindKey(
      id: string,
      publicKey: string,
      { actor, now }: Deed,
    ): Promise<EnrolledEdge | undefined> {
      return records.transaction().execute(async (trx) => {
        const edge = await trx
          .selectFrom('edges')
          .select(['id', 'name', 'site', 'region', 'labels', 'public_key'])
          .where('id', '=', id)
          .where('deleted_at', 'is', null)
          .where('revoked_at', 'is', null)
          .forUpdate()
          .executeTakeFirst()
        if (edge === undefined) return undefined
        const { public_key: known, ...enrolled } = edge
        if (known !== null) return known === publicKey ? enrolled : undefined
        await trx
          .updateTable('edges')
          .set({ public_key: publicKey, updated_at: now })
          .where('id', '=', id)
          .execute()
        const description = 'showed its key'
        await appendAudit(trx, edgeAudit({ actor, operation: 'update', id, description }), now)
        await appendRosterEvent(trx, id, now)
        return enrolled
      })
    },

    /** Tells all edges where one of them is reached by the others of its site; undefined: nowhere. */
    setPeerUrl(id: string, url: string | undefined, now: Date): Promise<void> {
      return records.transaction().execute(async (trx) => {
        const changed = await trx
          .updateTable('edges')
          .set({ peer_url: url ?? '' })
          .where('id', '=', id)
          .where('deleted_at', 'is', null)
          .where('peer_url', '!=', url ?? '')
          .returning('id')
          .executeTakeFirst()
        if (changed !== undefined) await appendRosterEvent(trx, id, now)
      })
    },

    /** Writes an edge as the configuration has it: a new one, or the new state of a known one. */
    put(
      edge: EdgeRights,
      {
        secretHash,
        keepsKey,
        now,
      }: { readonly secretHash: string; readonly keepsKey: boolean; readonly now: Date },
    ): Promise<void> {
      return records.transaction().execute(async (trx) => {
        const state = {
          name: edge.name,
          credential_hash: secretHash,
          scope: JSON.stringify(edge.scope),
          accept_people: edge.acceptsPeople,
          configured: true,
          updated_at: now,
          deleted_at: null,
          deletion_id: null,
          ...(!keepsKey && { public_key: null }),
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
        await appendRosterEvent(trx, edge.id, now)
      })
    },

    /**
     * Changes what an edge may do, or where it is.
     * @returns it as it is then; undefined when there is none
     * @throws ApiError CONFLICT when the name is taken, or it was revoked
     */
    change(id: string, changes: EdgeChanges, { actor, now }: Deed): Promise<Edge | undefined> {
      return records.transaction().execute(async (trx) => {
        const { name, scope, acceptsPeople, site, region, labels } = changes
        if ((await edgeIn(trx, id))?.state === 'revoked') throw isRevoked(id)
        if (name !== undefined) await refuseTakenName(trx, name, id)
        const row = await trx
          .updateTable('edges')
          .set({
            updated_at: now,
            ...(name !== undefined && { name }),
            ...(scope !== undefined && { scope: JSON.stringify(scope) }),
            ...(acceptsPeople !== undefined && { accept_people: acceptsPeople }),
            ...(site !== undefined && { site }),
            ...(region !== undefined && { region }),
            ...(labels !== undefined && { labels: JSON.stringify(labels) }),
          })
          .where('id', '=', id)
          .where('deleted_at', 'is', null)
          .returning(columns)
          .executeTakeFirst()
        if (row === undefined) return undefined
        const edge = readEdge(row)
        const description = Object.keys(changes).join(' ')
        await appendAudit(trx, edgeAudit({ actor, operation: 'update', id, description }), now)
        await appendRosterEvent(trx, id, now)
        return edge
      })
    },
  }
}

/** In the transaction that writes the name. @throws ApiError CONFLICT */
export async function refuseTakenName(
  trx: Transaction<Schema>,
  name: string,
  except?: string,
): Promise<void> {
  await sql`LOCK TABLE edges IN SHARE ROW EXCLUSIVE MODE`.execute(trx)
  const taken = await trx
    .selectFrom('edges')
    .select(['id', 'revoked_at'])
    .where('name', '=', name)
    .where('deleted_at', 'is', null)
    .executeTakeFirst()
  if (taken === undefined || taken.id === except) return
  const instead =
    taken.revoked_at === null
      ? 'choose another name'
      : `it was revoked, and 'outport edges forget ${taken.id}' frees the name`
  throw new ApiError('CONFLICT', `an edge is called ${name} already: ${instead}`)
}

/** What an administrator is told of a deed that comes too late. */
export function isRevoked(id: string): ApiError {
  return new ApiError(
    'CONFLICT',
    `the edge ${id} was revoked for good: its machine joins anew by a new token, and 'outport edges forget ${id}' frees its name`,
  )
}

/** The edge of this id, locked until the transaction ends. */
export async function edgeIn(trx: Transaction<Schema>, id: string): Promise<Edge | undefined> {
  const row = await trx
    .selectFrom('edges')
    .select(columns)
    .where('id', '=', id)
    .where('deleted_at', 'is', null)
    .forUpdate()
    .executeTakeFirst()
  return row && readEdge(row)
}

/** Tells all edges what an edge is now, in the transaction that changed it. */
export async function appendRosterEvent(
  trx: Transaction<Schema>,
  id: string,
  now: Date,
): Promise<void> {
  const row = await trx
    .selectFrom('edges')
    .select(columns)
    .where('id', '=', id)
    .executeTakeFirstOrThrow()
  await appendEvents(trx, [{ type: 'edge', ...rosterEdgeOf(readEdge(row)) }], now)
}

/** All edges that were not revoked, as they know each other. */
export async function rosterOf(
  records: Records | Transaction<Schema>,
): Promise<readonly RosterEdge[]> {
  const rows = await records
    .selectFrom('edges')
    .select(columns)
    .where('deleted_at', 'is', null)
    .where('revoked_at', 'is', null)
    .orderBy('id')
    .execute()
  return rows.map((row) => rosterEdgeOf(readEdge(row)))
}

function rosterEdgeOf(edge: Edge): RosterEdge {
  const { id: edgeId, name, site, region, labels, scope, peerUrl, state } = edge
  return {
    edgeId,
    name,
    site,
    region,
    labels,
    scope,
    suspended: state === 'suspended',
    ...(state === 'draining' && { draining: true }),
    ...(peerUrl !== undefined && { peerUrl }),
  }
}

function readEdge(row: Pick<Selectable<EdgesTable>, (typeof columns)[number]>): Edge {
  return {
    id: row.id,
    name: row.name,
    scope: row.scope,
    acceptsPeople: row.accept_people,
    site: row.site,
    region: row.region,
    labels: row.labels,
    state: standingOf(row),
    reason: row.standing_reason,
    enrolled: !row.configured,
    peerUrl: row.peer_url === '' ? undefined : row.peer_url,
    createdAt: row.created_at,
    updatedAt: row.updated_at,
  }
}

function standingOf({
  revoked_at: revokedAt,
  suspended,
  draining,
}: Pick<Selectable<EdgesTable>, 'revoked_at' | 'suspended' | 'draining'>): EdgeStanding {
  if (revokedAt !== null) return 'revoked'
  if (suspended) return 'suspended'
  return draining ? 'draining' : 'ready'
}

/** What the audit log says of a deed done to an edge. */
export function edgeAudit(deed: {
  readonly actor: AuditActor
  readonly operation: AuditOperation<'edge'>
  readonly id: string
  readonly description: string
}): AuditEntry {
  const { actor, operation, id, description } = deed
  return { actor, operation, resourceType: 'edge', resource: id, description }
}

import { timingSafeEqual } from 'node:crypto'
import type { Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import { appendAudit, type AuditEntry, type Deed } from './audit.ts'
import { isUniqueViolation } from './conflicts.ts'
import type { Records } from './database.ts'
import {
  appendRosterEvent,
  edgeAudit,
  refuseTakenName,
  type EdgePlace,
  type EdgeRights,
} from './edges.ts'
import type { Schema } from './schema.ts'

/** What lets one key become an edge of these rights in this place, once; without its secret. */
export interface JoinToken extends Omit<EdgeRights, 'id'>, EdgePlace {
  readonly id: string
  readonly expiresAt: Date
  /** The edge that used it. */
  readonly edgeId: string | undefined
}

/** An edge that shows a token. */
export interface JoinAttempt {
  readonly tokenId: string
  /** sha256. */
  readonly secretHash: Buffer
  /** What it would be called; the token's own name where that has one. */
  readonly name: string
  /** RSA, SPKI PEM, in node:crypto's spelling. */
  readonly publicKey: string
  /** For an edge that is new. */
  readonly newId: string
  /** Of the secret by which it will log in. */
  readonly credentialHash: string
}

/** The edge that a token made, or had made of the same key. */
export interface JoinedEdge extends EdgePlace {
  readonly id: string
  readonly name: string
}

export type JoinTokens = ReturnType<typeof createJoinTokens>

/** Tokens by which edges join; expired ones stay for a day, so that the list can say so. */
export function createJoinTokens(records: Records) {
  return {
    create(
      token: Omit<JoinToken, 'edgeId'>,
      secretHash: Buffer,
      { actor, now }: Deed,
    ): Promise<void> {
      return records.transaction().execute(async (trx) => {
        await trx.deleteFrom('join_tokens').where('expires_at', '<', dayBefore(now)).execute()
        await trx
          .insertInto('join_tokens')
          .values({
            id: token.id,
            secret_hash: secretHash,
            name: token.name,
            scope: JSON.stringify(token.scope),
            site: token.site,
            region: token.region,
            labels: JSON.stringify(token.labels),
            accept_people: token.acceptsPeople,
            expires_at: token.expiresAt,
            created_at: now,
          })
          .execute()
        const description = `for the edge ${token.name}`
        await appendAudit(trx, tokenAudit({ actor, operation: 'create', token, description }), now)
      })
    },

    /** The newest first. */
    async list(): Promise<readonly JoinToken[]> {
      const rows = await records
        .selectFrom('join_tokens')
        .selectAll()
        .orderBy('created_at', 'desc')
        .orderBy('id')
        .execute()
      return rows.map((row) => ({
        id: row.id,
        name: row.name,
        scope: row.scope,
        acceptsPeople: row.accept_people,
        site: row.site,
        region: row.region,
        labels: row.labels,
        expiresAt: row.expires_at,
        edgeId: row.edge_id ?? undefined,
      }))
    },

    /** Takes a token back; the edge that it made stays. Returns false when there is none. */
    remove(id: string, { actor, now }: Deed): Promise<boolean> {
      return records.transaction().execute(async (trx) => {
        const token = await trx
          .deleteFrom('join_tokens')
          .where('id', '=', id)
          .returning(['id', 'name'])
          .executeTakeFirst()
        if (token === undefined) return false
        const description = `for the edge ${token.name}`
        await appendAudit(trx, tokenAudit({ actor, operation: 'delete', token, description }), now)
        return true
      })
    },

    /**
     * Makes an edge of the key, or gives the one that the same key and token made before another credential: its answer
     * may have been lost on the way, and for that the token counts a day longer.
     * @returns undefined when the token is unknown, its secret another, expired, or used by another key
     * @throws ApiError CONFLICT when the name is taken, or the key is another edge's
     */
    use(attempt: JoinAttempt, { actor, now }: Deed): Promise<JoinedEdge | undefined> {
      return records.transaction().execute(async (trx) => {
        const token = await trx
          .selectFrom('join_tokens')
          .selectAll()
          .where('id', '=', attempt.tokenId)
          .forUpdate()
          .executeTakeFirst()
        if (token === undefined || !timingSafeEqual(token.secret_hash, attempt.secretHash))
          return undefined
        const until = token.edge_id === null ? now : dayBefore(now)
        if (token.expires_at <= until) return undefined
        if (token.edge_id !== null) return renewCredential(trx, token.edge_id, { attempt, now })
        const { newId: id, publicKey } = attempt
        const { name, site, region, labels } = token
        await refuseTakenName(trx, name)
        const made = trx
          .insertInto('edges')
          .values({
            id,
            name,
            credential_hash: attempt.credentialHash,
            scope: JSON.stringify(token.scope),
            accept_people: token.accept_people,
            site,
            region,
            labels: JSON.stringify(labels),
            public_key: publicKey,
            created_at: now,
            updated_at: now,
          })
          .execute()
        await made.catch(refuseTakenKey)
        await trx
          .updateTable('join_tokens')
          .set({ edge_id: id })
          .where('id', '=', token.id)
          .execute()
        const description = `joined as ${attempt.name} by the token ${token.id}`
        await appendAudit(trx, edgeAudit({ actor, operation: 'create', id, description }), now)
        await appendRosterEvent(trx, id, now)
        return { id, name, site, region, labels }
      })
    },
  }
}

/** @throws ApiError CONFLICT for a key that another edge has: its folder was copied, say */
function refuseTakenKey(error: unknown): never {
  if (!isUniqueViolation(error)) throw error
  throw new ApiError(
    'CONFLICT',
    'this key is the key of another edge already: revoke that one first, or let this machine make a key of its own',
  )
}

async function renewCredential(
  trx: Transaction<Schema>,
  id: string,
  { attempt, now }: { readonly attempt: JoinAttempt; readonly now: Date },
): Promise<JoinedEdge | undefined> {
  const edge = await trx
    .updateTable('edges')
    .set({ credential_hash: attempt.credentialHash, updated_at: now })
    .where('id', '=', id)
    .where('public_key', '=', attempt.publicKey)
    .where('deleted_at', 'is', null)
    .where('suspended', '=', false)
    .returning(['id', 'name', 'site', 'region', 'labels'])
    .executeTakeFirst()
  // Whatever is remembered of its old credential goes.
  if (edge !== undefined) await appendRosterEvent(trx, id, now)
  return edge
}

function tokenAudit(deed: {
  readonly actor: AuditEntry['actor']
  readonly operation: 'create' | 'delete'
  readonly token: Pick<JoinToken, 'id'>
  readonly description: string
}): AuditEntry {
  const { actor, operation, token, description } = deed
  return { actor, operation, resourceType: 'join-token', resource: token.id, description }
}

function dayBefore(now: Date): Date {
  return new Date(now.getTime() - 86_400_000)
}

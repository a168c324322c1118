import { sql, type RawBuilder, type Transaction } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import type { StoredBlob } from '../accounts/caller.ts'
import type { Records } from './database.ts'
import { appendEvents } from './outbox.ts'
import { retryDeadlock } from './retry.ts'
import type { Schema } from './schema.ts'
import { insertLinks, keepCopy } from './stored-blobs.ts'
import type { Claim } from './uploads.ts'

/** The bytes of a list, under a key that was registered before. */
export interface ReceivedPieceList extends StoredBlob {
  readonly id: string
  readonly claimedBy: string
  /** The blob that it is of. */
  readonly of: Digest
}

export type PieceLists = ReturnType<typeof createPieceLists>

/** Nobody's account. */
const owner = 'piece-lists'
/** Of what rules bring. Smaller blobs are not shared out among edges (edge/sources/sources.ts): each has them from one, at once. */
const wantedFromBytes = 8 * 1024 * 1024

/**
 * Which blobs have a list of their pieces. A list is a blob of every repository that has its own blob, by a link made
 * with that one's; whoever collects what no manifest needs must take both for needed alike.
 */
export function createPieceLists(records: Records) {
  return {
    /** What came last of the blobs from this size on, and of those that rules want, that has no list and is not among these. */
    async next(
      from: number,
      except: readonly Digest[],
    ): Promise<(StoredBlob & { readonly repositoryId: number }) | undefined> {
      const newest = (
        blobs: RawBuilder<unknown>,
        { at, size }: { readonly at: RawBuilder<unknown>; readonly size: number },
      ) => sql`(
        SELECT b.digest, b.key, b.size, l.id, ${at} AS at FROM ${blobs}
        JOIN LATERAL (SELECT repository_id AS id FROM links WHERE digest = b.digest LIMIT 1) l ON true
        WHERE b.piece_list IS NULL AND b.state = 'live' AND b.size > 1048576 AND b.size >= ${size}
          AND b.digest <> ALL (${except}::text[])
        ORDER BY at DESC LIMIT 1)`
      // Each by an index of its own.
      const large = newest(sql`blobs b`, { at: sql`b.stored_at`, size: from })
      const wanted = newest(sql`wanted_lists w JOIN blobs b ON b.digest = w.digest`, {
        at: sql`w.wanted_at`,
        size: wantedFromBytes,
      })
      const { rows } = await sql<{ digest: Digest; key: string; size: number; id: number }>`
        ${large} UNION ALL ${wanted} ORDER BY at DESC LIMIT 1`.execute(records)
      const [row] = rows
      if (row === undefined) return undefined
      const { digest, key, size, id } = row
      return { digest, key, size, repositoryId: id }
    },

    /** Registers the key of a list before its first byte; one that is never committed is removed as an upload is. */
    async register(
      { id, key }: Pick<ReceivedPieceList, 'id' | 'key'>,
      { repositoryId, claim }: { readonly repositoryId: number; readonly claim: Claim },
    ): Promise<void> {
      await records
        .insertInto('uploads')
        .values({
          id,
          key,
          repository_id: repositoryId,
          owner,
          algorithm: null,
          claimed_by: claim.by,
          claimed_until: sql<Date>`now() + ${claim.forMs} * interval '1 millisecond'`,
        })
        .execute()
    },

    /**
     * Gives the blob its list, and the list to all who have the blob.
     * @returns whether the bytes are in use: the caller removes them if not. undefined when the claim was lost:
     *   somebody else decides about them then
     */
    commit(list: ReceivedPieceList, now: Date): Promise<boolean | undefined> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          const session = await trx
            .deleteFrom('uploads')
            .where('id', '=', list.id)
            .where('claimed_by', '=', list.claimedBy)
            .returning('id')
            .executeTakeFirst()
          if (session === undefined) return undefined
          // Whoever links the blob now waits for this, and sees the list; whoever did before is seen below.
          const blob = await trx
            .selectFrom('blobs')
            .select('key')
            .where('digest', '=', list.of)
            .where('state', '<>', 'gone')
            .forUpdate()
            .executeTakeFirst()
          const { digest, key, size } = list
          if (blob === undefined) return false
          const stored = await keepCopy(trx, { digest, key, size })
          await trx
            .updateTable('blobs')
            .set({ piece_list: digest })
            .where('key', '=', blob.key)
            .execute()
          await trx.deleteFrom('wanted_lists').where('digest', '=', list.of).execute()
          const holders = await trx
            .selectFrom('links as l')
            .innerJoin('repositories as r', 'r.id', 'l.repository_id')
            .select(['r.id', 'r.project_id'])
            .where('l.digest', '=', list.of)
            .orderBy('r.id')
            .execute()
          await insertLinks(trx, { repositories: holders.map(({ id }) => id), digest })
          const projects = [...new Set(holders.map(({ project_id: projectId }) => projectId))]
          const facts = projects.map((projectId) => {
            return { type: 'piece-list', projectId, digest: list.of, list: digest } as const
          })
          await appendEvents(trx, facts, now)
          return stored.key === key
        }),
      )
    },
  }
}

/**
 * Has those blobs listed that these manifests need, and the manifests that an index names, though they are too small
 * for a list else. One that comes later is listed with what is asked for next.
 * @returns whether there is a list to make that nobody wanted before
 */
export async function wantLists(
  trx: Transaction<Schema>,
  manifests: readonly { readonly repositoryId: number; readonly digest: Digest }[],
): Promise<boolean> {
  const repositories = manifests.map(({ repositoryId }) => repositoryId)
  const digests = manifests.map(({ digest }) => digest)
  // In one order for everybody: who wants the same at the same time waits for the other's end.
  const { numAffectedRows = 0n } = await sql`
    WITH RECURSIVE needed AS (
      SELECT m.id, m.repository_id
      FROM unnest(${repositories}::integer[], ${digests}::text[]) AS c (repository_id, digest)
      JOIN manifests m USING (repository_id, digest) WHERE m.deleted_at IS NULL
      UNION
      SELECT m.id, m.repository_id FROM needed n
      JOIN manifest_children c ON c.manifest_id = n.id AND c.kind = 'manifest'
      JOIN manifests m ON m.repository_id = n.repository_id AND m.digest = c.digest AND m.deleted_at IS NULL
    )
    INSERT INTO wanted_lists (digest)
    SELECT DISTINCT c.digest FROM needed n JOIN manifest_children c ON c.manifest_id = n.id
    WHERE c.kind <> 'manifest' AND c.size >= ${wantedFromBytes} AND NOT EXISTS (
      SELECT FROM blobs b WHERE b.digest = c.digest AND b.state <> 'gone' AND b.piece_list IS NOT NULL)
    ORDER BY c.digest
    ON CONFLICT (digest) DO NOTHING`.execute(trx)
  return numAffectedRows > 0n
}

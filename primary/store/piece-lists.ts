import { sql } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import type { StoredBlob } from '../accounts/caller.ts'
import type { Records } from './database.ts'
import { appendEvents } from './outbox.ts'
import { retryDeadlock } from './retry.ts'
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

/**
 * Which blobs have a list of their pieces. A list is a blob of every repository that has its own blob, by a link made
 * with that one's; whoever collects what no manifest needs must take both for needed alike.
 */
export function createPieceLists(records: Records) {
  return {
    /** The newest of the blobs from this size on that have no list, and are not among these. */
    async next(
      from: number,
      except: readonly Digest[],
    ): Promise<(StoredBlob & { readonly repositoryId: number }) | undefined> {
      const { rows } = await sql<{ digest: Digest; key: string; size: number; id: number }>`
        SELECT b.digest, b.key, b.size, l.id FROM blobs b
        JOIN LATERAL (SELECT repository_id AS id FROM links WHERE digest = b.digest LIMIT 1) l ON true
        WHERE b.piece_list IS NULL AND b.state = 'live' AND b.size > 1048576 AND b.size >= ${from}
          AND b.digest <> ALL (${except}::text[])
        ORDER BY b.stored_at DESC LIMIT 1`.execute(records)
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

import { sql, type Transaction } from 'kysely'
import type { DigestAlgorithm } from '../../shared/oci/digest.ts'
import type { RepositoryFacts } from '../accounts/caller.ts'
import type { Records } from './database.ts'
import { appendEvents } from './outbox.ts'
import { holdRepository, type RepositoryPlace } from './repositories.ts'
import { retryDeadlock } from './retry.ts'
import type { Schema } from './schema.ts'

/** An upload session: a key that was registered before the first byte. */
export interface UploadSession {
  readonly id: string
  readonly key: string
  readonly repositoryId: number
  /** What the client announced; undefined: whatever its final digest says. */
  readonly algorithm: DigestAlgorithm | undefined
}

/** A session is found only by its own repository and the account that opened it. */
export interface UploadAddress {
  readonly id: string
  readonly repositoryId: number
  readonly owner: string
}

export interface NewUpload {
  readonly id: string
  readonly key: string
  readonly place: RepositoryPlace
  readonly owner: string
  readonly algorithm: DigestAlgorithm | undefined
  /** Open sessions that one account may have. */
  readonly maxOpen: number
  /** Claims it from the start; undefined: the next request does. */
  readonly claim: Claim | undefined
}

/** Which request writes, and for how long from now, by the database's clock, nobody else may. */
export interface Claim {
  readonly by: string
  readonly forMs: number
}

export type Uploads = ReturnType<typeof createUploads>

/** The records of upload sessions. Their bytes are the BlobStore's. */
export function createUploads(records: Records) {
  return {
    /**
     * Registers a session, and creates its repository when it is new.
     * @returns undefined when the account has too many open sessions
     * @throws OciError NAME_UNKNOWN when the project was deleted meanwhile
     */
    create(upload: NewUpload, now: Date): Promise<RepositoryFacts | undefined> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          const { repository, facts } = await holdRepository(trx, {
            ...upload.place,
            guardProject: false,
          })
          if (!(await insertUpload(trx, { upload, repositoryId: repository.id }))) return undefined
          await appendEvents(trx, facts, now)
          return repository
        }),
      )
    },

    async find(address: UploadAddress): Promise<UploadSession | undefined> {
      const row = await records
        .selectFrom('uploads')
        .select(['id', 'key', 'repository_id', 'algorithm'])
        .where('id', '=', address.id)
        .where('repository_id', '=', address.repositoryId)
        .where('owner', '=', address.owner)
        .executeTakeFirst()
      return row && readSession(row)
    },

    /**
     * Makes a request the session's one writer.
     * @returns undefined when there is no such session, 'busy' while another request writes it
     */
    async claim(
      address: UploadAddress,
      { by, forMs }: Claim,
    ): Promise<UploadSession | 'busy' | undefined> {
      const row = await records
        .updateTable('uploads')
        .set({ claimed_by: by, claimed_until: afterMs(forMs) })
        .where('id', '=', address.id)
        .where('repository_id', '=', address.repositoryId)
        .where('owner', '=', address.owner)
        .where(sql<boolean>`(claimed_until IS NULL OR claimed_until < now())`)
        .returning(['id', 'key', 'repository_id', 'algorithm'])
        .executeTakeFirst()
      if (row !== undefined) return readSession(row)
      return (await this.find(address)) === undefined ? undefined : 'busy'
    },

    /** Holds on to a session that is being written. */
    async renew(id: string, { by, forMs }: Claim): Promise<void> {
      await records
        .updateTable('uploads')
        .set({ claimed_until: afterMs(forMs), updated_at: sql`now()` })
        .where('id', '=', id)
        .where('claimed_by', '=', by)
        .execute()
    },

    /** Lets the next request write it, and counts as activity. Does nothing once the session is gone. */
    async release(id: string, by: string): Promise<void> {
      await records
        .updateTable('uploads')
        .set({ claimed_by: null, claimed_until: null, updated_at: sql`now()` })
        .where('id', '=', id)
        .where('claimed_by', '=', by)
        .execute()
    },

    /** Lets go of whatever is claimed by a name that begins so. */
    async releaseAll(prefix: string): Promise<void> {
      await records
        .updateTable('uploads')
        .set({ claimed_by: null, claimed_until: null })
        .where(sql<boolean>`starts_with(claimed_by, ${prefix})`)
        .execute()
    },

    /**
     * Forgets a session, so that nothing can come of its bytes.
     * @returns false when it is no longer claimed by that name
     */
    async remove(id: string, by: string): Promise<boolean> {
      const removed = await records
        .deleteFrom('uploads')
        .where('id', '=', id)
        .where('claimed_by', '=', by)
        .returning('id')
        .executeTakeFirst()
      return removed !== undefined
    },

    /** Claims sessions that nobody went on with for `idleMs`, for removal. */
    async claimExpired({
      idleMs,
      claim,
      limit,
    }: {
      readonly idleMs: number
      readonly claim: Claim
      readonly limit: number
    }): Promise<readonly UploadSession[]> {
      const rows = await records
        .updateTable('uploads')
        .set({ claimed_by: claim.by, claimed_until: afterMs(claim.forMs) })
        .where('id', 'in', (expired) =>
          expired
            .selectFrom('uploads')
            .select('id')
            .where('updated_at', '<', afterMs(-idleMs))
            .where(sql<boolean>`(claimed_until IS NULL OR claimed_until < now())`)
            .orderBy('updated_at')
            .limit(limit)
            .forUpdate()
            .skipLocked(),
        )
        .returning(['id', 'key', 'repository_id', 'algorithm'])
        .execute()
      return rows.map(readSession)
    },
  }
}

function afterMs(milliseconds: number) {
  return sql<Date>`now() + ${milliseconds} * interval '1 millisecond'`
}

async function insertUpload(
  trx: Transaction<Schema>,
  { upload, repositoryId }: { readonly upload: NewUpload; readonly repositoryId: number },
): Promise<boolean> {
  const { id, key, owner, algorithm, maxOpen, claim } = upload
  const { rows } = await sql`
    INSERT INTO uploads (id, key, repository_id, owner, algorithm, claimed_by, claimed_until)
    SELECT ${id}, ${key}, ${repositoryId}, ${owner}, ${algorithm ?? null}, ${claim?.by ?? null},
      ${claim === undefined ? null : afterMs(claim.forMs)}
    WHERE (SELECT count(*) FROM (SELECT 1 FROM uploads WHERE owner = ${owner} LIMIT ${maxOpen}) AS open) < ${maxOpen}
    RETURNING id`.execute(trx)
  return rows.length > 0
}

function readSession(row: {
  id: string
  key: string
  repository_id: number
  algorithm: string | null
}): UploadSession {
  const algorithm =
    row.algorithm === 'sha256' || row.algorithm === 'sha512' ? row.algorithm : undefined
  return { id: row.id, key: row.key, repositoryId: row.repository_id, algorithm }
}

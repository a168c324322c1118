import { sql, type Transaction } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import { OciError } from '../../shared/oci/errors.ts'
import type { RepositoryName } from '../../shared/oci/reference.ts'
import type { EventFact } from '../../shared/replication/events.ts'
import type { Caller, ProjectFacts, RepositoryFacts, StoredBlob } from '../accounts/caller.ts'
import type { Records } from './database.ts'
import { appendEvents } from './outbox.ts'
import { holdRepository, type RepositoryPlace } from './repositories.ts'
import { retryDeadlock } from './retry.ts'
import type { Schema } from './schema.ts'

/** Bytes that the BlobStore has synced under a key registered by an upload session. */
export interface ReceivedBlob {
  readonly uploadId: string
  /** The request whose claim on the session must still hold. */
  readonly claimedBy: string
  readonly key: string
  readonly repositoryId: number
  readonly digest: Digest
  readonly size: number
}

export interface MountOrder {
  readonly digest: Digest
  readonly from: RepositoryFacts
  readonly to: RepositoryPlace
}

/** A repository that holds a digest, with what access needs to decide whether the caller may pull it. */
export interface BlobSource {
  readonly repository: RepositoryFacts
  readonly project: ProjectFacts
  readonly roleId: number | undefined
}

/** More repositories than this are not looked at for a mount that names none. */
const maxSources = 100

export type StoredBlobs = ReturnType<typeof createStoredBlobs>

/** Which copy a digest has, and which repositories have it. Bytes are the BlobStore's. */
export function createStoredBlobs(records: Records) {
  return {
    /**
     * Makes received bytes the repository's: copy, link, and the end of the upload session in one
     * transaction. A digest keeps its first live copy; a condemned one becomes live again.
     * @returns the copy that counts; the caller removes its own bytes when the key is another. undefined when
     *   the session is no longer the caller's: somebody else decides about the bytes then
     */
    commit(received: ReceivedBlob, now: Date): Promise<StoredBlob | undefined> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          const session = await trx
            .deleteFrom('uploads')
            .where('id', '=', received.uploadId)
            .where('claimed_by', '=', received.claimedBy)
            .returning('id')
            .executeTakeFirst()
          if (session === undefined) return undefined
          const { pieceList, ...stored } = await keepCopy(trx, received)
          const { repositoryId, digest } = received
          await addLink(trx, { repositoryId, digest, pieceList }, now)
          return stored
        }),
      )
    },

    /**
     * Gives `to` a link to what `from` has, and creates the repository when it is new.
     * @returns undefined when `from` no longer has it
     * @throws OciError NAME_UNKNOWN when the project of `to` was deleted meanwhile
     */
    mount(order: MountOrder, now: Date): Promise<RepositoryFacts | undefined> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          const copy = await reviveCopy(trx, order.digest)
          if (copy === undefined) return undefined
          const source = await trx
            .selectFrom('links')
            .select('digest')
            .where('repository_id', '=', order.from.id)
            .where('digest', '=', order.digest)
            .forKeyShare()
            .executeTakeFirst()
          if (source === undefined) return undefined
          const { repository, facts } = await holdRepository(trx, {
            ...order.to,
            guardProject: false,
          })
          await appendEvents(trx, facts, now)
          const { digest, pieceList } = copy
          await addLink(trx, { repositoryId: repository.id, digest, pieceList }, now)
          return repository
        }),
      )
    },

    /**
     * Takes a condemned link and copy back, so that "it exists" can be promised.
     * @returns false when either is gone
     */
    revive(blob: { readonly repositoryId: number; readonly digest: Digest }): Promise<boolean> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          if (!(await reviveCopy(trx, blob.digest))) return false
          const revived = await trx
            .updateTable('links')
            .set({ condemned_at: null })
            .where('repository_id', '=', blob.repositoryId)
            .where('digest', '=', blob.digest)
            .returning('digest')
            .executeTakeFirst()
          return revived !== undefined
        }),
      )
    },

    /**
     * Takes the blob from this repository only; bytes and other repositories' links stay.
     * @returns false when the repository does not have it
     * @throws OciError UNSUPPORTED naming a manifest that needs it
     */
    unlink(
      { repository, digest }: { readonly repository: RepositoryFacts; readonly digest: Digest },
      now: Date,
    ): Promise<boolean> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          const link = await trx
            .selectFrom('links')
            .select('digest')
            .where('repository_id', '=', repository.id)
            .where('digest', '=', digest)
            .forUpdate()
            .executeTakeFirst()
          if (link === undefined) return false
          // A statement of its own: it sees the manifests of whoever held the link before us.
          await refuseNeeded(trx, { repository, digest })
          const { id: repositoryId, projectId } = repository
          const removed = await trx
            .deleteFrom('links')
            .where('repository_id', '=', repositoryId)
            .where((link) =>
              link.or([
                link('digest', '=', digest),
                link('digest', 'in', pieceListsOf(trx, digest)),
              ]),
            )
            .returning('digest')
            .execute()
          const facts = removed.map(({ digest }): EventFact => {
            return { type: 'link-deleted', projectId, repositoryId, digest: digest as Digest }
          })
          await appendEvents(trx, facts, now)
          return true
        }),
      )
    },

    /** Repositories that hold the digest, those that the caller can probably pull first. */
    async sources({
      digest,
      caller,
    }: {
      readonly digest: Digest
      readonly caller: Caller
    }): Promise<readonly BlobSource[]> {
      const userId = caller.kind === 'user' ? caller.id : null
      const { rows } = await sql<{
        repository_id: number
        repository_name: string
        project_id: number
        project_name: string
        public: boolean
        role_id: number | null
      }>`
        SELECT r.id AS repository_id, r.name AS repository_name, p.id AS project_id,
          p.name AS project_name, p.public, m.role_id
        FROM links l
        JOIN blobs b ON b.digest = l.digest AND b.state <> 'gone'
        JOIN repositories r ON r.id = l.repository_id AND r.deleted_at IS NULL
        JOIN projects p ON p.id = r.project_id AND p.deleted_at IS NULL
        LEFT JOIN members m ON m.project_id = p.id AND m.user_id = ${userId}
        WHERE l.digest = ${digest}
        ORDER BY p.public OR m.role_id IS NOT NULL DESC, r.id
        LIMIT ${maxSources}`.execute(records)
      return rows.map((row) => ({
        repository: {
          id: row.repository_id,
          name: row.repository_name as RepositoryName,
          projectId: row.project_id,
        },
        project: { id: row.project_id, name: row.project_name, public: row.public },
        roleId: row.role_id ?? undefined,
      }))
    },
  }
}

/** The stored bytes of a digest, and what they can be proved by piece by piece. */
interface CopyOfBlob extends StoredBlob {
  readonly pieceList: Digest | undefined
}

/** Registers the received copy, or keeps the one that is there. */
export async function keepCopy(
  trx: Transaction<Schema>,
  received: StoredBlob,
): Promise<CopyOfBlob> {
  const { digest, key, size } = received
  for (;;) {
    const inserted = await trx
      .insertInto('blobs')
      .values({ key, digest, size, state: 'live' })
      .onConflict((conflict) =>
        conflict.columns(['digest']).where('state', '<>', 'gone').doNothing(),
      )
      .returning('key')
      .executeTakeFirst()
    if (inserted !== undefined) return { digest, key, size, pieceList: undefined }
    const kept = await reviveCopy(trx, digest)
    if (kept) return kept
    // The copy that was in the way has just gone: ours takes its place.
  }
}

/** Locks the digest's copy against the collector and makes it live; undefined when there is none. */
async function reviveCopy(
  trx: Transaction<Schema>,
  digest: Digest,
): Promise<CopyOfBlob | undefined> {
  const row = await trx
    .selectFrom('blobs')
    .select(['key', 'size', 'state', 'piece_list'])
    .where('digest', '=', digest)
    .where('state', '<>', 'gone')
    .forKeyShare()
    .executeTakeFirst()
  if (row === undefined) return undefined
  if (row.state === 'condemned') {
    await trx
      .updateTable('blobs')
      .set({ state: 'live', condemned_at: null })
      .where('key', '=', row.key)
      .execute()
  }
  const { key, size, piece_list: list } = row
  return { digest, key, size, pieceList: list === null ? undefined : (list as Digest) }
}

/** What a repository that has the blob may have besides. */
const pieceListsOf = (trx: Transaction<Schema>, digest: Digest) =>
  trx
    .selectFrom('blobs')
    .select((blob) => blob.ref('piece_list').$notNull().as('piece_list'))
    .where('digest', '=', digest)
    .where('state', '<>', 'gone')
    .where('piece_list', 'is not', null)

/** The blob's list of pieces goes with it, and whoever may read the project is told of that. */
async function addLink(
  trx: Transaction<Schema>,
  link: {
    readonly repositoryId: number
    readonly digest: Digest
    readonly pieceList: Digest | undefined
  },
  now: Date,
): Promise<void> {
  const { repositoryId, digest, pieceList } = link
  await insertLinks(trx, { repositories: [repositoryId], digest })
  if (pieceList === undefined) return
  const fresh = await insertLinks(trx, { repositories: [repositoryId], digest: pieceList })
  if (fresh.length === 0) return
  const { project_id: projectId } = await trx
    .selectFrom('repositories')
    .select('project_id')
    .where('id', '=', repositoryId)
    .executeTakeFirstOrThrow()
  await appendEvents(trx, [{ type: 'piece-list', projectId, digest, list: pieceList }], now)
}

/** Gives repositories a blob, and takes it back for those that were about to lose it. @returns those that had it not */
export async function insertLinks(
  trx: Transaction<Schema>,
  { repositories, digest }: { readonly repositories: readonly number[]; readonly digest: Digest },
): Promise<readonly number[]> {
  if (repositories.length === 0) return []
  const rows = await trx
    .insertInto('links')
    .values(repositories.map((id) => ({ repository_id: id, digest })))
    .onConflict((conflict) =>
      conflict
        .columns(['repository_id', 'digest'])
        .doUpdateSet({ condemned_at: null })
        .where('links.condemned_at', 'is not', null),
    )
    .returning('repository_id')
    .execute()
  return rows.map(({ repository_id: id }) => id)
}

async function refuseNeeded(
  trx: Transaction<Schema>,
  { repository, digest }: { readonly repository: RepositoryFacts; readonly digest: Digest },
): Promise<void> {
  const needing = await trx
    .selectFrom('manifest_children as c')
    .innerJoin('manifests as m', 'm.id', 'c.manifest_id')
    .select('m.digest')
    .where('c.digest', '=', digest)
    .where('c.kind', 'in', ['config', 'layer'])
    .where('m.repository_id', '=', repository.id)
    .where('m.deleted_at', 'is', null)
    .limit(1)
    .executeTakeFirst()
  if (needing === undefined) return
  throw new OciError(
    'UNSUPPORTED',
    `the manifest ${needing.digest} needs this blob: delete that manifest first`,
    { detail: { digest, manifest: needing.digest } },
  )
}

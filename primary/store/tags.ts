import { randomUUID } from 'node:crypto'
import { sql, type Transaction } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import { namesDigest } from '../../shared/oci/entity-tags.ts'
import { OciError } from '../../shared/oci/errors.ts'
import type { Tag } from '../../shared/oci/reference.ts'
import { hashOfBody, type LogPlace } from '../../shared/replication/chain.ts'
import type { EventBody } from '../../shared/replication/events.ts'
import type { WaitingMove } from '../../shared/replication/signed-tag.ts'
import type { RepositoryFacts } from '../accounts/caller.ts'
import { appendAudit, type AuditActor } from './audit.ts'
import type { Records } from './database.ts'
import { batchRows } from './events.ts'
import { appendEvents } from './outbox.ts'
import { retryDeadlock } from './retry.ts'
import type { Schema } from './schema.ts'

/** `If-Match` and `If-None-Match` of a PUT: digests without their quotes, or `*` for any; empty: no condition. [RFC 9110 §13.1] */
export interface TagConditions {
  readonly ifMatch: readonly string[]
  readonly ifNoneMatch: readonly string[]
}

export interface TagQuery {
  readonly repositoryId: number
  /** Names after this one, bytewise; it need not exist. */
  readonly after: string
  readonly limit: number | undefined
}

export interface TagMove {
  readonly repository: RepositoryFacts
  readonly tags: readonly Tag[]
  readonly digest: Digest
  readonly conditions: TagConditions
  /** Whether the manifest came to be in this transaction: what the conditions of an untagged PUT read. */
  readonly manifestIsNew: boolean
  readonly now: Date
}

/** Where a tag pointed when the log stood at a place. */
export interface TagState extends LogPlace {
  readonly digest: Digest
  /** What moved it there, if that has no number yet: the next batch has it. */
  readonly waiting?: WaitingMove
}

/** A row of the outbox. */
interface WaitingRow {
  readonly id: number
  readonly body: string
}

export type Tags = ReturnType<typeof createTags>

/** The tags of a repository. */
export function createTags(records: Records) {
  return {
    /** Names in bytewise order. [distribution-spec, Listing Tags] */
    async list({ repositoryId, after, limit }: TagQuery): Promise<readonly string[]> {
      let query = records
        .selectFrom('tags')
        .select('name')
        .where('repository_id', '=', repositoryId)
        .where('deleted_at', 'is', null)
        .where('name', '>', after)
        .orderBy('name')
      if (limit !== undefined) query = query.limit(limit)
      return (await query.execute()).map((row) => row.name)
    },

    /** The digest that the tag points at. */
    async resolve(repositoryId: number, tag: Tag): Promise<Digest | undefined> {
      const row = await records
        .selectFrom('tags')
        .select('digest')
        .where('repository_id', '=', repositoryId)
        .where('name', '=', tag)
        .where('deleted_at', 'is', null)
        .executeTakeFirst()
      return row && (row.digest as Digest)
    },

    /**
     * Where the tag points, and where the log stood then, in one look.
     * @returns undefined when it is not there, or the log is behind itself; `waits` when what moved it last is not to be
     *   numbered with the next batch: it is not known then from which event on that is known
     */
    async stateOf(
      { id, projectId }: Pick<RepositoryFacts, 'id' | 'projectId'>,
      tag: Tag,
    ): Promise<TagState | 'waits' | undefined> {
      const row = await records
        .selectFrom('event_head as h')
        .innerJoin('tags as t', (join) =>
          join.on('t.repository_id', '=', id).on('t.name', '=', tag),
        )
        .select(['h.epoch', 'h.seq', 't.digest'])
        .select(({ selectFrom }) => [
          selectFrom('outbox as o')
            .select(
              sql<WaitingRow[]>`json_agg(json_build_object('id', o.id, 'body', o.body))`.as('rows'),
            )
            .where('o.stream', '=', `project:${projectId}`)
            // Bodies are JSON, and no character of a tag is written otherwise there.
            .where(sql<boolean>`strpos(o.body, ${JSON.stringify(tag)}) > 0`)
            .as('rows'),
          selectFrom('outbox')
            .select(sql<number>`max(id) - min(id) + 1`.as('ids'))
            .as('ids'),
        ])
        .where('t.deleted_at', 'is', null)
        .where('h.behind', 'is', null)
        .executeTakeFirst()
      if (row === undefined) return undefined
      const { epoch, seq } = row
      const waiting = lastMove(row.rows ?? [], { repositoryId: id, tag })
      if (waiting !== undefined && Number(row.ids) > batchRows) return 'waits'
      return { epoch, seq, digest: row.digest as Digest, ...(waiting && { waiting }) }
    },

    /**
     * Removes a tag; the manifest stays.
     * @returns false when there is no such tag
     */
    remove(
      {
        repository,
        tag,
        actor,
      }: { readonly repository: RepositoryFacts; readonly tag: Tag; readonly actor: AuditActor },
      now: Date,
    ): Promise<boolean> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          const removed = await trx
            .updateTable('tags')
            .set({ deleted_at: now, deletion_id: randomUUID() })
            .where('repository_id', '=', repository.id)
            .where('name', '=', tag)
            .where('deleted_at', 'is', null)
            .returning('id')
            .executeTakeFirst()
          if (removed === undefined) return false
          await appendAudit(
            trx,
            {
              actor,
              operation: 'delete',
              resourceType: 'tag',
              resource: `${repository.name}:${tag}`,
              projectId: repository.projectId,
            },
            now,
          )
          await appendEvents(
            trx,
            [
              {
                type: 'tag-deleted',
                projectId: repository.projectId,
                repositoryId: repository.id,
                tag,
              },
            ],
            now,
          )
          return true
        }),
      )
    },
  }
}

/**
 * Points the tags at the digest, inside the transaction of the manifest.
 * @returns the tags that pointed elsewhere or nowhere before
 * @throws OciError MANIFEST_INVALID (412) when a condition does not hold
 */
export async function moveTags(trx: Transaction<Schema>, move: TagMove): Promise<readonly Tag[]> {
  if (move.tags.length === 0) {
    checkConditions(move.conditions, {
      current: move.manifestIsNew ? undefined : move.digest,
      what: move.digest,
    })
  }
  const moved: Tag[] = []
  for (const tag of [...new Set(move.tags)].sort()) {
    if (await moveTag(trx, { ...move, tag })) moved.push(tag)
  }
  return moved
}

async function moveTag(
  trx: Transaction<Schema>,
  { repository, tag, digest, conditions, now }: TagMove & { readonly tag: Tag },
): Promise<boolean> {
  for (;;) {
    const current = await trx
      .selectFrom('tags')
      .select(['id', 'digest'])
      .where('repository_id', '=', repository.id)
      .where('name', '=', tag)
      .where('deleted_at', 'is', null)
      .forNoKeyUpdate()
      .executeTakeFirst()
    checkConditions(conditions, { current: current?.digest, what: `the tag ${tag}` })
    if (current !== undefined) {
      await trx
        .updateTable('tags')
        .set({ digest, pushed_at: now })
        .where('id', '=', current.id)
        .execute()
      return current.digest !== digest
    }
    const inserted = await trx
      .insertInto('tags')
      .values({ repository_id: repository.id, name: tag, digest, pushed_at: now })
      .onConflict((conflict) =>
        conflict.columns(['repository_id', 'name']).where('deleted_at', 'is', null).doNothing(),
      )
      .returning('id')
      .executeTakeFirst()
    if (inserted !== undefined) return true
    // Another push made the tag between the two statements: look at it.
  }
}

function checkConditions(
  { ifMatch, ifNoneMatch }: TagConditions,
  { current, what }: { readonly current: string | undefined; readonly what: string },
): void {
  const unmet =
    (ifMatch.length > 0 && !namesDigest(ifMatch, current)) || namesDigest(ifNoneMatch, current)
  if (!unmet) return
  const state = current === undefined ? 'does not exist' : `is ${current}`
  throw new OciError('MANIFEST_INVALID', `${what} ${state} now: read it and decide again`, {
    status: 412,
  })
}

/** The last move of a tag among rows of the outbox, in any order. */
function lastMove(
  rows: readonly WaitingRow[],
  { repositoryId, tag }: { readonly repositoryId: number; readonly tag: Tag },
): WaitingMove | undefined {
  let last: WaitingRow | undefined
  for (const row of rows) {
    const { fact } = JSON.parse(row.body) as EventBody
    if (fact.type !== 'tag' || fact.repositoryId !== repositoryId || fact.tag !== tag) continue
    if (last === undefined || row.id > last.id) last = row
  }
  return last && { id: last.id, bodyHash: hashOfBody(last.body).toString('hex') }
}

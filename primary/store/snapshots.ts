import type { Transaction } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import { hashOfBody, type LogHead } from '../../shared/replication/chain.ts'
import {
  projectOfStream,
  type EventStream,
  type RuleFact,
} from '../../shared/replication/events.ts'
import type { SnapshotLine } from '../../shared/replication/feed.ts'
import type { Records } from './database.ts'
import { rosterOf } from './edges.ts'
import { readPolicy, ruleOf } from './policies.ts'
import { preheatsOf } from './preheats.ts'
import { followedOf, readUnfollowed, type Unfollowed } from './rule-cursor.ts'
import type { Schema } from './schema.ts'

/** A stream's whole state: where the log stood, and which facts are in it though they had no number yet. */
export interface SnapshotPlace {
  readonly head: LogHead
  /** sha256 of their bodies, hex. */
  readonly ahead: readonly string[]
}

type Take = (line: SnapshotLine) => Promise<void>

const readRows = 1000

export type Snapshots = ReturnType<typeof createSnapshots>

/** Reads whole streams as they are at one moment. */
export function createSnapshots(records: Records) {
  return {
    /** Gives every line of a stream's state to `take`, one by one; a project that is gone has none. */
    read(stream: EventStream, take: Take): Promise<SnapshotPlace> {
      return records
        .transaction()
        .setIsolationLevel('repeatable read')
        .setAccessMode('read only')
        .execute(async (trx) => {
          const place = await placeOf(trx, stream)
          const projectId = projectOfStream(stream)
          if (projectId === undefined) {
            for (const edge of await rosterOf(trx)) await take({ edge })
            for (const ruleFact of await rulesOf(trx)) await take({ ruleFact })
            await take({ rulesFollowed: (await followedOf(trx)).seq })
          } else await readProject(trx, projectId, take)
          return place
        })
    },
  }
}

async function placeOf(trx: Transaction<Schema>, stream: EventStream): Promise<SnapshotPlace> {
  const { epoch, seq, header_hash } = await trx
    .selectFrom('event_head')
    .select(['epoch', 'seq', 'header_hash'])
    .executeTakeFirstOrThrow()
  // Committed, and so in the tables that are read, but not numbered yet: told again later, they would take it back.
  const waiting = await trx
    .selectFrom('outbox')
    .select('body')
    .where('stream', '=', stream)
    .execute()
  return {
    head: { epoch, seq, hash: header_hash },
    ahead: waiting.map(({ body }) => hashOfBody(body).toString('hex')),
  }
}

async function readProject(trx: Transaction<Schema>, projectId: number, take: Take): Promise<void> {
  const project = await trx
    .selectFrom('projects')
    .select(['name', 'public'])
    .where('id', '=', projectId)
    .where('deleted_at', 'is', null)
    .executeTakeFirst()
  if (project === undefined) return
  await take({ project: project.name, public: project.public })
  const repositories = await trx
    .selectFrom('repositories')
    .select(['id', 'name'])
    .where('project_id', '=', projectId)
    .where('deleted_at', 'is', null)
    .orderBy('id')
    .execute()
  const unfollowed = await readUnfollowed(trx, projectId)
  for (const { id, name } of repositories) {
    await take({ repository: id, name })
    await readRepository(trx, { id, unfollowed }, take)
  }
  await readSelections(trx, projectId, take)
  await readPieceLists(trx, projectId, take)
  for (const preheat of await preheatsOf(trx, projectId)) await take({ preheat })
}

/** All rules, as edges know them. */
async function rulesOf(trx: Transaction<Schema>): Promise<readonly RuleFact[]> {
  const rows = await trx
    .selectFrom('replication_policies as p')
    .innerJoin('registries as r', 'r.id', 'p.registry_id')
    .selectAll('p')
    .select('r.selector')
    .orderBy('p.id')
    .execute()
  return rows.map(({ selector, ...row }) => ruleOf(readPolicy(row), selector))
}

async function readSelections(
  trx: Transaction<Schema>,
  projectId: number,
  take: Take,
): Promise<void> {
  const rows = await trx
    .selectFrom('rule_selections')
    .select(['rule_id', 'repository_id', 'digest'])
    .where('project_id', '=', projectId)
    .where('stopped', '=', false)
    .execute()
  for (const { rule_id: rule, repository_id: repository, digest } of rows)
    await take({ repository, rule, selected: digest })
}

async function readPieceLists(
  trx: Transaction<Schema>,
  projectId: number,
  take: Take,
): Promise<void> {
  const rows = await trx
    .selectFrom('blobs as b')
    .innerJoin('links as l', 'l.digest', 'b.digest')
    .innerJoin('repositories as r', 'r.id', 'l.repository_id')
    .select(['b.digest', 'b.piece_list'])
    .distinct()
    .where('r.project_id', '=', projectId)
    .where('r.deleted_at', 'is', null)
    .where('b.state', '<>', 'gone')
    .where('b.piece_list', 'is not', null)
    .execute()
  for (const { digest, piece_list: list } of rows)
    await take({
      pieceList: { digest: digest as Digest, list: list as Digest },
      skippable: true,
    })
}

async function readRepository(
  trx: Transaction<Schema>,
  { id: repository, unfollowed }: { readonly id: number; readonly unfollowed: Unfollowed },
  take: Take,
): Promise<void> {
  for (let after: string | undefined = ''; after !== undefined;) {
    const digests = await trx
      .selectFrom('manifests')
      .select('digest')
      .where('repository_id', '=', repository)
      .where('deleted_at', 'is', null)
      .where('digest', '>', after)
      .orderBy('digest')
      .limit(readRows)
      .execute()
    for (const { digest } of digests) await take({ repository, manifest: digest })
    after = digests.at(-1)?.digest
  }
  for (let after: string | undefined = ''; after !== undefined;) {
    const tags = await trx
      .selectFrom('tags')
      .select(['name', 'digest'])
      .where('repository_id', '=', repository)
      .where('deleted_at', 'is', null)
      .where('name', '>', after)
      .orderBy('name')
      .limit(readRows)
      .execute()
    for (const { name, digest } of tags) {
      const since = unfollowed(repository, name)
      await take({
        repository,
        tag: name,
        digest,
        ...(since !== undefined && { unfollowed: since }),
      })
    }
    after = tags.at(-1)?.name
  }
}

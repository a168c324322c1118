import type { Kysely } from 'kysely'
import type { LogPlace } from '../../shared/replication/chain.ts'
import type { EventBody } from '../../shared/replication/events.ts'
import type { Schema } from './schema.ts'

/** Who follows the log for all rules. */
export const rulesCursor = 'replication'

/** By which event a tag moved that rules have not been followed to; `next`: it has no number yet. undefined: they have. */
export type Unfollowed = (repositoryId: number, tag: string) => number | 'next' | undefined

/** Up to where what rules make of the log stands in the log. */
export function followedOf(records: Kysely<Schema>): Promise<LogPlace> {
  return records
    .selectFrom('log_cursors')
    .select(['epoch', 'seq'])
    .where('name', '=', rulesCursor)
    .executeTakeFirstOrThrow()
}

/** The tags of a project that moved since rules were last followed. Call it in the transaction that reads its tags. */
export async function readUnfollowed(
  records: Kysely<Schema>,
  projectId: number,
): Promise<Unfollowed> {
  const followed = await followedOf(records)
  const head = await records
    .selectFrom('event_head')
    .select(['epoch', 'seq'])
    .executeTakeFirstOrThrow()
  // Of a log that was replaced all is looked at again.
  if (followed.epoch !== head.epoch) return () => head.seq
  const stream = `project:${projectId}` as const
  const numbered = await records
    .selectFrom('events')
    .select(['seq', 'body'])
    .where('seq', '>', followed.seq)
    .where('stream', '=', stream)
    .orderBy('seq')
    .execute()
  const waiting = await records
    .selectFrom('outbox')
    .select('body')
    .where('stream', '=', stream)
    .execute()
  const moved = new Map<string, number | 'next'>()
  const add = (body: string, seq: number | 'next') => {
    const { fact } = JSON.parse(body) as EventBody
    if (fact.type === 'tag') moved.set(`${fact.repositoryId}:${fact.tag}`, seq)
  }
  for (const { seq, body } of numbered) add(body, seq)
  for (const { body } of waiting) add(body, 'next')
  return (repositoryId, tag) => moved.get(`${repositoryId}:${tag}`)
}

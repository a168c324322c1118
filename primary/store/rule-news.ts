import type { Transaction } from 'kysely'
import type { LogPlace } from '../../shared/replication/chain.ts'
import type { EventBody, EventFact } from '../../shared/replication/events.ts'
import type { Schema } from './schema.ts'

const batchEvents = 1000

/** What the log says of rules and repositories since a place. */
export interface News {
  readonly epoch: number
  readonly seq: number
  readonly more: boolean
  /** Part of the log is gone or was replaced: anything may have changed. */
  readonly everything: boolean
  /** Repositories that changed, with the tags that moved there. */
  readonly repositories: ReadonlyMap<number, ReadonlySet<string>>
  readonly rules: ReadonlySet<number>
}

/** Reads on from a place, a batch at most. @returns undefined when nothing is new */
export async function readNews(
  trx: Transaction<Schema>,
  cursor: LogPlace,
): Promise<News | undefined> {
  const head = await trx.selectFrom('event_head').select(['epoch', 'seq']).executeTakeFirstOrThrow()
  if (head.epoch === cursor.epoch && head.seq === cursor.seq) return undefined
  const anything = {
    ...head,
    more: false,
    everything: true,
    repositories: new Map(),
    rules: new Set<number>(),
  }
  if (head.epoch !== cursor.epoch || head.seq < cursor.seq) return anything
  const rows = await trx
    .selectFrom('events')
    .select(['seq', 'body'])
    .where('seq', '>', cursor.seq)
    .orderBy('seq')
    .limit(batchEvents)
    .execute()
  const last = rows.at(-1)
  if (last === undefined || rows[0]?.seq !== cursor.seq + 1) return anything
  const facts = rows.map(({ body }) => (JSON.parse(body) as EventBody).fact)
  return {
    epoch: head.epoch,
    seq: last.seq,
    more: last.seq < head.seq,
    everything: false,
    repositories: await changedRepositories(trx, facts),
    rules: new Set(facts.flatMap((fact) => (fact.type === 'rule' ? [fact.ruleId] : []))),
  }
}

async function changedRepositories(
  trx: Transaction<Schema>,
  facts: readonly EventFact[],
): Promise<ReadonlyMap<number, ReadonlySet<string>>> {
  const changed = new Map<number, Set<string>>()
  const labels = new Set<number>()
  const change = (repositoryId: number) => {
    const tags = changed.get(repositoryId) ?? new Set()
    changed.set(repositoryId, tags)
    return tags
  }
  for (const fact of facts) {
    switch (fact.type) {
      case 'tag':
        change(fact.repositoryId).add(fact.tag)
        break
      case 'manifest':
      case 'manifest-deleted':
      case 'manifest-labels':
      case 'tag-deleted':
      case 'repository-deleted':
        change(fact.repositoryId)
        break
      case 'label':
      case 'label-deleted':
        labels.add(fact.labelId)
        break
      default:
    }
  }
  // Rules look for labels by their names: one that is renamed changes all that bear it.
  for (const repositoryId of await bearersOf(trx, [...labels])) change(repositoryId)
  return changed
}

async function bearersOf(
  trx: Transaction<Schema>,
  labelIds: readonly number[],
): Promise<readonly number[]> {
  if (labelIds.length === 0) return []
  const rows = await trx
    .selectFrom('artifact_labels as x')
    .innerJoin('manifests as a', 'a.id', 'x.manifest_id')
    .select('a.repository_id')
    .distinct()
    .where('x.label_id', 'in', labelIds)
    .execute()
  return rows.map((row) => row.repository_id)
}

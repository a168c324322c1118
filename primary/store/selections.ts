import { sql, type Transaction } from 'kysely'
import type { Digest } from '../../shared/oci/digest.ts'
import type { EventFact } from '../../shared/replication/events.ts'
import type { PrefetchFailure } from '../../shared/replication/lease.ts'
import { appendAudit, type Deed } from './audit.ts'
import { chunked } from './chunks.ts'
import type { Records } from './database.ts'
import { endExecution, trimExecutions, type ExecutionEnd } from './executions.ts'
import { isGuarding, readPolicy, type Policy } from './policies.ts'
import { readContents, type RepositoryContent } from './repository-content.ts'
import { retryDeadlock } from './retry.ts'
import { createChange, planChange, type Change, type GoneRepository } from './rule-changes.ts'
import { rulesCursor } from './rule-cursor.ts'
import { readNews, type News } from './rule-news.ts'
import type { Plan, Planner, PlannerOf, Selection } from './rule-planner.ts'
import { appendAll, writeChange } from './rule-writes.ts'
import type { Schema } from './schema.ts'

/** What a run would change, of one repository. */
export interface PreviewedRepository {
  readonly content: RepositoryContent
  readonly wanted: Plan['wanted']
  readonly current: readonly Selection[]
  readonly skipped: readonly string[]
}

export interface CaughtUp {
  readonly more: boolean
  readonly wantsLists: boolean
}

/** Repositories that are looked at together. */
const chunkRepositories = 100

export type Selections = ReturnType<typeof createSelections>

/** What rules select, and how that follows what is pushed, tagged, labelled and deleted. */
export function createSelections(records: Records) {
  return {
    /**
     * Reads what is new in the log and brings all rules up to it, in one transaction with the place that it has
     * come to: whoever is killed in between has done nothing. Of several primaries one does this at a time.
     * @returns whether there may be more to read, and whether blobs are to be listed for what is selected now
     */
    catchUp(plannerOf: PlannerOf, now: Date): Promise<CaughtUp> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          const cursor = await trx
            .selectFrom('log_cursors')
            .select(['epoch', 'seq'])
            .where('name', '=', rulesCursor)
            .forUpdate()
            .skipLocked()
            .executeTakeFirst()
          if (cursor === undefined) return { more: false, wantsLists: false }
          const news = await readNews(trx, cursor)
          if (news === undefined) return { more: false, wantsLists: false }
          const wantsLists = await followNews(trx, { news, plannerOf, now })
          const { epoch, seq, more } = news
          await trx
            .updateTable('log_cursors')
            .set({ epoch, seq })
            .where('name', '=', rulesCursor)
            .execute()
          return { more, wantsLists }
        }),
      )
    },

    /**
     * Works out a run that was started by hand: all that the rule selects, with what was stopped before and what edges
     * could not get. Does nothing for one that has ended or was worked out.
     * @returns whether blobs are to be listed for it
     */
    run(executionId: number, plannerOf: PlannerOf, now: Date): Promise<boolean> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          const policy = await lockPolicyOf(trx, executionId)
          if (policy === undefined || !(await holdWaiting(trx, executionId))) return false
          const planner = policy.enabled ? plannerOf(policy) : undefined
          if (planner === undefined) {
            const statusText = policy.enabled
              ? 'the rule cannot be read'
              : 'the rule was disabled meanwhile'
            const counts = { total: 0, succeeded: 0, failed: 0, stopped: 0 }
            const end: ExecutionEnd = { status: 'Failed', statusText, counts, tasks: [] }
            await endExecution(trx, { id: executionId, end, now })
            return false
          }
          const change = createChange()
          const failed = await failedOf(trx, policy.id)
          const context = { planner, mode: 'run', moved: undefined, now } as const
          await eachOfRule(trx, { policy, planner }, (content, current) => {
            planChange(change, { ...context, content, current, failed })
          })
          const projectIds = await projectsOf(trx, policy.id, change)
          const writing = { ruleId: policy.id, change, executionId, now }
          const { placed, wantsLists } = await writeChange(trx, writing)
          await trx
            .updateTable('executions')
            .set({ ...placed, project_ids: projectIds, decided_at: now })
            .where('id', '=', executionId)
            .execute()
          return wantsLists
        }),
      )
    },

    /** What a run of the rule would find, repository by repository; nothing is written. */
    async *preview(
      policy: Policy,
      planner: Planner,
      now: Date,
    ): AsyncIterable<PreviewedRepository> {
      const ids = await repositoriesOf(records, { policy, planner })
      for (const some of chunked(ids, chunkRepositories)) {
        const contents = await readContents(records, some, { withSizes: true })
        const selections = await readSelections(records, policy.id, some)
        for (const content of contents) {
          const current = selections.get(content.id)?.selections ?? []
          const { wanted, skipped } = planner.plan(content, current, {
            frozen: false,
            moved: undefined,
            now,
          })
          yield { content, wanted, current, skipped }
        }
      }
    },

    /** Which execution brought each of these last. @returns by `ruleId repositoryId digest` */
    async broughtBy(
      named: readonly Pick<PrefetchFailure, 'ruleId' | 'repositoryId' | 'digest'>[],
    ): Promise<ReadonlyMap<string, number>> {
      if (named.length === 0) return new Map()
      const { rows } = await sql<{ key: string; execution: number }>`
        SELECT concat_ws(' ', s.rule_id, s.repository_id, s.digest) AS key, s.execution_id AS execution
        FROM rule_selections s JOIN unnest(${named.map(({ ruleId }) => ruleId)}::bigint[],
          ${named.map(({ repositoryId }) => repositoryId)}::bigint[], ${named.map(({ digest }) => digest)}::text[])
          AS n (rule_id, repository_id, digest) USING (rule_id, repository_id, digest)`.execute(
        records,
      )
      return new Map(rows.map(({ key, execution }) => [key, execution]))
    },

    /**
     * Stops an execution: what it brought is taken back from the edges, until somebody runs the rule by hand. Does
     * nothing when it has ended.
     * @param end with a task for each edge that had not come so far
     * @returns false when there is no such execution
     */
    stop(executionId: number, end: ExecutionEnd, { actor, now }: Deed): Promise<boolean> {
      return retryDeadlock(() =>
        records.transaction().execute(async (trx) => {
          const policy = await lockPolicyOf(trx, executionId)
          const known = await trx
            .selectFrom('executions')
            .select('status')
            .where('id', '=', executionId)
            .forUpdate()
            .executeTakeFirst()
          if (known === undefined) return false
          if (known.status !== 'InProgress') return true
          await endExecution(trx, { id: executionId, end, now })
          const rows = await trx
            .updateTable('rule_selections')
            .set({ stopped: true })
            .where('execution_id', '=', executionId)
            .where('stopped', '=', false)
            .returning(['rule_id', 'project_id', 'repository_id', 'digest'])
            .execute()
          const facts = rows.map((row): EventFact => ({
            type: 'unselected',
            projectId: row.project_id,
            repositoryId: row.repository_id,
            ruleId: row.rule_id,
            digest: row.digest as Digest,
          }))
          await appendAll(trx, facts, now)
          const resource = policy?.name ?? String(executionId)
          await appendAudit(
            trx,
            { actor, operation: 'stop', resourceType: 'replication', resource },
            now,
          )
          return true
        }),
      )
    },
  }
}

interface Following {
  readonly news: News
  readonly plannerOf: PlannerOf
  readonly now: Date
}

/** Brings every rule that the news touch up to what is there now. @returns whether blobs are to be listed for that */
async function followNews(
  trx: Transaction<Schema>,
  { news, plannerOf, now }: Following,
): Promise<boolean> {
  const { everything, repositories, rules } = news
  if (!everything && repositories.size === 0 && rules.size === 0) return false
  const contentsOf = readingOnce(trx)
  let wantsLists = false
  for (const { id, ids } of await touchedRules(trx, news, plannerOf)) {
    const policy = await lockPolicy(trx, id)
    // Others go on without one that cannot be read.
    const planner = policy && plannerOf(policy)
    if (policy === undefined || planner === undefined) continue
    const change = createChange()
    const follows = policy.enabled && policy.trigger === 'event_based'
    const mode = follows ? 'follow' : rules.has(id) ? 'narrow' : 'gone'
    const add: EachRepository = (content, current) => {
      // A rule that is new or another is told all that it passes over.
      const moved = rules.has(id) ? undefined : (repositories.get(content.id) ?? new Set())
      planChange(change, { planner, content, current, mode, moved, now })
    }
    if (everything || rules.has(id)) await eachOfRule(trx, { policy, planner }, add)
    else await eachOf(trx, { ruleId: id, ids, contentsOf }, add)
    const written = await writeEventChange(trx, { policy, change, recorded: follows, now })
    wantsLists ||= written
  }
  if (await isWaitedFor(trx, news))
    await appendAll(trx, [{ type: 'rules-followed', seq: news.seq }], now)
  return wantsLists
}

/** Whether edges may hold a tag back until they know what rules make of it. */
async function isWaitedFor(
  trx: Transaction<Schema>,
  { everything, repositories, rules }: News,
): Promise<boolean> {
  const isMoved = [...repositories.values()].some((tags) => tags.size > 0)
  if (!everything && rules.size === 0 && !isMoved) return false
  const rows = await trx
    .selectFrom('replication_policies')
    .selectAll()
    .where('serve', '=', 'complete')
    .where('enabled', '=', true)
    .execute()
  return rows.map(readPolicy).some(isGuarding)
}

/** Reads each repository once, for all rules. */
function readingOnce(trx: Transaction<Schema>): RuleRepositories['contentsOf'] {
  const contents = new Map<number, RepositoryContent>()
  return async (ids) => {
    const missing = ids.filter((id) => !contents.has(id))
    if (missing.length > 0) {
      for (const content of await readContents(trx, missing)) contents.set(content.id, content)
    }
    return ids.flatMap((id) => contents.get(id) ?? [])
  }
}

interface TouchedRule {
  readonly id: number
  /** Of the repositories that changed, those that it wants or selects something of. */
  readonly ids: readonly number[]
}

/** The rules that the news concern, by id, so that all lock them in one order. */
async function touchedRules(
  trx: Transaction<Schema>,
  { everything, repositories, rules }: News,
  plannerOf: PlannerOf,
): Promise<readonly TouchedRule[]> {
  const changed = sql<number>`ANY(${[...repositories.keys()]}::integer[])`
  const policies = await trx.selectFrom('replication_policies').selectAll().orderBy('id').execute()
  if (policies.length === 0) return []
  const live = await trx
    .selectFrom('repositories')
    .select(['id', 'name'])
    .where('id', '=', changed)
    .where('deleted_at', 'is', null)
    .execute()
  const selections = await trx
    .selectFrom('rule_selections')
    .select(['rule_id', 'repository_id'])
    .distinct()
    .where('repository_id', '=', changed)
    .execute()
  const selected = Map.groupBy(selections, (row) => row.rule_id)
  return policies.flatMap((row) => {
    const policy = readPolicy(row)
    const { id } = policy
    const follows = policy.enabled && policy.trigger === 'event_based'
    const planner = follows ? plannerOf(policy) : undefined
    const wanted = live
      .filter(({ name }) => planner?.wants(name))
      .map((repository) => repository.id)
    const known = (selected.get(id) ?? []).map((selection) => selection.repository_id)
    const ids = distinct([...wanted, ...known])
    return everything || rules.has(id) || ids.length > 0 ? [{ id, ids }] : []
  })
}

/** What a rule selects changes only while its row is held. */
async function lockPolicy(trx: Transaction<Schema>, id: number): Promise<Policy | undefined> {
  const row = await trx
    .selectFrom('replication_policies')
    .selectAll()
    .where('id', '=', id)
    .forNoKeyUpdate()
    .executeTakeFirst()
  return row && readPolicy(row)
}

/** Always before the execution's own row. @returns undefined when there is no such execution */
async function lockPolicyOf(
  trx: Transaction<Schema>,
  executionId: number,
): Promise<Policy | undefined> {
  const known = await trx
    .selectFrom('executions')
    .select('vendor_id')
    .where('id', '=', executionId)
    .where('vendor_type', '=', 'REPLICATION')
    .executeTakeFirst()
  return known && lockPolicy(trx, known.vendor_id)
}

/** Whether nobody has worked it out, and it was not stopped: until the commit. */
async function holdWaiting(trx: Transaction<Schema>, executionId: number): Promise<boolean> {
  const row = await trx
    .selectFrom('executions')
    .select('id')
    .where('id', '=', executionId)
    .where('status', '=', 'InProgress')
    .where('decided_at', 'is', null)
    .forUpdate()
    .executeTakeFirst()
  return row !== undefined
}

type EachRepository = (
  content: RepositoryContent | GoneRepository,
  current: readonly Selection[],
) => void

/** Every repository that a rule wants, or of which it selects something. */
async function eachOfRule(
  trx: Transaction<Schema>,
  { policy, planner }: { readonly policy: Policy; readonly planner: Planner },
  each: EachRepository,
): Promise<void> {
  const ids = await repositoriesOf(trx, { policy, planner })
  const contentsOf = (some: readonly number[]) => readContents(trx, some)
  await eachOf(trx, { ruleId: policy.id, ids, contentsOf }, each)
}

interface RuleRepositories {
  readonly ruleId: number
  readonly ids: readonly number[]
  readonly contentsOf: (ids: readonly number[]) => Promise<readonly RepositoryContent[]>
}

async function eachOf(
  trx: Transaction<Schema>,
  { ruleId, ids, contentsOf }: RuleRepositories,
  each: EachRepository,
): Promise<void> {
  for (const some of chunked(ids, chunkRepositories)) {
    const contents = await contentsOf(some)
    const selections = await readSelections(trx, ruleId, some)
    for (const content of contents) {
      each(content, selections.get(content.id)?.selections ?? [])
      selections.delete(content.id)
    }
    for (const [id, { projectId, selections: current }] of selections) {
      each({ id, projectId, name: undefined }, current)
    }
  }
}

async function repositoriesOf(
  records: Records,
  { policy, planner }: { readonly policy: Policy; readonly planner: Planner },
): Promise<readonly number[]> {
  const live = await records
    .selectFrom('repositories')
    .select(['id', 'name'])
    .where('deleted_at', 'is', null)
    .execute()
  const selected = await records
    .selectFrom('rule_selections')
    .select('repository_id')
    .distinct()
    .where('rule_id', '=', policy.id)
    .execute()
  const ids = new Set(selected.map((row) => row.repository_id))
  for (const { id, name } of live) if (planner.wants(name)) ids.add(id)
  return [...ids].sort((one, other) => one - other)
}

async function readSelections(
  records: Records,
  ruleId: number,
  repositoryIds: readonly number[],
): Promise<Map<number, { readonly projectId: number; readonly selections: readonly Selection[] }>> {
  const rows = await records
    .selectFrom('rule_selections')
    .select(['repository_id', 'project_id', 'digest', 'tags', 'stopped'])
    .where('rule_id', '=', ruleId)
    .where('repository_id', '=', sql<number>`ANY(${repositoryIds}::integer[])`)
    .execute()
  const groups = Map.groupBy(rows, (row) => row.repository_id)
  return new Map(
    [...groups].map(([id, some]) => [
      id,
      {
        projectId: some[0]?.project_id ?? 0,
        selections: some.map(({ digest, tags, stopped }) => ({
          digest: digest as Digest,
          tags,
          stopped,
        })),
      },
    ]),
  )
}

/** What edges say that they could not get of a rule. */
async function failedOf(trx: Transaction<Schema>, ruleId: number): Promise<ReadonlySet<string>> {
  const { rows } = await sql<{ key: string }>`
    SELECT DISTINCT concat(f ->> 'repositoryId', ' ', f ->> 'digest') AS key
    FROM edge_states s JOIN edges e ON e.id = s.edge_id, jsonb_array_elements(s.report -> 'failures') f
    WHERE e.deleted_at IS NULL AND f ->> 'ruleId' = ${String(ruleId)}`.execute(trx)
  return new Set(rows.map(({ key }) => key))
}

async function projectsOf(
  trx: Transaction<Schema>,
  ruleId: number,
  change: Change,
): Promise<readonly number[]> {
  const rows = await trx
    .selectFrom('rule_selections')
    .select('project_id')
    .distinct()
    .where('rule_id', '=', ruleId)
    .execute()
  return distinct([
    ...rows.map((row) => row.project_id),
    ...change.selected.map(({ projectId }) => projectId),
  ])
}

/**
 * Writes what changed by itself, as an execution if the rule is one that follows what changes.
 * @returns whether blobs are to be listed for it
 */
async function writeEventChange(
  trx: Transaction<Schema>,
  {
    policy,
    change,
    recorded,
    now,
  }: {
    readonly policy: Policy
    readonly change: Change
    readonly recorded: boolean
    readonly now: Date
  },
): Promise<boolean> {
  const { selected, retagged, unselected, lines } = change
  if (selected.length + retagged.length + unselected.length + lines.length === 0) return false
  const writing = { ruleId: policy.id, change, now }
  if (!recorded || selected.length + unselected.length + lines.length === 0)
    return (await writeChange(trx, { ...writing, executionId: undefined })).wantsLists
  const { id } = await trx
    .insertInto('executions')
    .values({
      vendor_type: 'REPLICATION',
      vendor_id: policy.id,
      trigger: 'event_based',
      status: 'InProgress',
      started_at: now,
      decided_at: now,
      project_ids: distinct([...selected, ...unselected].map(({ projectId }) => projectId)),
    })
    .returning('id')
    .executeTakeFirstOrThrow()
  const { placed, wantsLists } = await writeChange(trx, { ...writing, executionId: id })
  await trx.updateTable('executions').set(placed).where('id', '=', id).execute()
  await trimExecutions(trx, policy.id)
  return wantsLists
}

function distinct(ids: readonly number[]): readonly number[] {
  return [...new Set(ids)].sort((one, other) => one - other)
}

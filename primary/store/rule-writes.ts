import { sql, type Transaction } from 'kysely'
import type { EventFact } from '../../shared/replication/events.ts'
import { chunked } from './chunks.ts'
import { appendEvents } from './outbox.ts'
import { wantLists } from './piece-lists.ts'
import type { Change, Chosen } from './rule-changes.ts'
import type { Schema } from './schema.ts'

/** No statement takes long, however much a rule selects. */
const statementRows = 10_000
const outboxRows = 1000

export interface Writing {
  readonly ruleId: number
  readonly change: Change
  /** undefined: nothing is selected, and nobody is told of what goes but the edges. */
  readonly executionId: number | undefined
  readonly now: Date
}

export interface Written {
  /** What it adds to its execution. */
  readonly placed: {
    readonly selected: number
    readonly unselected: number
    readonly outbox_id: number | null
  }
  /** Whether blobs are to be listed piece by piece for it. */
  readonly wantsLists: boolean
}

/** Writes a change, and tells the edges. */
export async function writeChange(
  trx: Transaction<Schema>,
  { ruleId, change, executionId, now }: Writing,
): Promise<Written> {
  const { selected, retagged, unselected } = change
  for (const some of chunked(unselected, statementRows)) await deleteSelections(trx, ruleId, some)
  for (const some of chunked(retagged, statementRows)) await retagSelections(trx, ruleId, some)
  let wantsLists = false
  for (const some of chunked(selected, statementRows)) {
    await upsertSelections(trx, { ruleId, executionId: executionId ?? 0 }, some)
    if (await wantLists(trx, some)) wantsLists = true
  }
  const factOf = (
    type: 'selected' | 'unselected',
    { projectId, repositoryId, digest }: Omit<Chosen, 'tags'>,
  ): EventFact => ({ type, projectId, repositoryId, ruleId, digest })
  // First what comes: what both a new and an old selection need is not let go in between.
  const facts = [
    ...selected.map((one) => factOf('selected', one)),
    ...unselected.filter(({ told }) => told).map((one) => factOf('unselected', one)),
  ]
  await appendAll(trx, facts, now)
  if (executionId !== undefined) await appendLines(trx, { executionId, change, now })
  const placed = {
    selected: selected.length,
    unselected: unselected.length,
    outbox_id: facts.length === 0 ? null : await lastOutboxId(trx),
  }
  return { placed, wantsLists }
}

async function upsertSelections(
  trx: Transaction<Schema>,
  { ruleId, executionId }: { readonly ruleId: number; readonly executionId: number },
  chosen: readonly Chosen[],
): Promise<void> {
  await sql`
    INSERT INTO rule_selections (rule_id, repository_id, digest, project_id, tags, execution_id)
    SELECT ${ruleId}::integer, c.repository_id, c.digest, c.project_id,
      ARRAY(SELECT jsonb_array_elements_text(c.tags)), ${executionId}::bigint
    FROM ${unnested(chosen)}
    ON CONFLICT (rule_id, repository_id, digest) DO UPDATE
      SET tags = excluded.tags, execution_id = excluded.execution_id, stopped = false`.execute(trx)
}

async function retagSelections(
  trx: Transaction<Schema>,
  ruleId: number,
  chosen: readonly Chosen[],
): Promise<void> {
  await sql`
    UPDATE rule_selections s SET tags = ARRAY(SELECT jsonb_array_elements_text(c.tags))
    FROM ${unnested(chosen)}
    WHERE s.rule_id = ${ruleId} AND s.repository_id = c.repository_id AND s.digest = c.digest`.execute(
    trx,
  )
}

async function deleteSelections(
  trx: Transaction<Schema>,
  ruleId: number,
  gone: readonly Omit<Chosen, 'tags'>[],
): Promise<void> {
  await sql`
    DELETE FROM rule_selections s USING ${unnested(gone.map((one) => ({ ...one, tags: [] })))}
    WHERE s.rule_id = ${ruleId} AND s.repository_id = c.repository_id AND s.digest = c.digest`.execute(
    trx,
  )
}

/** Arrays, not rows of parameters: a rule may select more than a statement has parameters. */
function unnested(chosen: readonly Chosen[]) {
  return sql`unnest(${chosen.map((one) => one.repositoryId)}::integer[], ${chosen.map((one) => one.digest)}::text[],
    ${chosen.map((one) => one.projectId)}::integer[], ${chosen.map((one) => JSON.stringify(one.tags))}::jsonb[])
    AS c (repository_id, digest, project_id, tags)`
}

/** Tells the edges many facts. */
export async function appendAll(
  trx: Transaction<Schema>,
  facts: readonly EventFact[],
  now: Date,
): Promise<void> {
  for (const some of chunked(facts, outboxRows)) await appendEvents(trx, some, now)
}

/** The id of the outbox row that this transaction wrote last. */
async function lastOutboxId(trx: Transaction<Schema>): Promise<number> {
  const { rows } = await sql<{ id: number }>`
    SELECT currval(pg_get_serial_sequence('outbox', 'id')) AS id`.execute(trx)
  return rows[0]?.id ?? 0
}

async function appendLines(
  trx: Transaction<Schema>,
  {
    executionId,
    change,
    now,
  }: { readonly executionId: number; readonly change: Change; readonly now: Date },
): Promise<void> {
  const shown = [...change.lines]
  if (change.untold > 0) shown.push(`and ${change.untold} more`)
  if (shown.length === 0)
    shown.push('nothing changed: all that the rule selects was selected before')
  await trx
    .insertInto('task_logs')
    .values(shown.map((line) => ({ execution_id: executionId, number: null, at: now, line })))
    .execute()
}

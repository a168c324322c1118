import { sql, type Selectable, type Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import type { Listing } from '../../shared/api/listing.ts'
import type { Fields } from '../../shared/api/query.ts'
import type { LogPlace } from '../../shared/replication/chain.ts'
import { appendAudit, type Deed } from './audit.ts'
import type { Records } from './database.ts'
import { applyFilters, readPage } from './filters.ts'
import type { ExecutionsTable, Schema } from './schema.ts'

/** How the tasks of an execution stand. */
export interface TaskCounts {
  readonly total: number
  readonly succeeded: number
  readonly failed: number
  readonly stopped: number
}

/** One run of a replication rule. */
export interface Execution {
  readonly id: number
  readonly policyId: number
  readonly trigger: ExecutionsTable['trigger']
  readonly status: ExecutionsTable['status']
  readonly statusText: string
  readonly startedAt: Date
  readonly endedAt: Date | undefined
  /** When it was worked out what it brings; undefined: it waits for that. */
  readonly decidedAt: Date | undefined
  /** Who holds all up to here holds what it brought; undefined until its facts have numbers. */
  readonly place: LogPlace | undefined
  /** Whose images it brought. */
  readonly projectIds: readonly number[]
  readonly selected: number
  readonly unselected: number
  /** As it ended. */
  readonly counts: TaskCounts
}

/** A task that did not simply succeed. */
export interface TaskRow {
  /** Of its edge. */
  readonly number: number
  readonly status: 'Failed' | 'Stopped'
  readonly reason: string
  readonly endedAt: Date
}

export interface LogLine {
  readonly at: Date
  readonly line: string
}

/** How an execution ended. */
export interface ExecutionEnd {
  readonly status: Exclude<Execution['status'], 'InProgress'>
  readonly statusText?: string
  readonly counts: TaskCounts
  /** Those that failed or were stopped. */
  readonly tasks: readonly Omit<TaskRow, 'endedAt'>[]
}

/** What executions may be filtered and sorted by. */
export const executionFields: Fields = {
  id: { column: 'id', type: 'integer' },
  policy_id: { column: 'vendor_id', type: 'integer' },
  status: { column: 'status', type: 'text' },
  trigger: { column: 'trigger', type: 'text' },
  start_time: { column: 'started_at', type: 'time' },
  end_time: { column: 'ended_at', type: 'time' },
}

/** As Harbor keeps of each rule. [harbor src/controller/replication, EXECUTION_SWEEP] */
const keptPerPolicy = 50

export type Executions = ReturnType<typeof createExecutions>

/** What replication rules did. */
export function createExecutions(records: Records) {
  const all = () => records.selectFrom('executions').where('vendor_type', '=', 'REPLICATION')

  return {
    async get(id: number): Promise<Execution | undefined> {
      const row = await all().selectAll().where('id', '=', id).executeTakeFirst()
      return row && readExecution(row)
    },

    /** One page of the executions, newest first unless sorted otherwise, and how many there are. */
    async list({ filters, sorts, page }: Listing): Promise<{
      readonly rows: readonly Execution[]
      readonly total: number
    }> {
      const query = applyFilters(all(), filters)
      const { rows, total } = await readPage(query, {
        sorts,
        page,
        last: { column: 'id', descending: true },
        select: (sorted) => sorted.selectAll(),
      })
      return { rows: rows.map(readExecution), total }
    },

    /** Those that have not ended: of one rule, or of all. */
    async running(policyId?: number): Promise<readonly Execution[]> {
      let query = all().selectAll().where('status', '=', 'InProgress')
      if (policyId !== undefined) query = query.where('vendor_id', '=', policyId)
      return (await query.orderBy('id').execute()).map(readExecution)
    },

    /**
     * Starts a run by hand: it waits until somebody works out what it brings.
     * @returns its id, and whether there is anything to wait for: a rule may have one run at a time
     * @throws ApiError NOT_FOUND for no such rule, PRECONDITION for one that is disabled
     */
    start(
      policyId: number,
      { actor, now }: Deed,
    ): Promise<{ readonly id: number; readonly waits: boolean }> {
      return records.transaction().execute(async (trx) => {
        const policy = await trx
          .selectFrom('replication_policies')
          .select(['name', 'enabled', 'single_active'])
          .where('id', '=', policyId)
          .forNoKeyUpdate()
          .executeTakeFirst()
        if (policy === undefined) throw new ApiError('NOT_FOUND', 'there is no such rule')
        if (!policy.enabled) {
          throw new ApiError('PRECONDITION', `the policy ${policyId} is disabled`)
        }
        const waits = !(policy.single_active && (await isRunning(trx, policyId)))
        const { id } = await trx
          .insertInto('executions')
          .values({
            vendor_type: 'REPLICATION',
            vendor_id: policyId,
            trigger: 'manual',
            started_at: now,
            ...(waits
              ? { status: 'InProgress' }
              : {
                  status: 'Failed',
                  status_text: 'Execution skipped: active replication still in progress.',
                  ended_at: now,
                }),
          })
          .returning('id')
          .executeTakeFirstOrThrow()
        await trimExecutions(trx, policyId)
        await appendAudit(
          trx,
          { actor, operation: 'create', resourceType: 'replication', resource: policy.name },
          now,
        )
        return { id, waits }
      })
    },

    /** Runs by hand that were started before `time`, and that nobody has worked out. */
    async waitingSince(time: Date): Promise<readonly number[]> {
      const rows = await all()
        .select('id')
        .where('status', '=', 'InProgress')
        .where('decided_at', 'is', null)
        .where('started_at', '<', time)
        .execute()
      return rows.map(({ id }) => id)
    },

    /**
     * Gives those whose facts have left the outbox their place in the log: its end, which is theirs or a little
     * later.
     */
    async place(): Promise<void> {
      // One statement, one look: what left the outbox is in the log up to this head.
      await sql`
        UPDATE executions SET epoch = h.epoch, seq = h.seq FROM event_head h
        WHERE executions.status = 'InProgress' AND executions.seq IS NULL AND executions.decided_at IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.id = executions.outbox_id)`.execute(
        records,
      )
    },

    /** Ends one, unless it has ended. */
    end(id: number, end: ExecutionEnd, now: Date): Promise<void> {
      return records.transaction().execute((trx) => endExecution(trx, { id, end, now }))
    },

    /** The tasks of an execution that did not simply succeed. */
    async tasks(id: number): Promise<readonly TaskRow[]> {
      const rows = await records
        .selectFrom('tasks')
        .select(['number', 'status', 'reason', 'ended_at as endedAt'])
        .where('execution_id', '=', id)
        .orderBy('number')
        .execute()
      return rows
    },

    /** What was written of an execution, and of one task of it. */
    async log(id: number, number: number): Promise<readonly LogLine[]> {
      return records
        .selectFrom('task_logs')
        .select(['at', 'line'])
        .where('execution_id', '=', id)
        .where((expression) =>
          expression.or([expression('number', 'is', null), expression('number', '=', number)]),
        )
        .orderBy('id')
        .execute()
    },
  }
}

/** Ends an execution inside a transaction, unless it has ended. */
export async function endExecution(
  trx: Transaction<Schema>,
  { id, end, now }: { readonly id: number; readonly end: ExecutionEnd; readonly now: Date },
): Promise<void> {
  const { status, statusText, counts, tasks } = end
  const row = await trx
    .updateTable('executions')
    .set({
      status,
      ended_at: now,
      ...counts,
      ...(statusText !== undefined && { status_text: statusText }),
    })
    .where('id', '=', id)
    .where('status', '=', 'InProgress')
    .returning('id')
    .executeTakeFirst()
  if (row === undefined || tasks.length === 0) return
  await sql`
    INSERT INTO tasks (execution_id, number, status, reason, ended_at)
    SELECT ${id}, t.number, t.status, t.reason, ${now}
    FROM unnest(${tasks.map(({ number }) => number)}::integer[], ${tasks.map((task) => task.status)}::text[],
      ${tasks.map(({ reason }) => reason)}::text[]) AS t (number, status, reason)`.execute(trx)
}

/** Removes all but the newest executions of a rule. */
export async function trimExecutions(trx: Transaction<Schema>, policyId: number): Promise<void> {
  const oldest = await trx
    .selectFrom('executions')
    .select('id')
    .where('vendor_type', '=', 'REPLICATION')
    .where('vendor_id', '=', policyId)
    .orderBy('id', 'desc')
    .offset(keptPerPolicy - 1)
    .limit(1)
    .executeTakeFirst()
  if (oldest === undefined) return
  await trx
    .deleteFrom('executions')
    .where('vendor_type', '=', 'REPLICATION')
    .where('vendor_id', '=', policyId)
    .where('id', '<', oldest.id)
    .execute()
}

async function isRunning(trx: Transaction<Schema>, policyId: number): Promise<boolean> {
  const row = await trx
    .selectFrom('executions')
    .select('id')
    .where('vendor_type', '=', 'REPLICATION')
    .where('vendor_id', '=', policyId)
    .where('status', '=', 'InProgress')
    // One that edges are still busy with holds nobody up: an edge may be away for weeks.
    .where('decided_at', 'is', null)
    .limit(1)
    .executeTakeFirst()
  return row !== undefined
}

function readExecution(row: Selectable<ExecutionsTable>): Execution {
  const { id, trigger, status, epoch, seq, total, succeeded, failed, stopped } = row
  return {
    id,
    policyId: row.vendor_id,
    trigger,
    status,
    statusText: row.status_text,
    startedAt: row.started_at,
    endedAt: row.ended_at ?? undefined,
    decidedAt: row.decided_at ?? undefined,
    place: epoch === null || seq === null ? undefined : { epoch, seq },
    projectIds: row.project_ids,
    selected: row.selected,
    unselected: row.unselected,
    counts: { total, succeeded, failed, stopped },
  }
}

import { sql, type Transaction } from 'kysely'
import { covers } from '../../shared/replication/events.ts'
import type { PullReport, ReportedPulls } from '../../shared/replication/pulls.ts'
import type { Records } from './database.ts'
import { addPulls, type CountedPulls } from './pulls.ts'
import { retryDeadlock } from './retry.ts'
import type { Schema } from './schema.ts'

/** What became of a report. */
export interface AppliedReport {
  /** The last report of its log that is counted. */
  readonly n: number
  /** Counted before: nothing was changed. */
  readonly isRepeated: boolean
  /** Its lines, by what became of them. */
  readonly lines: {
    readonly counted: number
    /** More pulls than can have been: the rest is not counted. */
    readonly cut: number
    /** Of projects that the edge may not read. */
    readonly outOfScope: number
    /** Of repositories or manifests that there are not. */
    readonly unknown: number
  }
}

export type PullReports = ReturnType<typeof createPullReports>

/** An edge's folder is new now and then; who reports by ever new ones is forgotten, and bounded all the same. */
const keptLogs = 8
/** No edge serves more, nor may it save up more than for so long: what it says is bounded by what can have been. */
const mostPullsPerSecond = 50_000
const mostSeconds = 31 * 86_400

/** Reports of pulls at edges, each counted once, by whichever primary gets it. */
export function createPullReports(records: Records) {
  return {
    /**
     * Counts a report, if it is the next of its log, as far as the edge may say so.
     * @returns undefined when there is no such edge, or it is suspended
     */
    apply(edgeId: string, report: PullReport, now: Date): Promise<AppliedReport | undefined> {
      return retryDeadlock(() =>
        records.transaction().execute((trx) => applyIn(trx, { edgeId, report, now })),
      )
    },
  }
}

interface Applying {
  readonly edgeId: string
  readonly report: PullReport
  readonly now: Date
}

const none = { counted: 0, cut: 0, outOfScope: 0, unknown: 0 } as const

async function applyIn(
  trx: Transaction<Schema>,
  { edgeId, report, now }: Applying,
): Promise<AppliedReport | undefined> {
  // Its row is the lock: a report that is sent again, to another primary too, waits here.
  const edge = await trx
    .selectFrom('edges')
    .select(['scope', 'created_at'])
    .where('id', '=', edgeId)
    .where('deleted_at', 'is', null)
    .where('suspended', '=', false)
    .forNoKeyUpdate()
    .executeTakeFirst()
  if (edge === undefined) return undefined
  const last = await trx
    .selectFrom('edge_pulls')
    .select(['logs', 'applied_at', 'allowance'])
    .where('edge_id', '=', edgeId)
    .executeTakeFirst()
  const { log, n, pulls } = report
  const known = last?.logs.find((counted) => counted.log === log)
  if (known !== undefined && n <= known.n) return { n: known.n, isRepeated: true, lines: none }
  const { counted, lines, left } = await judge(trx, pulls, {
    scope: edge.scope,
    most: allowanceOf(last ?? { applied_at: edge.created_at, allowance: 0 }, now),
    now,
  })
  if (counted.length > 0) await addPulls(trx, counted)
  const others = (last?.logs ?? []).filter((one) => one.log !== log).slice(0, keptLogs - 1)
  const state = {
    logs: JSON.stringify([{ log, n }, ...others]),
    // The clocks of primaries differ: what one has seen pass, no other sees again.
    applied_at: last !== undefined && last.applied_at > now ? last.applied_at : now,
    allowance: left,
  }
  await trx
    .insertInto('edge_pulls')
    .values({ edge_id: edgeId, ...state })
    .onConflict((conflict) => conflict.column('edge_id').doUpdateSet(state))
    .execute()
  return { n, isRepeated: false, lines }
}

/** How many pulls an edge can have served since its last report, and did not tell of before. */
function allowanceOf(
  last: { readonly applied_at: Date; readonly allowance: number },
  now: Date,
): number {
  const seconds = Math.max(0, now.getTime() - last.applied_at.getTime()) / 1000
  const saved = last.allowance + Math.ceil(seconds * mostPullsPerSecond)
  return Math.min(saved, mostSeconds * mostPullsPerSecond)
}

/** What of a report is counted: of what there is, where the edge may read, and no more than can have been. */
async function judge(
  trx: Transaction<Schema>,
  pulls: readonly ReportedPulls[],
  limits: { readonly scope: '*' | readonly number[]; readonly most: number; readonly now: Date },
): Promise<{
  readonly counted: readonly CountedPulls[]
  readonly lines: AppliedReport['lines']
  /** Of the most. */
  readonly left: number
}> {
  const found = await findManifests(trx, pulls)
  const lines = { counted: 0, cut: 0, outOfScope: 0, unknown: 0 }
  const counted: CountedPulls[] = []
  let left = limits.most
  pulls.forEach(({ repositoryId, digest, tag, count, agoMs }, line) => {
    const manifest = found.get(line)
    if (manifest === undefined) {
      lines.unknown++
      return
    }
    if (!covers(limits.scope, manifest.projectId)) {
      lines.outOfScope++
      return
    }
    const taken = Math.min(count, left)
    left -= taken
    lines[taken < count ? 'cut' : 'counted']++
    counted.push({
      repositoryId,
      manifestId: manifest.id,
      digest,
      byDigest: tag === undefined ? taken : 0,
      byTag: tag === undefined ? 0 : taken,
      tags: tag === undefined ? [] : [tag],
      // Not before it was there. That it is not after now is how it is said.
      lastAt: new Date(Math.max(limits.now.getTime() - agoMs, manifest.pushedAt.getTime())),
    })
  })
  return { counted, lines, left }
}

interface FoundManifest {
  readonly line: number
  readonly id: number
  readonly projectId: number
  readonly pushedAt: Date
}

/** The manifests that there are, by their lines. */
async function findManifests(
  trx: Transaction<Schema>,
  pulls: readonly ReportedPulls[],
): Promise<ReadonlyMap<number, FoundManifest>> {
  const { rows } = await sql<FoundManifest>`
    SELECT reported.line::integer - 1 AS line, m.id, r.project_id AS "projectId", m.pushed_at AS "pushedAt"
    FROM unnest(${pulls.map(({ repositoryId }) => repositoryId)}::integer[],
      ${pulls.map(({ digest }) => digest)}::text[]) WITH ORDINALITY AS reported (repository_id, digest, line)
    JOIN repositories r ON r.id = reported.repository_id AND r.deleted_at IS NULL
    JOIN manifests m ON m.repository_id = r.id AND m.digest = reported.digest AND m.deleted_at IS NULL`.execute(
    trx,
  )
  return new Map(rows.map((row) => [row.line, row]))
}

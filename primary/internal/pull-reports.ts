import { ApiError } from '../../shared/api/errors.ts'
import { createLru } from '../../shared/memory/lru.ts'
import type { PullReport, PullReportAnswer } from '../../shared/replication/pulls.ts'
import type { AppliedReport, PullReports } from '../store/pull-reports.ts'

export interface TakeReportsDeps {
  readonly reports: PullReports
  /** Told what became of each. */
  readonly onApplied: (applied: AppliedReport) => void
  /** Epoch ms. */
  readonly now: () => number
}

/**
 * Takes what an edge reports of its clients' pulls.
 * @throws ApiError FORBIDDEN for an edge that may not read any more, TOO_MANY_REQUEST for one that reports too often
 */
export type TakeReport = (edgeId: string, report: PullReport) => Promise<PullReportAnswer>

/** An edge reports once a second, and after an outage what it has, at once. */
const perSecond = 2
const burst = 60
const rememberedEdges = 20_000

interface Bucket {
  left: number
  at: number
}

export function createTakeReport({ reports, onApplied, now }: TakeReportsDeps): TakeReport {
  const buckets = createLru<string, Bucket>({ max: rememberedEdges })
  const take = (edgeId: string): boolean => {
    const at = now()
    const bucket = buckets.get(edgeId) ?? { left: burst, at }
    buckets.set(edgeId, bucket)
    bucket.left = Math.min(burst, bucket.left + (Math.max(0, at - bucket.at) / 1000) * perSecond)
    bucket.at = at
    if (bucket.left < 1) return false
    bucket.left--
    return true
  }
  return async (edgeId, report) => {
    if (!take(edgeId))
      throw new ApiError('TOO_MANY_REQUEST', 'this edge reports too often: again in a moment', {
        headers: { 'Retry-After': '1' },
      })
    const applied = await reports.apply(edgeId, report, new Date(now()))
    if (applied === undefined)
      throw new ApiError('FORBIDDEN', 'this edge was revoked or suspended: its pulls do not count')
    onApplied(applied)
    return { n: applied.n }
  }
}

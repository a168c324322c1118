import type { LogPlace } from '../../shared/replication/chain.ts'
import { leaseMs, type PruneReport } from '../../shared/replication/lease.ts'
import type { EdgeState } from '../store/edge-states.ts'
import type { EdgeStanding } from '../store/edges.ts'

/** How an edge is, as an inventory shows it. */
export const edgeConditions = [
  'joining',
  'ready',
  'degraded',
  'away',
  'draining',
  'drained',
  'suspended',
  'revoked',
] as const
export type EdgeCondition = (typeof edgeConditions)[number]

/** What an edge last said of itself, measured against the primary. */
export interface EdgeStatus {
  readonly version: string
  readonly lastSeen: Date
  /** Whether it has recorded anything of the log. */
  readonly hasBegun: boolean
  /** Events of the log that it has not recorded. */
  readonly lagEvents: number
  /** Since the first of them was numbered; 0 without one. */
  readonly lagSeconds: number
  /** Events up to which it does not hold yet what rules selected for it. */
  readonly heldLagEvents: number
  readonly waitingBytes: number
  readonly cacheBytes: number
  readonly cacheSizeBytes: number
  /** From 0 to 1, of what it served since it started; undefined when that is nothing. */
  readonly hitRatio: number | undefined
  readonly servedBytes: number
  /** How far its clock was ahead when its request came. */
  readonly clockSkewMs: number
  /** Requests that it was answering, where it says. */
  readonly transfers: number | undefined
  /** Whether it has heard that it is to leave. */
  readonly isLeaving: boolean
  /** The last thing that went wrong; empty: nothing did. */
  readonly lastError: string
  /** By its own clock, where it says. */
  readonly lastErrorAt: Date | undefined
  /** Whether that still is so. */
  readonly isFailing: boolean
  /** Manifests that rules selected and that it could not get. */
  readonly failures: number
  /** What would go by itself, and what went; undefined: it does not say. */
  readonly prune: PruneReport | undefined
}

/** So many leases without a word, or behind, are no accident. */
const longestMs = 3 * leaseMs
const longestSkewMs = 60_000

/** Events from one place of the log to another: one of an older epoch has everything before it, a later one nothing. */
export function eventsBetween(from: LogPlace, to: LogPlace): number {
  if (from.epoch !== to.epoch) return from.epoch > to.epoch ? 0 : to.seq
  return Math.max(0, to.seq - from.seq)
}

/**
 * Measures what an edge said of itself.
 * @param options.behindSince when the first event that it has not recorded was numbered, as far as the log reaches back
 * @param options.now epoch ms
 */
export function statusOf(
  { applied, heldSeq, waitingBytes, report, seenAt }: EdgeState,
  {
    head,
    behindSince,
    now,
  }: { readonly head: LogPlace; readonly behindSince: Date | undefined; readonly now: number },
): EdgeStatus {
  const lagEvents = eventsBetween(applied, head)
  const since = (behindSince ?? seenAt).getTime()
  const served = report.hits + report.misses
  return {
    version: report.version,
    lastSeen: seenAt,
    hasBegun: applied.seq > 0 || head.seq === 0,
    lagEvents,
    lagSeconds: lagEvents === 0 ? 0 : Math.max(0, Math.floor((now - since) / 1000)),
    heldLagEvents: eventsBetween({ epoch: applied.epoch, seq: heldSeq }, head),
    waitingBytes,
    cacheBytes: report.cacheBytes,
    cacheSizeBytes: report.cacheSizeBytes,
    hitRatio: served === 0 ? undefined : report.hits / served,
    servedBytes: report.servedBytes,
    clockSkewMs: report.clock - seenAt.getTime(),
    transfers: report.transfers,
    isLeaving: report.draining === true,
    lastError: report.lastError,
    lastErrorAt: report.lastErrorAt === undefined ? undefined : new Date(report.lastErrorAt),
    isFailing: report.lastError !== '' && report.lastErrorIsOver !== true,
    failures: report.failures.length,
    prune: report.prune,
  }
}

/**
 * How an edge is.
 * @param edge.standing what was made of it, which it cannot say
 * @param edge.status undefined: it was never heard of
 * @param now epoch ms
 */
export function conditionOf(
  {
    standing,
    status,
  }: { readonly standing: EdgeStanding; readonly status: EdgeStatus | undefined },
  now: number,
): EdgeCondition {
  if (standing === 'suspended' || standing === 'revoked') return standing
  if (status === undefined) return 'joining'
  const { lastSeen, hasBegun, lagSeconds, clockSkewMs, isFailing, failures } = status
  // One that left is not missed.
  if (standing === 'draining' && status.isLeaving && status.transfers === 0) return 'drained'
  if (now - lastSeen.getTime() > longestMs) return 'away'
  if (standing === 'draining') return 'draining'
  if (isFailing || failures > 0 || Math.abs(clockSkewMs) > longestSkewMs) return 'degraded'
  // Its first snapshots are on their way: that is no lag.
  if (!hasBegun) return 'joining'
  return lagSeconds * 1000 > longestMs ? 'degraded' : 'ready'
}

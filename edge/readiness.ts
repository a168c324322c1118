import type { Readiness } from '../shared/http/readiness.ts'

export interface EdgeReadinessDeps {
  /** Why the disk takes nothing now; undefined: it does. */
  readonly diskFailure: () => string | undefined
  /** Why it cannot answer for its primary; undefined: it can, or does not follow it. */
  readonly logFailure: () => string | undefined
  readonly isLeaving: () => boolean
}

/**
 * Whether clients should be sent to an edge. An upstream that is away, the primary too, is a metric and no reason to
 * send nobody here: what is held is served.
 */
export function createEdgeReadiness({
  diskFailure,
  logFailure,
  isLeaving,
}: EdgeReadinessDeps): Readiness {
  const check = (name: string, reason: string | undefined) =>
    reason === undefined ? { name, ok: true } : { name, ok: false, reason }
  return async () => [
    check('cache', diskFailure()),
    check('log', logFailure()),
    check('service', isLeaving() ? 'this edge drains: its primary says that it leaves' : undefined),
  ]
}

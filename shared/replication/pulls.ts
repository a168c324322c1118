import type { Digest } from '../oci/digest.ts'
import type { Tag } from '../oci/reference.ts'

/**
 * What an edge tells of the pulls of its clients. Batches of one log are numbered from 1, and told in their order, each
 * until the primary says that it has it: it counts once, however often it comes.
 */
export interface PullReport {
  /** A UUID, made with the edge's folder: numbers count within it. */
  readonly log: string
  readonly n: number
  /** At most `maxReportedPulls`. */
  readonly pulls: readonly ReportedPulls[]
}

/** The GETs of one manifest by one tag, or by its digest: whether those count the primary knows, which knows all indexes. */
export interface ReportedPulls {
  readonly repositoryId: number
  readonly digest: Digest
  /** What it was asked by; absent: its digest. */
  readonly tag?: Tag
  readonly count: number
  /** Milliseconds since the last of them, by the edge's clock: how wrong that is does not matter. */
  readonly agoMs: number
}

export interface PullReportAnswer {
  /** The last batch of that log that is counted. */
  readonly n: number
}

/** What one report may hold. */
export const maxReportedPulls = 2000

/**
 * An edge says by this, with each manifest that it fetches for itself, that it reports the pulls of its clients: then its
 * own requests are none.
 */
export const reportsPullsHeader = 'outport-pulls'
export const reportsPulls = 'reported'

import type { Envelope } from '../trust/statement.ts'
import type { LogPlace } from './chain.ts'

/** How long an edge may answer by what it knows, from when it asked. Milliseconds. */
export const leaseMs = 60_000

/** What an edge sends for its lease, each third of it. */
export interface LeaseRequest {
  /** 22 characters of base64url: 16 random bytes, which the answer names. */
  readonly nonce: string
  /** The last event whose statements it has recorded. */
  readonly applied: LogPlace
  /** The end of the last batch, as the log's key signed it: a primary whose database is older sees that by it. */
  readonly proof?: Envelope
  /** Up to here it holds what rules selected for it, or has given up on it. */
  readonly heldSeq: number
  /** Of what is still to come. */
  readonly waitingBytes: number
  /** Where other edges of its site reach it; absent: they do not. */
  readonly peerUrl?: string
  readonly report: EdgeReport
}

/** What an edge says of itself: shown, never believed. */
export interface EdgeReport {
  readonly version: string
  /** Epoch ms by its own clock, when it asked. */
  readonly clock: number
  readonly cacheBytes: number
  readonly cacheSizeBytes: number
  /** Since it started. */
  readonly hits: number
  readonly misses: number
  readonly servedBytes: number
  /** Where its clients reach it; empty when only it knows. */
  readonly url: string
  /** Requests that it is answering; absent: it is an older one, which does not say. */
  readonly transfers?: number
  /** It has heard that it is to leave. */
  readonly draining?: boolean
  /** The last thing that went wrong; empty: nothing did. */
  readonly lastError: string
  /** Epoch ms by its own clock. */
  readonly lastErrorAt?: number
  /** It is so no more. */
  readonly lastErrorIsOver?: boolean
  /** Manifests that rules selected and that it could not get. */
  readonly failures: readonly PrefetchFailure[]
  /** Preheats that it knows of; absent: it is too old to. */
  readonly preheats?: readonly PreheatReport[]
  /** Absent: it does not prune, or has not looked yet since it started. */
  readonly prune?: PruneReport
}

/** What would go by itself, because nothing keeps it, and what went. Times are epoch ms by the edge's clock. */
export interface PruneReport {
  /** `refused`: it would be more than the edge's limit. */
  readonly outcome: 'nothing' | 'refused' | 'shown' | 'done'
  /** When it last looked. */
  readonly at: number
  /** What it found and did not remove. */
  readonly blobs: number
  readonly bytes: number
  /** Some of these. */
  readonly digests: readonly string[]
  /** What it removed last; absent: nothing since it started. */
  readonly removed?: { readonly at: number; readonly blobs: number; readonly bytes: number }
}

/** How far an edge is with a preheat. */
export interface PreheatReport {
  readonly id: number
  readonly isHeld: boolean
  /** What went wrong last; empty: nothing. */
  readonly reason: string
  /** Digests that are not there; absent: it is not known which, or they are too many to say. */
  readonly missing?: readonly string[]
}

export interface PrefetchFailure {
  readonly ruleId: number
  readonly repositoryId: number
  readonly digest: string
  /** What went wrong; it begins with `NO_SPACE` where pins may take no more. */
  readonly reason: string
}

/** What the primary signs of a lease: the edge may answer by what it has recorded up to this head. */
export interface Lease {
  /** Of the request. */
  readonly nonce: string
  readonly edgeId: string
  /** Read after the request had come. */
  readonly head: LogPlace
  /** The streams whose bodies the edge is entitled to. */
  readonly streams: readonly string[]
  readonly leaseMs: number
}

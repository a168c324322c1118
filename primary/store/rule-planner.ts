import type { Digest } from '../../shared/oci/digest.ts'
import type { Policy } from './policies.ts'
import type { RepositoryContent } from './repository-content.ts'

/** What a rule selects of a repository now. */
export interface Selection {
  readonly digest: Digest
  /** By which tags. */
  readonly tags: readonly string[]
  /** Taken back by who stopped what brought it. */
  readonly stopped: boolean
}

/** What a rule is to select of a repository. */
export interface Plan {
  readonly wanted: readonly { readonly digest: Digest; readonly tags: readonly string[] }[]
  /** What it passes over, and why: lines for the log. */
  readonly skipped: readonly string[]
}

export interface PlanContext {
  /** Nothing comes, and tags count as they were: only the filters, and what is there, may have changed. */
  readonly frozen: boolean
  /** Tags that have just moved: what is passed over of others is no news. undefined: all are news. */
  readonly moved: ReadonlySet<string> | undefined
  readonly now: Date
}

/** A rule that has been read. */
export interface Planner {
  /** Whether it may select anything in a repository of this name. */
  wants(repository: string): boolean
  /** What it selects there, given what it selected before. */
  plan(content: RepositoryContent, current: readonly Selection[], context: PlanContext): Plan
}

/** How a rule is read; undefined for one that cannot be. */
export type PlannerOf = (policy: Policy) => Planner | undefined

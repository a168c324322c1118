import type { Scope } from '../../shared/auth/scope.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import type { RepositoryName } from '../../shared/oci/reference.ts'

/** What may be done to a repository over the distribution API. */
export type RepositoryAction = 'pull' | 'push' | 'delete'

/**
 * Who sent a request, as its credential proved it. What the caller may do is decided from the records
 * as they are now; `access` (set when the credential was a token) only narrows it further.
 */
export type Caller = {
  /** undefined: the credential itself was given (Basic), so no token narrows it. */
  readonly access: readonly Scope[] | undefined
} & (
  | { readonly kind: 'anonymous' }
  | { readonly kind: 'user'; readonly id: number; readonly name: string }
  | { readonly kind: 'robot'; readonly id: number; readonly name: string }
  | { readonly kind: 'edge'; readonly id: string; readonly name: string }
)

/** What the records say of a caller now; undefined once the account is gone, disabled or expired. */
export type CallerFacts =
  | { readonly kind: 'anonymous' }
  | { readonly kind: 'user'; readonly id: number; readonly admin: boolean }
  | {
      readonly kind: 'robot'
      readonly id: number
      /** The project of a project robot. */
      readonly projectId: number | undefined
      readonly permissions: readonly RobotPermission[]
      /** Epoch ms; undefined: never. */
      readonly expiresAt: number | undefined
    }
  | { readonly kind: 'edge'; readonly id: string; readonly scope: '*' | readonly number[] }

/** Harbor's form of a robot's rights. `namespace` is a project's name, `*`, or `/` for the system. */
export interface RobotPermission {
  readonly kind: 'system' | 'project'
  readonly namespace: string
  /**
   * The project that `namespace` named when the right was given. Access goes by it alone, so that a
   * project that is deleted and made again under its name inherits nothing. Absent for `*` and `/`.
   */
  readonly projectId?: number
  readonly access: readonly {
    readonly resource: string
    readonly action: string
    readonly effect?: string
  }[]
}

/** What access reads of a project. */
export interface ProjectFacts {
  readonly id: number
  readonly name: string
  readonly public: boolean
}

/** Where stored bytes are, and how many. */
export interface StoredBlob {
  readonly digest: Digest
  readonly key: string
  readonly size: number
}

/** A repository as the registry refers to it: bound by id, named for people. */
export interface RepositoryFacts {
  readonly id: number
  readonly name: RepositoryName
  readonly projectId: number
}

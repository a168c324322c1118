import { containsAction, formatScope, type Scope } from '../../shared/auth/scope.ts'
import type { RepositoryName } from '../../shared/oci/reference.ts'
import type { Caller, CallerFacts, ProjectFacts, RepositoryAction } from '../accounts/caller.ts'
import { isAllowedInProject, isAllowedInSystem } from '../accounts/permissions.ts'

/** In the order in which clients write them: they compare scopes as strings. */
const actions: readonly RepositoryAction[] = ['pull', 'push', 'delete']

const nothing: ReadonlySet<RepositoryAction> = new Set()

/**
 * What a caller may do to a repository: what the records allow now, narrowed by the token's access when
 * a token was the credential. The asked scope is never the source of a right.
 * @param facts undefined: the account is gone, disabled or expired
 * @param project undefined: there is none of that name
 * @param roleId the caller's role in the project, if any
 */
export function rightsOf(
  facts: CallerFacts | undefined,
  project: ProjectFacts | undefined,
  roleId: number | undefined,
  access: Caller['access'],
  repository: RepositoryName,
): ReadonlySet<RepositoryAction> {
  if (facts === undefined || project === undefined) return nothing
  return new Set(
    actions.filter(
      (action) =>
        isAllowedInProject(facts, project, { roleId, permission: `repository:${action}` }) &&
        (access === undefined ||
          containsAction(access, { type: 'repository', name: repository, action })),
    ),
  )
}

/** Whether a caller may list every repository (`_catalog`): administrators, and robots that were given it. */
export function mayCatalog(facts: CallerFacts | undefined, access: Caller['access']): boolean {
  if (!isAllowedInSystem(facts, 'catalog:read')) return false
  return (
    access === undefined ||
    containsAction(access, { type: 'registry', name: 'catalog', action: '*' })
  )
}

/** The asked actions that are allowed; `*` asks for all of them, and is never itself granted. */
export function intersect(
  asked: readonly string[],
  allowed: ReadonlySet<RepositoryAction>,
): readonly RepositoryAction[] {
  return actions.filter(
    (action) => allowed.has(action) && (asked.includes(action) || asked.includes('*')),
  )
}

export interface Challenge {
  /** Where clients reach this registry; the realm is built from it, never from a Host header. */
  readonly externalUrl: string
  readonly service: string
  readonly scopes?: readonly Scope[]
  /** Required by containerd for a bad token, and read by docker and podman for a missing scope. */
  readonly error?: 'invalid_token' | 'insufficient_scope'
}

/**
 * The one `WWW-Authenticate` challenge of a 401: exactly one, since docker, podman and oras each choose
 * wrongly among several. [RFC 6750 §3; distribution, docs/spec/auth/token]
 */
export function challengeOf({ externalUrl, service, scopes = [], error }: Challenge): string {
  const realm = `${externalUrl.replace(/\/+$/, '')}/service/token`
  const parameters = [`realm=${quote(realm)}`, `service=${quote(service)}`]
  if (scopes.length > 0) parameters.push(`scope=${quote(scopes.map(formatScope).join(' '))}`)
  if (error !== undefined) parameters.push(`error=${quote(error)}`)
  return `Bearer ${parameters.join(',')}`
}

function quote(text: string): string {
  return `"${text.replaceAll(/["\\\r\n]/g, '')}"`
}

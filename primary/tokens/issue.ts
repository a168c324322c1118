import { parseBasic } from '../../shared/auth/basic.ts'
import type { AccountReach } from '../../shared/auth/project-set.ts'
import { containsAction, type Scope } from '../../shared/auth/scope.ts'
import {
  edgeAudience,
  primaryAudience,
  signToken,
  tokenIssuer,
  type SigningKey,
  type TokenClaims,
} from '../../shared/auth/token.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { isRepositoryName, projectOf } from '../../shared/oci/reference.ts'
import { accountKindOf, edgePrefix, formatSubject, type Account } from '../accounts/account.ts'
import type { Caller, CallerFacts, ProjectFacts } from '../accounts/caller.ts'
import { isAllowedInProject, robotProjects } from '../accounts/permissions.ts'
import { intersect, mayCatalog, rightsOf } from './grant.ts'
import type { LogInOrigin } from '../../shared/auth/log-in-limit.ts'
import type { LogIns } from '../accounts/log-ins.ts'

/** A project as the grant needs it, with the caller's role in it. */
export interface GrantedProject extends ProjectFacts {
  readonly roleId: number | undefined
}

/** An edge that relays its clients' log-ins, proved by its own credential. */
export interface RelayingEdge {
  readonly facts: Extract<CallerFacts, { readonly kind: 'edge' }>
  readonly acceptsPeople: boolean
}

export interface IssueDeps {
  readonly logIns: LogIns
  /** The projects of these names, and the user's role in each; a missing one is missing. */
  readonly findProjects: (
    names: readonly string[],
    userId: number | undefined,
  ) => Promise<readonly GrantedProject[]>
  /** The user's roles, of whatever projects. */
  readonly rolesOf: (
    userId: number,
  ) => Promise<readonly { readonly projectId: number; readonly roleId: number }[]>
  readonly acceptsPeople: (edgeId: string) => Promise<boolean>
  readonly signingKey: () => SigningKey | Promise<SigningKey>
  readonly lifetimeSeconds: number
  /** Epoch ms. */
  readonly now: () => number
}

export interface TokenOrder {
  /** undefined: nobody logged in. */
  readonly account: Account | undefined
  readonly scopes: readonly Scope[]
  readonly edge: RelayingEdge | undefined
}

export interface IssuedToken {
  readonly token: string
  readonly claims: TokenClaims
}

export type Issue = ReturnType<typeof createIssue>

/** What the token endpoint decides: whom a token is for, and what it grants. [distribution, docs/spec/auth/token] */
export function createIssue(deps: IssueDeps) {
  const { logIns } = deps

  /** What the caller may have of what it asked for. The asked scope only narrows; rights come from the records. */
  async function grant({ account, scopes, edge }: TokenOrder): Promise<readonly Scope[]> {
    const facts: CallerFacts = account?.facts ?? { kind: 'anonymous' }
    const names = scopes.filter((scope) => scope.type === 'repository').map((scope) => scope.name)
    const repositories = names.filter(isRepositoryName)
    const userId = facts.kind === 'user' ? facts.id : undefined
    const projects = new Map(
      (await deps.findProjects([...new Set(repositories.map(projectOf))], userId)).map(
        (project) => [project.name, project],
      ),
    )
    return scopes.flatMap((scope): readonly Scope[] => {
      if (scope.type === 'registry') return edge === undefined ? grantCatalog(facts, scope) : []
      if (scope.type !== 'repository' || !isRepositoryName(scope.name)) return []
      const { name } = scope
      const project = projects.get(projectOf(name))
      const own = rightsOf(facts, project, project?.roleId, undefined, name)
      // Through an edge both must be allowed, and an edge only pulls.
      const relayed = edge && rightsOf(edge.facts, project, undefined, undefined, name)
      const allowed = new Set(
        [...own].filter((action) => relayed === undefined || relayed.has(action)),
      )
      const actions = intersect(scope.actions, allowed)
      if (project === undefined || actions.length === 0) return []
      const bound = edge === undefined ? {} : { project: project.id }
      return [{ type: scope.type, name, actions, ...bound }]
    })
  }

  return {
    /**
     * Who relays the request, if an edge does, by its `Outport-Edge-Authorization` header.
     * @throws OciError UNAUTHORIZED when that credential is wrong: never taken for a request without an edge
     */
    async findEdge(header: string | undefined, address: string): Promise<RelayingEdge | undefined> {
      if (header === undefined) return undefined
      const credentials = parseBasic(header)
      const account =
        credentials === undefined
          ? undefined
          : await logIns.logIn(
              { ...credentials, username: edgePrefix + credentials.username },
              { address },
            )
      if (account?.facts.kind !== 'edge') {
        throw new OciError(
          'UNAUTHORIZED',
          "the edge's own credential is not accepted: check its secret and that it is not removed",
        )
      }
      return { facts: account.facts, acceptsPeople: await deps.acceptsPeople(account.facts.id) }
    },

    /**
     * Refuses people at an edge that does not accept them, before their password is looked at.
     * @throws OciError DENIED
     */
    async checkRelayed(
      username: string,
      { edge, origin }: { readonly edge: RelayingEdge | undefined; readonly origin: LogInOrigin },
    ): Promise<void> {
      if (edge === undefined || edge.acceptsPeople || accountKindOf(username) === 'robot') return
      const description = `the edge ${edge.facts.id} does not accept people`
      await logIns.noteRefusal({ username, isKnown: false, origin, description })
      throw new OciError(
        'DENIED',
        'this edge does not accept accounts of people, whose passwords it would see: log in with a pull-only robot account (robot$project+name; a project admin makes one under Robot Accounts, or by POST /api/v2.0/robots)',
      )
    },

    /** Where an account may pull: its edge goes on by that for a while when this primary is away. */
    async reachOf({ facts }: Account): Promise<AccountReach> {
      if (facts.kind === 'robot') {
        const projects = robotProjects(facts, 'repository:pull', { everywhere: false })
        return { projects, ...(facts.expiresAt !== undefined && { endsAt: facts.expiresAt }) }
      }
      if (facts.kind !== 'user') return { projects: { kind: 'only', ids: [] } }
      if (facts.admin) return { projects: { kind: 'all but', ids: [] } }
      const roles = await deps.rolesOf(facts.id)
      const mayPull = ({ projectId: id, roleId }: (typeof roles)[number]): boolean =>
        isAllowedInProject(
          facts,
          { id, name: '', public: false },
          { roleId, permission: 'repository:pull' },
        )
      return {
        projects: { kind: 'only', ids: roles.filter(mayPull).map((role) => role.projectId) },
      }
    },

    /** Signs a token with what is granted, which may be nothing. */
    async issue(order: TokenOrder): Promise<IssuedToken> {
      const { account, edge } = order
      const access = await grant(order)
      const caller: Caller = account?.caller ?? { kind: 'anonymous', access: undefined }
      return signToken(
        {
          issuer: tokenIssuer,
          audience: edge === undefined ? primaryAudience : edgeAudience(edge.facts.id),
          subject: formatSubject(caller),
          name: caller.kind === 'anonymous' ? '' : caller.name,
          access,
        },
        {
          key: await deps.signingKey(),
          lifetimeSeconds: deps.lifetimeSeconds,
          now: new Date(deps.now()),
        },
      )
    },
  }
}

function grantCatalog(facts: CallerFacts, scope: Scope): readonly Scope[] {
  const asked = containsAction([scope], { type: 'registry', name: 'catalog', action: '*' })
  if (!asked || !mayCatalog(facts, undefined)) return []
  return [{ type: 'registry', name: 'catalog', actions: ['*'] }]
}

import { createHmac, randomBytes } from 'node:crypto'
import type { TokenClaims, TokenVerifier } from '../../shared/auth/token.ts'
import { createLru } from '../../shared/memory/lru.ts'
import type { RepositoryName } from '../../shared/oci/reference.ts'
import { OciError } from '../../shared/oci/errors.ts'
import type { OciPath } from '../../shared/oci/paths.ts'
import type { Hop, UpstreamRequest } from '../../shared/upstream/fetch.ts'
import type { RegistryEntry } from '../../shared/upstream/registries.ts'
import type { Revocations } from './revocations.ts'
import { noLogins, unauthorized, type Realm } from './challenge.ts'
import type { TokenRelay } from './token-relay.ts'

/** Who asks, as far as the request says. */
export interface EdgeCaller {
  readonly authorization: string | undefined
  readonly address: string
  readonly requestId: string
  /** What the request came over. */
  readonly connection?: object
  /** What it says of the edges that it came through; of no meaning but from an edge. */
  readonly via?: string | undefined
  /** As it came. [RFC 9111 §5.2.1] */
  readonly cacheControl?: string | undefined
  /** Of an edge: which part it takes this one for the home of. */
  readonly part?: string | undefined
}

/** What a caller was allowed. */
export interface PullGrant {
  /** The id of the project that the name stands in at the primary, as it said when it allowed this. */
  readonly project?: number | undefined
  /** What the upstream is to be asked with, instead of the edge's own. */
  readonly credential?: UpstreamRequest['credential']
  /** Tells those apart whose rights differ, without saying who they are. */
  readonly identity?: string
  /** Another edge asks. */
  readonly hop?: Hop
  /** Called when the upstream refuses the credential after all. */
  readonly revoke?: () => void
}

/** What somebody would pull. */
export interface PullTarget {
  readonly entry: RegistryEntry
  readonly repository: RepositoryName
  /** As the upstream knows it. */
  readonly path: OciPath
}

/** May this caller do this, now? */
export interface Authorise {
  /** Whether all that an upstream gives may be read by everybody who reaches the listener. */
  readonly isOpen: (upstream: string) => boolean
  /** @throws OciError the refusal */
  ping(caller: EdgeCaller): Promise<void>
  /** The grant of a caller whose right can be told at once; undefined says nothing: `pull` does. */
  known(
    caller: Pick<EdgeCaller, 'authorization' | 'connection'>,
    target: PullTarget,
  ): PullGrant | undefined
  /** @throws OciError the refusal */
  pull(caller: EdgeCaller, target: PullTarget): Promise<PullGrant>
}

export interface AuthoriseDeps {
  readonly verifier: TokenVerifier
  readonly relay: TokenRelay
  /** Whether what a token says has lost its worth since it was signed. */
  readonly isRevoked: Revocations['isRevoked']
  /** Whether an upstream's content may be read by everybody who reaches a listener. */
  readonly isOpen: (upstream: string) => boolean
  /** How many decisions are remembered, and for how many milliseconds. */
  readonly decisions: number
  readonly decisionTtlMs: number
}

/**
 * The rules of a challenging listener: `/v2/` and the primary's content want a token of the primary for this
 * edge (or the log-in itself, by Basic); content of open upstreams is given to everybody.
 */
export function createChallengingAccess(
  deps: AuthoriseDeps,
  { realm, takesLogins }: { readonly realm: Realm; readonly takesLogins: boolean },
): Authorise {
  const logins = createLogins(deps)
  const claimsOf = (authorization: string, repository: RepositoryName | undefined, from: From) => {
    if (!takesLogins && /^basic /i.test(authorization)) throw noLogins()
    return logins.claimsOf(authorization, repository, from)
  }
  return {
    isOpen: deps.isOpen,
    async ping({ authorization, ...from }) {
      if (authorization === undefined) throw unauthorized(realm)
      const claims = await claimsOf(authorization, undefined, from)
      if (claims === undefined) throw unauthorized(realm, { error: 'invalid_token' })
    },
    known({ authorization, connection }, { entry, repository }) {
      if (deps.isOpen(entry.id)) return everybody
      if (authorization === undefined || !authorization.startsWith(bearer)) return undefined
      const claims = deps.verifier.known(authorization.slice(bearer.length), connection)
      return claims && grantIn(claims, repository)
    },
    async pull({ authorization, ...from }, { entry, repository }) {
      if (deps.isOpen(entry.id)) return everybody
      if (authorization === undefined) throw unauthorized(realm, { repository })
      const claims = await claimsOf(authorization, repository, from)
      if (claims === undefined) throw unauthorized(realm, { repository, error: 'invalid_token' })
      const grant = grantIn(claims, repository)
      if (grant === undefined)
        throw unauthorized(realm, { repository, error: 'insufficient_scope' })
      return grant
    },
  }
}

/**
 * The rules of an open listener: it gives what is open to callers without a name, and does not look at
 * credentials (docker sends its Hub password to any mirror that challenges). What is not open is not there.
 */
export function createOpenAccess(deps: AuthoriseDeps): Authorise {
  const logins = createLogins(deps)
  return {
    isOpen: deps.isOpen,
    ping: () => Promise.resolve(),
    known: (_caller, { entry }) => (deps.isOpen(entry.id) ? everybody : undefined),
    async pull({ address, requestId }, { entry, repository }) {
      if (deps.isOpen(entry.id)) return everybody
      const claims = await logins.anonymous(repository, { address, requestId })
      const grant = claims && grantIn(claims, repository)
      if (grant === undefined) {
        throw new OciError('NAME_UNKNOWN', 'there is no such repository, or it is not public')
      }
      return grant
    },
  }
}

type From = Omit<EdgeCaller, 'authorization'>

/** Turns credentials into what the primary says of them. */
function createLogins({ verifier, relay, isRevoked, decisions, decisionTtlMs }: AuthoriseDeps) {
  // Credentials are never kept: an entry is found by a keyed hash that means nothing to another process.
  const secret = randomBytes(32)
  const remembered = createLru<string, TokenClaims>({ max: decisions, ttl: decisionTtlMs })

  const logIn = async (
    authorization: string | undefined,
    repository: RepositoryName | undefined,
    from: From,
  ): Promise<TokenClaims | undefined> => {
    const key = createHmac('sha256', secret)
      .update(`${authorization ?? ''}\n${repository ?? ''}`)
      .digest('base64')
    const known = remembered.get(key)
    if (known !== undefined && !isRevoked(known)) return known
    const scopes =
      repository === undefined ? [] : [{ type: 'repository', name: repository, actions: ['pull'] }]
    const { address, requestId } = from
    const { token } = await relay.logIn({ authorization, scopes, address, requestId })
    const claims = await verifier.verify(token)
    if (claims !== undefined) remembered.set(key, claims)
    return claims
  }

  return {
    anonymous: (repository: RepositoryName, from: From) => logIn(undefined, repository, from),
    claimsOf(authorization: string, repository: RepositoryName | undefined, from: From) {
      const [, scheme, credential] = /^(bearer|basic) +(\S+)$/i.exec(authorization) ?? []
      if (scheme === undefined || credential === undefined) return Promise.resolve(undefined)
      if (scheme.toLowerCase() === 'bearer') return verifier.verify(credential, from.connection)
      return logIn(`Basic ${credential}`, repository, from)
    },
  }
}

/** As most clients write it; the others are read by `pull`. */
const bearer = 'Bearer '

/** What is open to everybody belongs to no project of the primary. */
const everybody: PullGrant = {}

function grantIn({ access }: TokenClaims, repository: RepositoryName): PullGrant | undefined {
  const scope = access.find(
    ({ type, name, actions }) =>
      type === 'repository' && name === repository && actions.includes('pull'),
  )
  return scope && { project: scope.project }
}

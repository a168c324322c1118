import { createPrivateKey, generateKeyPairSync, randomUUID } from 'node:crypto'
import { isAnonymous, parseBasic, type BasicCredentials } from '../../shared/auth/basic.ts'
import type { LogInLimit } from '../../shared/auth/log-in-limit.ts'
import { hasProject } from '../../shared/auth/project-set.ts'
import type { Scope } from '../../shared/auth/scope.ts'
import {
  signToken,
  tokenIssuer,
  type PublicKeys,
  type SigningKey,
  type TokenVerifier,
} from '../../shared/auth/token.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { isRepositoryName, projectOf } from '../../shared/oci/reference.ts'
import { lasts } from '../../shared/stream/lasts.ts'
import type { CacheIndex } from '../cache/cache-index.ts'
import type { Statements } from '../cache/statements.ts'
import type { Revocations } from './revocations.ts'
import type { SeenAccount, SeenLogIns } from './seen-log-ins.ts'
import type { IssuedToken, RelayedLogin, TokenRelay } from './token-relay.ts'

/** By what an edge signs tokens while its primary is away: nobody else takes them. */
export interface OwnTokenKey {
  readonly signing: SigningKey
  readonly public: PublicKeys
}

const keyDocument = 'own-token-key'

/** This edge's own token key, made when it has none. */
export async function openOwnTokenKey(
  index: Pick<CacheIndex, 'document' | 'putDocument'>,
): Promise<OwnTokenKey> {
  const kept = index.document(keyDocument) as Partial<Record<string, unknown>> | undefined
  const known = typeof kept?.['pem'] === 'string' && typeof kept['kid'] === 'string'
  const made = known ? undefined : generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
  const kid = known ? String(kept['kid']) : `edge-${randomUUID()}`
  const privateKey = made ?? createPrivateKey(String(kept?.['pem']))
  if (made !== undefined)
    await index.putDocument(keyDocument, {
      kid,
      pem: made.export({ format: 'pem', type: 'pkcs8' }),
    })
  const { crv, x, y } = privateKey.export({ format: 'jwk' })
  return {
    signing: { kid, privateKey },
    public: { keys: [{ kty: 'EC', crv, x, y, kid }] as PublicKeys['keys'] },
  }
}

export interface OfflineDeps {
  readonly relay: TokenRelay
  readonly verifier: Pick<TokenVerifier, 'verify'>
  readonly seen: SeenLogIns
  readonly key: SigningKey
  /** What tokens of this edge are for. */
  readonly audience: string
  readonly statements: Pick<Statements, 'cursor' | 'projectIdOf' | 'project'>
  readonly isRevoked: Revocations['isRevoked']
  /** How long a log-in counts after the primary took it, in ms. */
  readonly graceMs: number
  /** How long the primary is waited for, where a log-in can be answered without it, in ms. */
  readonly waitMs: number
  /** Of tries to log in without the primary. */
  readonly limit: LogInLimit
  /** Epoch ms. */
  readonly now: () => number
  /** Told of each log-in that the primary could not be asked about. */
  readonly onOffline: (outcome: OfflineOutcome) => void
}

export type OfflineOutcome = 'taken' | 'refused'

/** As long as the primary's tokens live by default. */
const lifetimeSeconds = 300
/** A primary that did not answer is asked by one log-in in this time, while others are answered without it. */
const awayMs = 5000

/**
 * Asks the primary about log-ins as long as it answers, and goes on without it: nobody's rights are what the log says
 * of public projects, an account's those that the primary named when it last took its log-in, for as long as the grace
 * lasts and the log says nothing against it. [DESIGN §8, Offline]
 */
export function createOfflineRelay(deps: OfflineDeps): TokenRelay {
  const { relay, verifier, seen, statements, now } = deps
  let awayUntil = -Infinity

  const ask = async (login: RelayedLogin): Promise<IssuedToken> => {
    const credentials = credentialsOf(login)
    try {
      const issued = await relay.logIn(login)
      awayUntil = -Infinity
      if (credentials !== undefined) await remember(credentials, issued)
      return issued
    } catch (error) {
      if (isAway(error)) awayUntil = now() + awayMs
      else if (credentials !== undefined && isRefusal(error))
        void seen.refused(credentials).catch(() => undefined)
      throw error
    }
  }
  const remember = async (
    credentials: BasicCredentials,
    { token, reach }: IssuedToken,
  ): Promise<void> => {
    if (reach === undefined) return
    const claims = await verifier.verify(token)
    // Its password is derived behind the client's back.
    if (claims !== undefined) void seen.took(credentials, { claims, reach }).catch(() => undefined)
  }

  /** Who logs in; 'nobody' without a name. @throws OciError TOOMANYREQUESTS */
  const identify = async (login: RelayedLogin): Promise<SeenAccount | 'nobody' | undefined> => {
    const credentials = credentialsOf(login)
    if (credentials === undefined) return 'nobody'
    const tried = deps.limit.take(credentials.username, { address: login.address })
    if (!tried.allowed)
      throw new OciError(
        'TOOMANYREQUESTS',
        `too many failed log-ins of this account from this address: try again in ${tried.retryAfterSeconds} seconds`,
        { headers: { 'Retry-After': String(tried.retryAfterSeconds) } },
      )
    let account: SeenAccount | undefined
    try {
      account = await seen.check(credentials)
    } finally {
      tried.settle({ failed: account === undefined })
    }
    return account === undefined || deps.isRevoked({ ...account, access: [] }) ? undefined : account
  }

  const sign = async (
    login: RelayedLogin,
    account: SeenAccount | 'nobody',
  ): Promise<IssuedToken> => {
    const known = account === 'nobody' ? undefined : account
    const access = login.scopes.flatMap((scope) => granted(scope, known))
    const left =
      known === undefined ? Infinity : Math.floor((known.takenAt + deps.graceMs - now()) / 1000)
    const expiresIn = Math.max(1, Math.min(lifetimeSeconds, left))
    // What the log says against an account since the primary took its log-in counts against this token too.
    const issuedAt = known === undefined ? now() : known.issuedAt * 1000
    const expiresAt = Math.floor(now() / 1000) + expiresIn
    const { token } = await signToken(
      {
        issuer: tokenIssuer,
        audience: deps.audience,
        subject: known?.subject ?? '',
        name: credentialsOf(login)?.username ?? '',
        access,
      },
      {
        key: deps.key,
        lifetimeSeconds: expiresAt - Math.floor(issuedAt / 1000),
        now: new Date(issuedAt),
      },
    )
    return { token, expiresIn, issuedAt: new Date(now()).toISOString() }
  }
  const granted = (scope: Scope, account: SeenAccount | undefined): readonly Scope[] => {
    const { type, name } = scope
    if (type !== 'repository' || !isRepositoryName(name)) return []
    const id = statements.projectIdOf(projectOf(name))
    const project = id === undefined ? undefined : statements.project(id)
    if (id === undefined || project === undefined) return []
    const mayPull =
      project.public || (account !== undefined && hasProject(account.reach.projects, id))
    return mayPull ? [{ type, name, actions: ['pull'], project: id }] : []
  }

  /** undefined: what is known here does not answer it. */
  const answer = async (login: RelayedLogin): Promise<IssuedToken | undefined> => {
    // Without the log nothing is known of rights now.
    if (statements.cursor === undefined) return undefined
    const account = await identify(login)
    deps.onOffline(account === undefined ? 'refused' : 'taken')
    return account && sign(login, account)
  }

  /** The primary's answer, or ours when that is late or does not come. */
  const askOrAnswer = async (login: RelayedLogin): Promise<IssuedToken> => {
    const asked = ask(login)
    if (await lasts(asked, deps.waitMs)) {
      awayUntil = now() + awayMs
      const issued = await answer(login)
      if (issued !== undefined) {
        asked.catch(() => undefined)
        return issued
      }
    }
    try {
      return await asked
    } catch (error) {
      const issued = isAway(error) ? await answer(login) : undefined
      if (issued === undefined) throw error
      return issued
    }
  }

  return {
    async logIn(login) {
      if (now() < awayUntil) return (await answer(login)) ?? ask(login)
      // One finds out whether it is back; the others are answered meanwhile.
      if (awayUntil > -Infinity) awayUntil = now() + awayMs
      return askOrAnswer(login)
    },
  }
}

/** undefined: nobody's. */
function credentialsOf({ authorization }: RelayedLogin): BasicCredentials | undefined {
  const credentials = authorization === undefined ? undefined : parseBasic(authorization)
  return credentials === undefined || isAnonymous(credentials) ? undefined : credentials
}

function isAway(error: unknown): boolean {
  return error instanceof OciError && error.code === 'UNAVAILABLE'
}

function isRefusal(error: unknown): boolean {
  return error instanceof OciError && (error.code === 'UNAUTHORIZED' || error.code === 'DENIED')
}

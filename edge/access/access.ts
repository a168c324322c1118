import { createLogInLimit } from '../../shared/auth/log-in-limit.ts'
import { createPasswords, type ScryptCost } from '../../shared/auth/passwords.ts'
import {
  createTokenVerifier,
  edgeAudience,
  tokenIssuer,
  type TokenVerifier,
} from '../../shared/auth/token.ts'
import type { CacheIndex } from '../cache/cache-index.ts'
import type { Statements } from '../cache/statements.ts'
import { createPrimaryKeys } from './keys.ts'
import { createOfflineRelay, openOwnTokenKey, type OfflineDeps } from './offline.ts'
import { createRevocations, type Revocations } from './revocations.ts'
import { createSeenLogIns } from './seen-log-ins.ts'
import { createTokenRelay, type TokenRelayDeps } from './token-relay.ts'

/** How this edge knows its clients. */
export interface Access {
  readonly verifier: TokenVerifier
  readonly relay: ReturnType<typeof createTokenRelay>
  readonly isRevoked: Revocations['isRevoked']
  /** What tokens of this edge are for. */
  readonly audience: string
  /** How many accounts could log in now without the primary. */
  knownAccounts(): number
  /** The primary's token keys are others now. */
  renewKeys(): void
  close(): Promise<void>
}

export interface AccessDeps
  extends TokenRelayDeps, Pick<OfflineDeps, 'graceMs' | 'waitMs' | 'onOffline'> {
  readonly edgeId: string
  readonly index: CacheIndex
  readonly statements: Statements
  /** What it costs to try a password while the primary is away: as much as people's need if left out. */
  readonly passwordCost: ScryptCost | undefined
}

/** Proved tokens that are remembered, at about 1 KiB each. */
const rememberedTokens = 10_000
/** Wrong log-ins of an account from an address while the primary is away. */
const failuresAMinute = 10

/** Log-ins by the primary, and by what is known of it while it is away; tokens of both. */
export async function openAccess(deps: AccessDeps): Promise<Access> {
  const { ask, index, statements, graceMs } = deps
  const now = Date.now
  const audience = edgeAudience(deps.edgeId)
  const { isRevoked } = createRevocations(statements)
  const primaryKeys = createPrimaryKeys({ ask, index, now })
  const own = await openOwnTokenKey(index)
  const verifier = createTokenVerifier({
    keys: (kid) => (kid === own.signing.kid ? own.public : primaryKeys.get(kid)),
    issuer: tokenIssuer,
    audience,
    isRevoked,
    cacheEntries: rememberedTokens,
  })
  const seen = createSeenLogIns({
    index,
    // They run beside the disk's work on the same threads.
    passwords: createPasswords({ cost: deps.passwordCost, concurrency: 1 }),
    graceMs,
    now,
  })
  const relay = createOfflineRelay({
    ...deps,
    relay: createTokenRelay(deps),
    verifier,
    seen,
    key: own.signing,
    audience,
    isRevoked,
    limit: createLogInLimit({ failures: failuresAMinute, windowMs: 60_000, now }),
    now,
  })
  return {
    verifier,
    relay,
    isRevoked,
    audience,
    knownAccounts: seen.count,
    renewKeys: primaryKeys.renew,
    close: () => seen.flush(),
  }
}

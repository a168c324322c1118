import { createHash } from 'node:crypto'
import {
  signToken,
  tokenIssuer,
  type SigningKey,
  type TokenVerifier,
} from '../../shared/auth/token.ts'
import { formatSubject, isExpired, type Account } from '../accounts/account.ts'
import type { FindAccount } from '../accounts/find-account.ts'

/** No service takes tokens of this audience: they open nothing but the token endpoint. */
export const refreshAudience = 'outport:refresh'

const lifetimeSeconds = 30 * 24 * 3600

export interface RefreshDeps {
  readonly signingKey: () => SigningKey | Promise<SigningKey>
  /** For tokens of `refreshAudience`. */
  readonly verifier: TokenVerifier
  readonly findAccount: FindAccount
  /** Epoch ms. */
  readonly now: () => number
}

export type Refresh = ReturnType<typeof createRefresh>

/**
 * Refresh tokens, which a client may keep instead of a password. Nothing is stored: a token names its
 * account and a fingerprint of the secret's hash, so that a changed secret, a deletion, a disabled or an
 * expired account ends it at once.
 */
export function createRefresh({ signingKey, verifier, findAccount, now }: RefreshDeps) {
  return {
    /** A refresh token for an account that has just proved itself. */
    async issue(account: Account): Promise<string> {
      const { token } = await signToken(
        {
          issuer: tokenIssuer,
          audience: refreshAudience,
          subject: formatSubject(account.caller),
          name: account.caller.name,
          access: [{ type: 'refresh', name: fingerprintOf(account), actions: ['*'] }],
        },
        { key: await signingKey(), lifetimeSeconds, now: new Date(now()) },
      )
      return token
    },

    /**
     * The account of a refresh token, if both still hold.
     * @returns also the name that the token bears; '' when it is none of ours or has expired
     */
    async redeem(token: string): Promise<{ readonly name: string; readonly account?: Account }> {
      const claims = await verifier.verify(token)
      if (claims === undefined) return { name: '' }
      const { name } = claims
      const account = await findAccount(name)
      if (account === undefined || isExpired(account.facts, now())) return { name }
      // The name may belong to another account by now: the id decides.
      if (formatSubject(account.caller) !== claims.subject) return { name }
      return claims.access[0]?.name === fingerprintOf(account) ? { name, account } : { name }
    },
  }
}

/** The stored hash is salted, and this is a hash of it: it tells nothing about the secret. */
function fingerprintOf({ secretHash }: Account): string {
  return createHash('sha256')
    .update(secretHash ?? '')
    .digest('hex')
    .slice(0, 32)
}

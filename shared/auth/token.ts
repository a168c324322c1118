import { hash, randomUUID, type KeyObject } from 'node:crypto'
import type { CryptoKey, JWK } from 'jose'
import * as errors from 'jose/errors'
import { SignJWT } from 'jose/jwt/sign'
import { jwtVerify } from 'jose/jwt/verify'
import { importJWK } from 'jose/key/import'
import { createLru } from '../memory/lru.ts'
import { parseJson } from './json.ts'
import type { Scope } from './scope.ts'

/** The only signature algorithm: what a token's header says is compared with it, never followed. */
const tokenAlgorithm = 'ES256'

/** Who signs: every primary of an installation, whatever URL it is reached by. Its keys tell it from others. */
export const tokenIssuer = 'outport'

/** Whom a token is for: the primaries. */
export const primaryAudience = 'outport'

/** Whom a token is for that was asked for through an edge: that edge alone. */
export function edgeAudience(edgeId: string): string {
  return `edge:${edgeId}`
}

/** Seconds by which two clocks may differ, as distribution allows. */
const leewaySeconds = 60
/** `nbf` lies this far back, so that a verifier whose clock is slow takes a token that was just signed. */
const notBeforeSlackSeconds = 3600
const maxTokenLength = 16 * 1024
const maxSubjectLength = 300

/** What a token says, once its signature, issuer, audience and times are proved. Times are epoch seconds. */
export interface TokenClaims {
  readonly issuer: string
  readonly audience: string
  /** Who: '' for anonymous callers, else a kind and an id, as the signer writes them. */
  readonly subject: string
  /** The subject's name, for people who read logs. */
  readonly name: string
  readonly issuedAt: number
  readonly expiresAt: number
  readonly id: string
  readonly access: readonly Scope[]
}

/** A private key and the id under which its public half stands in the JWKS. */
export interface SigningKey {
  readonly kid: string
  readonly privateKey: KeyObject
}

/** A JWKS: the public keys by which tokens are verified. [RFC 7517 §5] */
export interface PublicKeys {
  readonly keys: readonly JWK[]
}

export interface SignTokenOptions {
  readonly key: SigningKey
  readonly lifetimeSeconds: number
  readonly now: Date
}

/**
 * Signs a token of distribution's form. [distribution, docs/spec/auth/jwt]
 * @returns the compact JWT and the claims in it
 */
export async function signToken(
  claims: Omit<TokenClaims, 'issuedAt' | 'expiresAt' | 'id'>,
  { key, lifetimeSeconds, now }: SignTokenOptions,
): Promise<{ readonly token: string; readonly claims: TokenClaims }> {
  // To the millisecond, so that it can be told from a right that ended a moment before or after. [RFC 7519 §2, NumericDate]
  const issuedAt = now.getTime() / 1000
  const whole = Math.floor(issuedAt)
  const expiresAt = whole + lifetimeSeconds
  const id = randomUUID()
  const token = await new SignJWT({ access: claims.access, name: claims.name })
    .setProtectedHeader({ alg: tokenAlgorithm, typ: 'JWT', kid: key.kid })
    .setIssuer(claims.issuer)
    .setSubject(claims.subject)
    .setAudience(claims.audience)
    .setIssuedAt(issuedAt)
    .setNotBefore(whole - notBeforeSlackSeconds)
    .setExpirationTime(expiresAt)
    .setJti(id)
    .sign(key.privateKey)
  return { token, claims: { ...claims, issuedAt, expiresAt, id } }
}

export interface TokenVerifierOptions {
  /**
   * The issuer's keys as they are now. The wanted id is passed so that a verifier that fetches its keys
   * may fetch them again for one it does not know. Whatever it throws stays a fault. At once where it can be.
   */
  readonly keys: (kid: string) => PublicKeys | Promise<PublicKeys>
  readonly issuer: string
  /** The one audience that is taken: a token for another service, or another edge, is not ours. */
  readonly audience: string
  /** How many proved tokens are remembered, at roughly 1 KiB each. */
  readonly cacheEntries: number
  /** Whether what a token says has lost its worth since it was signed. */
  readonly isRevoked?: (claims: TokenClaims) => boolean
  /** Epoch ms. */
  readonly now?: () => number
}

export interface TokenVerifier {
  /** The claims of a token that was proved before and still holds, when that can be told at once. */
  known(token: string, connection?: object): TokenClaims | undefined
  /**
   * The claims of a token that is proved to be ours and in its time, else undefined.
   * Keys come from our JWKS by `kid` alone; `jwk`, `jku`, `x5c` and `x5u` in a token are never read.
   * @param connection what the token came over: one that comes again over it need not be hashed again
   */
  verify(token: string, connection?: object): Promise<TokenClaims | undefined>
}

interface Proved {
  readonly kid: string
  readonly jwk: JWK
  readonly claims: TokenClaims
}

/** Verifies tokens, remembering proved ones by SHA-256: a hash costs a seventieth of a verification. */
export function createTokenVerifier(options: TokenVerifierOptions): TokenVerifier {
  const now = options.now ?? Date.now
  const isRevoked = options.isRevoked ?? (() => false)
  const proved = createLru<string, Proved>({ max: options.cacheEntries })
  const imported = new WeakMap<JWK, CryptoKey | Uint8Array>()
  // Gone with its connection: no token is kept longer than the request's own header could be.
  const lastOver = new WeakMap<object, { readonly token: string; readonly fingerprint: string }>()

  async function publicKey(jwk: JWK): Promise<CryptoKey | Uint8Array> {
    const known = imported.get(jwk)
    if (known !== undefined) return known
    const key = await importJWK(jwk, tokenAlgorithm)
    imported.set(jwk, key)
    return key
  }

  async function prove(token: string): Promise<Proved | undefined> {
    const kid = kidOf(token)
    const jwk = kid === undefined ? undefined : findKey(await options.keys(kid), kid)
    if (kid === undefined || jwk === undefined) return undefined
    const key = await publicKey(jwk)
    try {
      const { payload } = await jwtVerify(token, key, {
        algorithms: [tokenAlgorithm],
        typ: 'JWT',
        issuer: options.issuer,
        audience: options.audience,
        clockTolerance: leewaySeconds,
        currentDate: new Date(now()),
        requiredClaims: ['sub', 'exp', 'nbf', 'iat', 'jti', 'access'],
      })
      const claims = readClaims(payload)
      return claims === undefined ? undefined : { kid, jwk, claims }
    } catch (error) {
      if (error instanceof errors.JOSEError) return undefined
      throw error
    }
  }

  function fingerprintOf(token: string, connection: object | undefined): string {
    const last = connection && lastOver.get(connection)
    if (last?.token === token) return last.fingerprint
    const fingerprint = hash('sha256', token, 'base64')
    if (connection !== undefined) lastOver.set(connection, { token, fingerprint })
    return fingerprint
  }

  /** Whether what was proved still holds: a key that was withdrawn takes its tokens along, remembered or not. */
  function holds({ claims, kid, jwk }: Proved, keys: PublicKeys): boolean {
    const current = findKey(keys, kid)
    const isLive = now() < (claims.expiresAt + leewaySeconds) * 1000
    return isLive && current?.x === jwk.x && current?.y === jwk.y && !isRevoked(claims)
  }

  function known(token: string, connection?: object): TokenClaims | undefined {
    if (token.length > maxTokenLength) return undefined
    const before = proved.get(fingerprintOf(token, connection))
    if (before === undefined) return undefined
    const keys = options.keys(before.kid)
    if (!(keys instanceof Promise)) return holds(before, keys) ? before.claims : undefined
    // Who then verifies it asks again, and hears of a failure.
    keys.catch(() => undefined)
    return undefined
  }

  async function verify(token: string, connection?: object): Promise<TokenClaims | undefined> {
    if (token.length > maxTokenLength) return undefined
    const fingerprint = fingerprintOf(token, connection)
    const before = proved.get(fingerprint)
    if (before !== undefined) {
      if (holds(before, await options.keys(before.kid))) return before.claims
      proved.delete(fingerprint)
    }
    const fresh = await prove(token)
    if (fresh === undefined || isRevoked(fresh.claims)) return undefined
    proved.set(fingerprint, fresh)
    return fresh.claims
  }

  return { known, verify }
}

/** Reads the unproved header's `kid` only to choose among our own keys. */
function kidOf(token: string): string | undefined {
  const header = parseJson(Buffer.from(token.split('.', 1)[0] ?? '', 'base64url').toString('utf8'))
  if (typeof header !== 'object' || header === null || !('kid' in header)) return undefined
  return typeof header.kid === 'string' && header.kid.length <= 128 ? header.kid : undefined
}

function findKey(set: PublicKeys, kid: string): JWK | undefined {
  return set.keys.find((key) => key.kid === kid && key.kty === 'EC' && key.crv === 'P-256')
}

function readClaims(payload: Record<string, unknown>): TokenClaims | undefined {
  const { iss, aud, sub, name, iat, exp, jti, access } = payload
  if (typeof iss !== 'string' || typeof sub !== 'string' || sub.length > maxSubjectLength) {
    return undefined
  }
  // A list of audiences would let one token pass at two services.
  if (typeof aud !== 'string' || typeof jti !== 'string') return undefined
  if (typeof iat !== 'number' || typeof exp !== 'number') return undefined
  if (!Array.isArray(access) || !access.every(isScope)) return undefined
  return {
    issuer: iss,
    audience: aud,
    subject: sub,
    name: typeof name === 'string' ? name : '',
    issuedAt: iat,
    expiresAt: exp,
    id: jti,
    access,
  }
}

function isScope(value: unknown): value is Scope {
  if (typeof value !== 'object' || value === null) return false
  if (!('type' in value) || !('name' in value) || !('actions' in value)) return false
  return (
    typeof value.type === 'string' &&
    typeof value.name === 'string' &&
    Array.isArray(value.actions) &&
    value.actions.every((action) => typeof action === 'string') &&
    (!('project' in value) || typeof value.project === 'number')
  )
}

import { createHash, createPublicKey, type JsonWebKey, type KeyObject } from 'node:crypto'
import { openStatement, StatementError, statementTypes } from './statement.ts'

/** A public key as it is announced. */
export interface TrustedKey {
  readonly id: string
  /** EC P-256. */
  readonly jwk: JsonWebKey
}

/**
 * What the root says: by which keys the log is signed, in which epoch it is, and which key is the root from now on.
 * It alone announces a key or an epoch (DESIGN §4).
 */
export interface TrustList {
  /** Grows by one with each list; an older one is never taken again. */
  readonly version: number
  /** The installation: its store's id. */
  readonly issuer: string
  readonly epoch: number
  readonly root: TrustedKey
  /** Those that may sign the log; the ones that may no longer are not in it. */
  readonly log: readonly TrustedKey[]
  /** The CAs of the edges' own certificates: PEM. None until an edge is to join. */
  readonly ca: readonly string[]
}

/**
 * sha256 of a key, by which a person or a join token names it. [RFC 7638]
 * @returns 64 hex digits
 */
export function fingerprintOf({ crv, kty, x, y }: JsonWebKey): string {
  return createHash('sha256').update(JSON.stringify({ crv, kty, x, y })).digest('hex')
}

/**
 * Reads a list that the known root signed.
 * @param after the version that is known already; undefined: none is
 * @throws StatementError when another key signed it, it says nothing new, or it is of another installation
 */
export function openTrustList(
  envelope: unknown,
  {
    root,
    after,
    issuer,
  }: {
    readonly root: TrustedKey
    readonly after?: number | undefined
    readonly issuer?: string | undefined
  },
): TrustList {
  const key = publicKeyOf(root)
  const list = openStatement(statementTypes.trust, envelope, (kid) =>
    kid === root.id ? key : undefined,
  )
  checkTrustList(list)
  if (issuer !== undefined && list.issuer !== issuer)
    throw new StatementError('the list of trusted keys is of another installation')
  if (after !== undefined && list.version < after)
    throw new StatementError(
      `the list of trusted keys is version ${list.version}, and ${after} is known: it goes back`,
    )
  return list
}

/** The public key of an announced one. @throws StatementError when it is none of EC P-256 */
export function publicKeyOf({ id, jwk }: TrustedKey): KeyObject {
  if (jwk.kty !== 'EC' || jwk.crv !== 'P-256') throw new StatementError(`key ${id} is not P-256`)
  const { kty, crv, x = '', y = '' } = jwk
  try {
    return createPublicKey({ key: { kty, crv, x, y }, format: 'jwk' })
  } catch (cause) {
    throw new StatementError(`key ${id} is broken`, { cause })
  }
}

/** @throws StatementError when it is no list; who signed it is not looked at */
export function checkTrustList(value: unknown): asserts value is TrustList {
  if (!isTrustList(value)) throw new StatementError('the list of trusted keys is malformed')
}

function isTrustList(value: unknown): value is TrustList {
  if (typeof value !== 'object' || value === null) return false
  const { version, issuer, epoch, root, log, ca } = value as Partial<
    Record<keyof TrustList, unknown>
  >
  return (
    isCount(version) &&
    typeof issuer === 'string' &&
    isCount(epoch) &&
    isTrustedKey(root) &&
    Array.isArray(log) &&
    log.every(isTrustedKey) &&
    Array.isArray(ca) &&
    ca.every((pem: unknown) => typeof pem === 'string')
  )
}

function isTrustedKey(value: unknown): value is TrustedKey {
  if (typeof value !== 'object' || value === null) return false
  const { id, jwk } = value as Partial<Record<keyof TrustedKey, unknown>>
  return typeof id === 'string' && typeof jwk === 'object' && jwk !== null
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && Number(value) > 0
}

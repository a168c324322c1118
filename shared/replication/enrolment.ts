import { createHash, createPublicKey, sign, verify, type KeyObject } from 'node:crypto'
import type { Envelope } from '../trust/statement.ts'
import type { TrustedKey } from '../trust/trust-list.ts'

/** The one path of enrolment, on the primary's client port: certificates are never asked for there (DESIGN §8). */
export const joinPath = '/api/v2.0/edges/join'

/** By which an edge gets its next certificate, with the key that it has. */
export const renewPath = '/api/v2.0/edges/renew'

/** What an administrator hands over: it lets one key become an edge, once, and names the root to believe. */
export interface JoinToken {
  /** 16 hex digits. */
  readonly id: string
  /** 43 characters of base64url: 32 random bytes. */
  readonly secret: string
  /** Of the root's key: `fingerprintOf`, 64 hex digits. */
  readonly fingerprint: string
}

const form = /^oj1\.([0-9a-f]{16})\.([A-Za-z0-9_-]{43})\.([0-9a-f]{64})$/

/** @throws RangeError that says what to do when it is no join token; it never repeats what was given */
export function parseJoinToken(text: string): JoinToken {
  const [, id, secret, fingerprint] = form.exec(text.trim()) ?? []
  if (id === undefined || secret === undefined || fingerprint === undefined)
    throw new RangeError("this is no join token: make one with 'outport edges token'")
  return { id, secret, fingerprint }
}

export function formatJoinToken({ id, secret, fingerprint }: JoinToken): string {
  return `oj1.${id}.${secret}.${fingerprint}`
}

/** What an edge that would join says. */
export interface JoinRequest {
  /** The token's id and secret: `id.secret`. */
  readonly token: string
  /** What people shall call it. */
  readonly name: string
  /** Its RSA public key: SPKI, PEM. */
  readonly publicKey: string
  /** By the private half, over `joinProofText`: SHA-256, PKCS#1 v1.5, base64. */
  readonly proof: string
}

/** What an edge says that needs a new certificate, or has none: it proves its secret and its key. */
export interface RenewRequest {
  readonly id: string
  readonly secret: string
  /** Its RSA public key: SPKI, PEM. The first one that an edge of the configuration shows is its own from then on. */
  readonly publicKey: string
  /** As for joining, the token's id being `renew` and the name the edge's id. */
  readonly proof: string
}

/** What a primary answers to a join, with 201; the same again to the same key. */
export interface JoinAnswer extends RenewAnswer {
  /** By which it logs in as `edge$<id>`, until it does so by its certificate. */
  readonly secret: string
}

export interface RenewAnswer {
  readonly edge: EnrolledEdge
  /** For its key: PEM. */
  readonly certificate: string
  /** Of the edges' own CA, which the trust list names too: PEM. */
  readonly ca: string
  readonly root: TrustedKey
  /** The list of trusted keys, as the root signed it: `openTrustList`. */
  readonly trust: Envelope
}

export interface EnrolledEdge {
  readonly id: string
  readonly name: string
  readonly site: string
  readonly region: string
  readonly labels: Readonly<Record<string, string>>
}

/** Signs a request to join by the key that is to be certified. */
export function proveKey({ tokenId, name, publicKey }: KeyToProve, privateKey: KeyObject): string {
  return sign('sha256', proofText({ tokenId, name, publicKey }), privateKey).toString('base64')
}

/** Whether who asks has the private half of the key that it shows. */
export function isKeyProved(key: KeyToProve, proof: string): boolean {
  try {
    const publicKey = createPublicKey(key.publicKey)
    if (publicKey.asymmetricKeyType !== 'rsa') return false
    const bits = publicKey.asymmetricKeyDetails?.modulusLength ?? 0
    if (bits < 2048 || bits > 4096) return false
    return verify('sha256', proofText(key), publicKey, Buffer.from(proof, 'base64'))
  } catch {
    // It is no key at all.
    return false
  }
}

interface KeyToProve {
  readonly tokenId: string
  readonly name: string
  /** SPKI, PEM. */
  readonly publicKey: string
}

function proofText({ tokenId, name, publicKey }: KeyToProve): Buffer {
  const keyHash = createHash('sha256').update(publicKey).digest('hex')
  return Buffer.from(`outport-join\n${tokenId}\n${keyHash}\n${name}`)
}

import { sign, verify, type KeyObject } from 'node:crypto'

/** A private key and the id under which its public half is known. */
export interface StatementKey {
  readonly kid: string
  readonly privateKey: KeyObject
}

/** A signed statement: bytes as they were signed, never in a canonical form. [DSSE v1, envelope.md] */
export interface Envelope {
  readonly payloadType: string
  /** Base64. */
  readonly payload: string
  readonly signatures: readonly { readonly keyid: string; readonly sig: string }[]
}

/** A statement that may not be believed; the message says why. */
export class StatementError extends Error {
  override readonly name = 'StatementError'
}

/** What the statements of this system are about: one can never stand for another. */
export const statementTypes = {
  /** Where the log ends: `LogHead`. */
  head: 'application/vnd.outport.log-head.v1+json',
  /** What the root says of the other keys: `TrustList`. */
  trust: 'application/vnd.outport.trust-list.v1+json',
  /** That an edge knows all up to a head: `Lease`. */
  lease: 'application/vnd.outport.lease.v1+json',
  /** Where a tag points: `SignedTag`. */
  tag: 'application/vnd.outport.tag.v1+json',
  /** A stream's whole state at a head: `SnapshotStatement`. */
  snapshot: 'application/vnd.outport.snapshot.v1+json',
} as const
export type StatementType = (typeof statementTypes)[keyof typeof statementTypes]

/** Signs a statement with an EC P-256 key (ES256). [DSSE v1, protocol.md] */
export function signStatement(type: StatementType, statement: object, key: StatementKey): Envelope {
  return signPayload(type, payloadOf(statement), key)
}

/** A statement as bytes, which are what is signed. */
export function payloadOf(statement: object): Buffer {
  return Buffer.from(JSON.stringify(statement))
}

/** The same for bytes that another one made: of a statement that is signed in more than one place. */
export function signPayload(
  type: StatementType,
  payload: Buffer,
  { kid, privateKey }: StatementKey,
): Envelope {
  const sig = sign('sha256', preAuthEncoding(type, payload), privateKey).toString('base64')
  return {
    payloadType: type,
    payload: payload.toString('base64'),
    signatures: [{ keyid: kid, sig }],
  }
}

/**
 * The statement in an envelope, once a trusted key is seen to have signed just these bytes as just this type.
 * @param envelope anything: it may come from a network
 * @param keyOf the trusted public key of this id, or undefined
 * @throws StatementError when it is no envelope, is about something else, or no trusted key signed it
 */
export function openStatement(
  type: StatementType,
  envelope: unknown,
  keyOf: (kid: string) => KeyObject | undefined,
): unknown {
  if (!isEnvelope(envelope)) throw new StatementError('this is no signed statement')
  if (envelope.payloadType !== type)
    throw new StatementError(`the statement is a ${envelope.payloadType}, not a ${type}`)
  const payload = Buffer.from(envelope.payload, 'base64')
  const signed = preAuthEncoding(type, payload)
  const isSigned = envelope.signatures.some(({ keyid, sig }) => {
    const key = keyOf(keyid)
    return key !== undefined && verify('sha256', signed, key, Buffer.from(sig, 'base64'))
  })
  if (!isSigned) throw new StatementError('no key that is trusted here signed the statement')
  try {
    return JSON.parse(payload.toString('utf8')) as unknown
  } catch (cause) {
    throw new StatementError('the statement is signed, but not JSON', { cause })
  }
}

/** PAE(type, payload). [DSSE v1, protocol.md#signature-definition] */
function preAuthEncoding(type: string, payload: Buffer): Buffer {
  const head = `DSSEv1 ${Buffer.byteLength(type)} ${type} ${payload.length} `
  return Buffer.concat([Buffer.from(head), payload])
}

const maxSignatures = 8

function isEnvelope(value: unknown): value is Envelope {
  if (typeof value !== 'object' || value === null) return false
  const { payloadType, payload, signatures } = value as Partial<Record<keyof Envelope, unknown>>
  return (
    typeof payloadType === 'string' &&
    typeof payload === 'string' &&
    Array.isArray(signatures) &&
    signatures.length <= maxSignatures &&
    signatures.every(
      (each: unknown) =>
        typeof each === 'object' &&
        each !== null &&
        'keyid' in each &&
        typeof each.keyid === 'string' &&
        'sig' in each &&
        typeof each.sig === 'string',
    )
  )
}

import { generateKeyPairSync, type JsonWebKey, type KeyObject } from 'node:crypto'
import { signPayload, statementTypes, type Envelope } from '../../shared/trust/statement.ts'
import { fingerprintOf, type TrustList } from '../../shared/trust/trust-list.ts'

/** What `GET /keys/pending` answers. */
export interface ShownPending {
  readonly payload_type?: string
  readonly payload?: string
  readonly signers: readonly { readonly id: string; readonly fingerprint: string }[]
  readonly changes: readonly string[]
}

/** A signed list, as the API takes it. */
export interface SignedList {
  readonly payload_type: string
  readonly payload: string
  readonly signatures: Envelope['signatures']
}

/** A root whose private half no primary has. */
export interface OfflineRoot {
  readonly jwk: JsonWebKey
  readonly fingerprint: string
  readonly privateKey: KeyObject
  /** What would betray it, wherever it stands. */
  readonly secrets: readonly string[]
  sign(pending: ShownPending, kid?: string): SignedList
}

/** Makes one. */
export function createOfflineRoot(): OfflineRoot {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const jwk = publicKey.export({ format: 'jwk' })
  const fingerprint = fingerprintOf(jwk)
  const { d = '' } = privateKey.export({ format: 'jwk' })
  return {
    jwk,
    fingerprint,
    privateKey,
    // Of bytes the database shows hex.
    secrets: [d, Buffer.from(d, 'base64url').toString('hex'), Buffer.from(d).toString('hex')],
    sign({ payload = '', signers }, kid = '') {
      const signer = signers.find((each) => each.fingerprint === fingerprint)
      const { signatures } = signPayload(statementTypes.trust, Buffer.from(payload, 'base64'), {
        kid: signer?.id ?? kid,
        privateKey,
      })
      return { payload_type: statementTypes.trust, payload, signatures }
    },
  }
}

/** What a list says that waits. */
export function listOf({ payload = '' }: Pick<ShownPending, 'payload'>): TrustList {
  return JSON.parse(Buffer.from(payload, 'base64').toString()) as TrustList
}

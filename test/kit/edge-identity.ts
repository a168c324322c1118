import { generateKeyPairSync } from 'node:crypto'
import type { OwnIdentity } from '../../edge/replication/identity.ts'
import { issueEdgeCertificate, type PemPair } from '../../shared/trust/pki.ts'

/** By what an edge that has joined proves who it is. */
export function createEdgeIdentity(
  ca: PemPair,
  { edgeId, now }: { readonly edgeId: string; readonly now: Date },
): OwnIdentity {
  const { privateKey: key, publicKey } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  })
  return { key, certificate: issueEdgeCertificate(ca, { edgeId, publicKey, now }), ca: [ca.cert] }
}

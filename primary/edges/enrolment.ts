import { createHash, createPublicKey, randomBytes } from 'node:crypto'
import { ApiError } from '../../shared/api/errors.ts'
import { hashGenerated } from '../../shared/auth/passwords.ts'
import {
  formatJoinToken,
  isKeyProved,
  type JoinAnswer,
  type JoinRequest,
} from '../../shared/replication/enrolment.ts'
import { issueEdgeCertificate } from '../../shared/trust/pki.ts'
import { fingerprintOf } from '../../shared/trust/trust-list.ts'
import type { LogInLimit } from '../accounts/log-in-limit.ts'
import type { CurrentKeys } from '../events/current-keys.ts'
import type { Deed } from '../store/audit.ts'
import type { EdgePlace } from '../store/edges.ts'
import type { JoinTokens } from '../store/join-tokens.ts'

export interface EnrolmentDeps {
  readonly tokens: JoinTokens
  readonly keys: Pick<CurrentKeys, 'edgeCa' | 'trust'>
  /** Of attempts to join by one address. */
  readonly limit: LogInLimit
  /** Epoch ms. */
  readonly now: () => number
}

/** What an administrator says of an edge that is to come. */
export interface JoinOrder extends EdgePlace {
  readonly name: string
  readonly scope: '*' | readonly number[]
  readonly acceptsPeople: boolean
  readonly lifetimeMs: number
}

export type Enrolment = ReturnType<typeof createEnrolment>

/** How a machine becomes an edge: by a token that an administrator made, and a key that stays on the machine. */
export function createEnrolment({ tokens, keys, limit, now }: EnrolmentDeps) {
  return {
    /** Makes a token; it is shown this once. */
    async createToken(
      { lifetimeMs, ...order }: JoinOrder,
      deed: Deed,
    ): Promise<{ readonly id: string; readonly token: string; readonly expiresAt: Date }> {
      // So that the list of trusted keys names it before anybody joins.
      await keys.edgeCa()
      const id = randomBytes(8).toString('hex')
      const secret = randomBytes(32).toString('base64url')
      const expiresAt = new Date(deed.now.getTime() + lifetimeMs)
      await tokens.create({ id, ...order, expiresAt }, hashOf(secret), deed)
      const fingerprint = fingerprintOf(keys.trust().root.jwk)
      return { id, token: formatJoinToken({ id, secret, fingerprint }), expiresAt }
    },

    /**
     * Makes an edge of a key. The same key with the same token gets the same edge.
     * @throws ApiError UNAUTHORIZED for a token that does not count, BAD_REQUEST for a key that is not proved,
     *   CONFLICT for a name that is taken, TOO_MANY_REQUEST
     */
    async join(request: JoinRequest, address: string): Promise<JoinAnswer> {
      const [tokenId = '', secret = ''] = request.token.split('.')
      const { name, publicKey: given, proof } = request
      if (!isKeyProved({ tokenId, name, publicKey: given }, proof)) {
        throw new ApiError(
          'BAD_REQUEST',
          'the key is not an RSA key of 2048 to 4096 bits, or its proof is not by it: run outport edge join again',
        )
      }
      const attempt = limit.take('join', { address })
      if (!attempt.allowed) {
        throw new ApiError('TOO_MANY_REQUEST', 'too many joins failed from this address: wait', {
          headers: { 'Retry-After': String(attempt.retryAfterSeconds) },
        })
      }
      let failed = false
      try {
        const time = new Date(now())
        const publicKey = createPublicKey(given).export({ type: 'spki', format: 'pem' }).toString()
        const credential = randomBytes(32).toString('base64url')
        const edge = await tokens.use(
          {
            tokenId,
            secretHash: hashOf(secret),
            name,
            publicKey,
            newId: `edge-${randomBytes(5).toString('hex')}`,
            credentialHash: hashGenerated(credential),
          },
          { actor: { username: '', address }, now: time },
        )
        failed = edge === undefined
        if (edge === undefined) {
          throw new ApiError(
            'UNAUTHORIZED',
            "the join token is unknown, has expired, or another machine used it: make a new one with 'outport edges token'",
          )
        }
        const ca = await keys.edgeCa()
        const { root, envelope: trust } = keys.trust()
        const certificate = issueEdgeCertificate(ca, { edgeId: edge.id, publicKey, now: time })
        return { edge, secret: credential, certificate, ca: ca.cert, root, trust }
      } finally {
        attempt.settle({ failed })
      }
    },
  }
}

function hashOf(secret: string): Buffer {
  return createHash('sha256').update(secret).digest()
}

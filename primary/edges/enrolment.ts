import { createHash, createPublicKey, randomBytes } from 'node:crypto'
import { ApiError } from '../../shared/api/errors.ts'
import { hashGenerated, type Passwords } from '../../shared/auth/passwords.ts'
import {
  formatJoinToken,
  isKeyProved,
  type EnrolledEdge,
  type JoinAnswer,
  type JoinRequest,
  type RenewAnswer,
  type RenewRequest,
} from '../../shared/replication/enrolment.ts'
import { issueEdgeCertificate } from '../../shared/trust/pki.ts'
import { fingerprintOf } from '../../shared/trust/trust-list.ts'
import type { LogInLimit } from '../../shared/auth/log-in-limit.ts'
import type { CurrentKeys } from '../events/current-keys.ts'
import type { Deed } from '../store/audit.ts'
import type { EdgePlace, Edges } from '../store/edges.ts'
import type { JoinTokens } from '../store/join-tokens.ts'

export interface EnrolmentDeps {
  readonly tokens: JoinTokens
  readonly edges: Pick<Edges, 'getSecretHash' | 'bindKey'>
  readonly passwords: Pick<Passwords, 'verify'>
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
export function createEnrolment({ tokens, edges, passwords, keys, limit, now }: EnrolmentDeps) {
  const certify = async (edge: EnrolledEdge, publicKey: string): Promise<RenewAnswer> => {
    const ca = await keys.edgeCa()
    const { root, envelope: trust } = keys.trust()
    const time = new Date(now())
    const certificate = issueEdgeCertificate(ca, { edgeId: edge.id, publicKey, now: time })
    return { edge, certificate, ca: ca.cert, root, trust }
  }
  /** @throws ApiError TOO_MANY_REQUEST, or what `attempt` throws, which counts as failed */
  const limited = async <Answer>(
    account: string,
    address: string,
    attempt: () => Promise<Answer>,
  ) => {
    const turn = limit.take(account, { address })
    if (!turn.allowed) {
      throw new ApiError('TOO_MANY_REQUEST', 'too many joins failed from this address: wait', {
        headers: { 'Retry-After': String(turn.retryAfterSeconds) },
      })
    }
    let failed = false
    try {
      return await attempt()
    } catch (error) {
      failed = error instanceof ApiError && error.code === 'UNAUTHORIZED'
      throw error
    } finally {
      turn.settle({ failed })
    }
  }

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
      if (!isKeyProved({ tokenId, name, publicKey: given }, proof)) throw notProved('join')
      return limited('join', address, async () => {
        const publicKey = spelled(given)
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
          { actor: { username: '', address }, now: new Date(now()) },
        )
        if (edge === undefined) {
          throw new ApiError(
            'UNAUTHORIZED',
            "the join token is unknown, has expired, or another machine used it: make a new one with 'outport edges token'",
          )
        }
        return { ...(await certify(edge, publicKey)), secret: credential }
      })
    },

    /**
     * Certifies the key of an edge that proves its secret, again or for the first time.
     * @throws ApiError UNAUTHORIZED for another secret, BAD_REQUEST for a key that is not proved, CONFLICT for another
     *   key than the edge has
     */
    async renew(request: RenewRequest, address: string): Promise<RenewAnswer> {
      const { id, secret, publicKey: given, proof } = request
      if (!isKeyProved({ tokenId: 'renew', name: id, publicKey: given }, proof))
        throw notProved('start')
      return limited(`renew ${id}`, address, async () => {
        const hash = await edges.getSecretHash(id)
        if (!(await passwords.verify(secret, hash)))
          throw new ApiError(
            'UNAUTHORIZED',
            'no edge of this id has this secret: it was revoked, or joined anew',
          )
        const publicKey = spelled(given)
        const edge = await edges.bindKey(id, publicKey, {
          actor: { username: '', address },
          now: new Date(now()),
        })
        if (edge === undefined)
          throw new ApiError(
            'CONFLICT',
            'this edge has another key: a copy of it runs elsewhere, or its folder was lost; revoke it and join anew, or give an edge of the configuration a new secret',
          )
        return certify(edge, publicKey)
      })
    },
  }
}

function notProved(command: string): ApiError {
  return new ApiError(
    'BAD_REQUEST',
    `the key is not an RSA key of 2048 to 4096 bits, or its proof is not by it: ${command} the edge again`,
  )
}

/** In node:crypto's spelling, by which keys are compared. */
function spelled(publicKey: string): string {
  return createPublicKey(publicKey).export({ type: 'spki', format: 'pem' }).toString()
}

function hashOf(secret: string): Buffer {
  return createHash('sha256').update(secret).digest()
}

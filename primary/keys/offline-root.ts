import type { JsonWebKey } from 'node:crypto'
import { ApiError } from '../../shared/api/errors.ts'
import {
  payloadOf,
  StatementError,
  statementTypes,
  type Envelope,
} from '../../shared/trust/statement.ts'
import { fingerprintOf, publicKeyOf } from '../../shared/trust/trust-list.ts'
import type { CurrentKeys } from '../events/current-keys.ts'
import type { HighWater } from '../events/high-water.ts'
import type { Deed } from '../store/audit.ts'
import type { KeyInfo, KeyRotation } from '../store/key-rotation.ts'
import type { PendingLists } from '../store/pending-lists.ts'
import { describeChanges } from './list-changes.ts'

export interface OfflineRootDeps {
  readonly store: Pick<KeyRotation, 'addOfflineRoot'>
  readonly lists: PendingLists
  readonly keys: Pick<CurrentKeys, 'refresh' | 'edgeCa'>
  readonly highWater: Pick<HighWater, 'nextEpoch'>
}

/** What whoever keeps the root is asked to sign. */
export interface ListToSign {
  readonly payloadType: string
  /** The bytes. */
  readonly payload: Buffer
  /** The roots that must sign and are not here. */
  readonly signers: readonly { readonly id: string; readonly fingerprint: string }[]
  /** For people: what is other than in the list before. */
  readonly changes: readonly string[]
}

/** A root whose private half lies somewhere else: what is asked of it, and what it answers. */
export interface OfflineRoot {
  /** @param jwk its public half. @throws ApiError BAD_REQUEST for another kind of key, CONFLICT */
  add(jwk: JsonWebKey, deed: Deed): Promise<KeyInfo>
  /** @returns undefined where nothing is to be signed */
  pending(options: { readonly nextEpoch: boolean }): Promise<ListToSign | undefined>
  /** Brings the list that waits into force. @throws ApiError BAD_REQUEST for a wrong signature, CONFLICT for an old list */
  take(list: Envelope, deed: Deed): Promise<void>
}

export function createOfflineRoot({ store, lists, keys, highWater }: OfflineRootDeps): OfflineRoot {
  return {
    async add(jwk, deed) {
      const publicKey = spelled(jwk)
      // The first edge finds its CA named already, and need not wait for a signature.
      await keys.edgeCa()
      const key = await store.addOfflineRoot(publicKey, deed)
      await keys.refresh()
      return key
    },
    async pending({ nextEpoch }) {
      const pending = nextEpoch
        ? await lists.getForEpoch(await highWater.nextEpoch())
        : await lists.get()
      if (pending === undefined) return undefined
      const { list, inForce, signers } = pending
      return {
        payloadType: statementTypes.trust,
        payload: payloadOf(list),
        signers: signers
          .filter(({ signing }) => signing === undefined)
          .map(({ trusted: { id, jwk } }) => ({ id, fingerprint: fingerprintOf(jwk) })),
        changes: describeChanges(inForce, list),
      }
    },
    async take(list, deed) {
      await lists.take(list, deed)
      await keys.refresh()
    },
  }
}

/** In node:crypto's spelling, by which fingerprints are made. */
function spelled(jwk: JsonWebKey): JsonWebKey {
  try {
    return publicKeyOf({ id: 'of the root', jwk }).export({ format: 'jwk' })
  } catch (cause) {
    if (!(cause instanceof StatementError)) throw cause
    throw new ApiError('BAD_REQUEST', 'the root is no public key on the curve P-256', { cause })
  }
}

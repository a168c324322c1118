import type { KeyObject } from 'node:crypto'
import { ApiError } from '../../shared/api/errors.ts'
import { isRecord } from '../../shared/config/record.ts'
import { isAfter, type LogHead, type LogPlace } from '../../shared/replication/chain.ts'
import type { RosterEdge } from '../../shared/replication/events.ts'
import type { LeaseRequest } from '../../shared/replication/lease.ts'
import { openStatement, StatementError, statementTypes } from '../../shared/trust/statement.ts'
import { publicKeyOf } from '../../shared/trust/trust-list.ts'
import type { Trust } from '../store/trust.ts'
import type { HighWater } from './high-water.ts'

export interface PlaceCheckDeps {
  readonly highWater: Pick<HighWater, 'behind' | 'shown'>
  readonly trust: () => Trust
  /** Whether an edge is fed here now: where it is was compared when that began. */
  readonly isFed: (edgeId: string) => boolean
  /** Where the log is, as far as it was read here. */
  readonly place: () => LogPlace
}

/**
 * Looks at where an edge is: what it shows, signed by a key of the log, was in the log once. A number that nobody
 * signed stops nothing.
 * @throws ApiError UNAVAILABLE while the log is behind itself: nothing can be said of it
 */
export type PlaceCheck = (
  edge: RosterEdge,
  request: Pick<LeaseRequest, 'applied' | 'proof'>,
) => Promise<void>

export function createPlaceCheck({ highWater, trust, isFed, place }: PlaceCheckDeps): PlaceCheck {
  const keyOf = (kid: string): KeyObject | undefined => {
    const key = trust().list.log.find(({ id }) => id === kid)
    return key && publicKeyOf(key)
  }
  return async ({ edgeId }, { applied, proof }) => {
    if (highWater.behind() === undefined && proof !== undefined)
      if (!isFed(edgeId) || isAfter(applied, place())) {
        const head = openHead(proof, keyOf)
        if (head !== undefined) await highWater.shown(head, `edge ${edgeId}`)
      }
    if (highWater.behind() !== undefined)
      throw new ApiError(
        'UNAVAILABLE',
        'the log is behind itself: it goes on when an administrator says so',
        { headers: { 'Retry-After': '30' } },
      )
  }
}

/** Undefined for what no key of the log signed. */
function openHead(
  proof: unknown,
  keyOf: (kid: string) => KeyObject | undefined,
): LogHead | undefined {
  try {
    const head = openStatement(statementTypes.head, proof, keyOf)
    if (!isRecord(head)) return undefined
    const { epoch, seq, hash } = head
    if (typeof epoch !== 'number' || typeof seq !== 'number' || typeof hash !== 'string')
      return undefined
    return { epoch, seq, hash: Buffer.from(hash, 'hex') }
  } catch (error) {
    if (error instanceof StatementError) return undefined
    throw error
  }
}

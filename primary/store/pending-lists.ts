import type { Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import {
  payloadOf,
  signPayload,
  StatementError,
  statementTypes,
  type Envelope,
} from '../../shared/trust/statement.ts'
import { openTrustList } from '../../shared/trust/trust-list.ts'
import { appendAudit, type Deed } from './audit.ts'
import type { Records } from './database.ts'
import { lockKeys } from './keys.ts'
import { appendEvents } from './outbox.ts'
import type { RootKey } from './roots.ts'
import type { Schema } from './schema.ts'
import {
  draftList,
  insertList,
  isNamed,
  lockTrust,
  pendingOf,
  readTrust,
  type KnownTrust,
  type PendingList,
  type TrustOptions,
} from './trust.ts'

export type PendingLists = ReturnType<typeof createPendingLists>

/** Lists that wait for a root which is kept offline, and come into force by its signature. */
export function createPendingLists(records: Records, options: TrustOptions) {
  const read = () => records.transaction().execute((trx) => readLocked(trx, options))
  return {
    /** What is to be signed now; undefined: nothing waits. */
    async get(): Promise<PendingList | undefined> {
      const known = await read()
      return known && pendingOf(known)
    },

    /** What has the log go on in this epoch; undefined where the root is here and signs it itself. */
    async getForEpoch(epoch: number): Promise<PendingList | undefined> {
      const known = await read()
      const pending = known && pendingForEpoch({ ...known, epoch })
      return pending?.signers.every(isHere) === false ? pending : undefined
    },

    /**
     * Brings the list that waits into force. A root that it names takes the place of the one before, which is gone then.
     * @throws ApiError BAD_REQUEST where one has not signed it that must, CONFLICT where it does not say what is wanted now
     */
    take(given: Envelope, deed: Deed): Promise<void> {
      return records.transaction().execute(async (trx) => {
        await lockKeys(trx)
        const known = await readLocked(trx, options)
        const pending = known && pendingOf(known)
        if (known === undefined || pending === undefined) {
          if (known !== undefined) checkSigned(given, [known.roots.active])
          throw new ApiError('CONFLICT', 'no list of keys waits to be signed')
        }
        await bringIntoForce(trx, { known, pending, given }, deed)
      })
    },
  }
}

/**
 * Has the root announce the epoch that the log was just put into, in the transaction that did so.
 * @param given the list that an offline root signed
 * @throws ApiError PRECONDITION where the root is offline and there is none; else as `take` does
 */
export async function announceEpoch(
  trx: Transaction<Schema>,
  { given, ...options }: TrustOptions & { readonly given: Envelope | undefined },
  deed: Deed,
): Promise<void> {
  await lockKeys(trx)
  const known = await readLocked(trx, options)
  if (known === undefined) throw new Error('a key is missing that was made before')
  const pending = pendingForEpoch(known)
  if (given === undefined && !pending.signers.every(isHere))
    throw new ApiError(
      'PRECONDITION',
      "the root is kept offline, and it alone announces an epoch: 'outport keys accept-epoch --root FILE' has it sign",
    )
  await bringIntoForce(trx, { known, pending, given }, deed)
}

async function readLocked(
  trx: Transaction<Schema>,
  options: TrustOptions,
): Promise<KnownTrust | undefined> {
  await lockTrust(trx)
  return readTrust(trx, options)
}

/** By the root of now, also where another one is to take its place: one thing after the other. */
function pendingForEpoch(known: KnownTrust): PendingList {
  const { active } = known.roots
  return {
    list: draftList(known, active.trusted),
    inForce: known.inForce,
    signers: [active],
  }
}

const isHere = ({ signing }: RootKey): boolean => signing !== undefined

async function bringIntoForce(
  trx: Transaction<Schema>,
  {
    known: { roots },
    pending: { list, inForce, signers },
    given,
  }: {
    readonly known: KnownTrust
    readonly pending: PendingList
    readonly given: Envelope | undefined
  },
  { actor, now }: Deed,
): Promise<void> {
  const payload = payloadOf(list)
  if (given !== undefined) {
    checkSigned(given, signers)
    if (!Buffer.from(given.payload, 'base64').equals(payload))
      throw new ApiError('CONFLICT', 'the keys changed meanwhile: fetch the pending list again')
  }
  // Each one's alone: what else came with it proves nothing, and two signatures say that a root names the next one.
  const signatures = signers.flatMap(({ trusted, signing }) =>
    signing === undefined
      ? (given?.signatures.filter((each) => isBy(given, each, trusted)).slice(0, 1) ?? [])
      : signPayload(statementTypes.trust, payload, signing).signatures,
  )
  const envelope: Envelope = {
    payloadType: statementTypes.trust,
    payload: payload.toString('base64'),
    signatures,
  }
  const { version, root } = list
  await insertList(trx, { version, envelope, now })
  const before = roots.active.trusted.id
  if (root.id !== before) await makeRoot(trx, { id: root.id, before, now })
  await countFromNow(trx, { list, inForce, now })
  // Every primary reads its keys again by this.
  await tellRoot(trx, { id: root.id, state: 'active', now })
  const description = `list ${version} is signed`
  const entry = { operation: 'update', resourceType: 'key', resource: root.id } as const
  await appendAudit(trx, { ...entry, actor, description }, now)
}

/** @throws ApiError BAD_REQUEST unless all have signed that are not here */
function checkSigned(given: Envelope, signers: readonly RootKey[]): void {
  for (const { trusted, signing } of signers) {
    if (signing !== undefined) continue
    if (given.signatures.some((each) => isBy(given, each, trusted))) continue
    throw new ApiError(
      'BAD_REQUEST',
      `the root ${trusted.id} did not sign this list: sign it with the file that holds this root`,
    )
  }
}

function isBy(
  given: Envelope,
  signature: Envelope['signatures'][number],
  root: RootKey['trusted'],
): boolean {
  try {
    openTrustList({ ...given, signatures: [signature] }, { root })
    return true
  } catch (error) {
    if (error instanceof StatementError) return false
    throw error
  }
}

async function makeRoot(
  trx: Transaction<Schema>,
  { id, before, now }: { readonly id: string; readonly before: string; readonly now: Date },
): Promise<void> {
  await trx.deleteFrom('keys').where('id', '=', before).execute()
  await trx
    .updateTable('keys')
    .set({ state: 'active', changed_at: now })
    .where('id', '=', id)
    .execute()
  await tellRoot(trx, { id: before, state: 'gone', now })
}

/** What nobody was told of until now has its time ahead from now on. */
async function countFromNow(
  trx: Transaction<Schema>,
  { list, inForce, now }: Omit<PendingList, 'signers'> & { readonly now: Date },
): Promise<void> {
  const rows = await trx
    .selectFrom('keys')
    .select(['id', 'purpose', 'public_jwk'])
    .where('state', '=', 'next')
    .where('purpose', 'in', ['log', 'ca'])
    .execute()
  const ids = rows
    .filter((row) => isNamed(list, row) && (inForce === undefined || !isNamed(inForce, row)))
    .map(({ id }) => id)
  if (ids.length > 0)
    await trx.updateTable('keys').set({ changed_at: now }).where('id', 'in', ids).execute()
}

async function tellRoot(
  trx: Transaction<Schema>,
  { id, state, now }: { readonly id: string; readonly state: string; readonly now: Date },
): Promise<void> {
  await appendEvents(trx, [{ type: 'key', keyId: id, purpose: 'root', state }], now)
}

import { X509Certificate, type JsonWebKey } from 'node:crypto'
import type { Selectable, Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import { createCa } from '../../shared/trust/pki.ts'
import type { Secrets } from '../../shared/trust/secrets.ts'
import { fingerprintOf } from '../../shared/trust/trust-list.ts'
import { appendAudit, type Deed } from './audit.ts'
import type { Records } from './database.ts'
import { certificateOf, insertCa, insertKey, insertOfflineRoot, lockKeys } from './keys.ts'
import { appendEvents } from './outbox.ts'
import { readRoots } from './roots.ts'
import type { KeysTable, Schema } from './schema.ts'
import { signAnew } from './signed-batches.ts'
import { isNamed, readTrust, replaceRoot, type TrustOptions } from './trust.ts'

export type KeyPurpose = KeysTable['purpose']

/** A key as people see it: nothing of its private half. */
export interface KeyInfo {
  readonly id: string
  readonly purpose: KeyPurpose
  readonly state: KeysTable['state']
  /** Whether its private half is kept elsewhere. */
  readonly isOffline: boolean
  /** sha256, hex: of the key as join tokens name it, or of a CA's certificate. */
  readonly fingerprint: string
  readonly createdAt: Date
  /** When it came to be what it is. */
  readonly changedAt: Date
}

export type KeyRotation = ReturnType<typeof createKeyRotation>

/** Keys that take each other's place: told of, then signing, then only believed, then gone. */
export function createKeyRotation(records: Records, { issuer, secrets }: TrustOptions) {
  return {
    async list(): Promise<readonly KeyInfo[]> {
      const rows = await records
        .selectFrom('keys')
        .selectAll()
        .orderBy('purpose')
        .orderBy('created_at', 'desc')
        .execute()
      return rows.map(infoOf)
    },

    /**
     * Makes the next key of a purpose, which is told of from now on and signs from `promote` on.
     * @param options.atOnce it signs from now on, though not everybody knows it yet
     * @throws ApiError CONFLICT where the one before does not sign yet, PRECONDITION where there is no CA, or where it
     *   is to sign at once and the root that must name it is kept offline
     */
    async begin(
      purpose: Exclude<KeyPurpose, 'root'>,
      { atOnce }: { readonly atOnce: boolean },
      { actor, now }: Deed,
    ): Promise<KeyInfo> {
      const insertNext = await nextOf(purpose, { secrets, now })
      return records.transaction().execute(async (trx) => {
        await lockKeys(trx)
        if (atOnce && purpose !== 'jwt' && (await isRootOffline(trx, secrets)))
          throw new ApiError(
            'PRECONDITION',
            "the root is kept offline, and nobody believes a key that it has not named: rotate without 'at once', and sign with 'outport keys sign'",
          )
        const known = await rowsOf(trx, purpose)
        if (known.length === 0)
          throw new ApiError('PRECONDITION', 'there is no edge CA yet: the first edge has it made')
        if (known.some(({ state }) => state === 'next'))
          throw new ApiError(
            'CONFLICT',
            'the key before was made just now and does not sign yet: wait until it does',
          )
        const id = await insertNext(trx)
        if (atOnce) await promoteNext(trx, { purpose, now })
        await audit(trx, { operation: 'create', id, purpose }, { actor, now })
        return find(trx, id)
      })
    },

    /**
     * Makes another key the root, which signs from now on: both sign the list that says so. Where the one before is kept
     * offline, it waits for that one's signature.
     * @throws ApiError CONFLICT where another one waits already
     */
    replaceRoot({ actor, now }: Deed): Promise<KeyInfo> {
      return records.transaction().execute(async (trx) => {
        const id = await replaceRoot(trx, { issuer, secrets }, now)
        await audit(trx, { operation: 'create', id, purpose: 'root' }, { actor, now })
        return find(trx, id)
      })
    },

    /**
     * Writes down a root whose private half is kept elsewhere. It becomes the root once it and the one before have signed
     * the list that says so. The same one may come again.
     * @throws ApiError CONFLICT where it is the root already, or another one waits
     */
    addOfflineRoot(jwk: JsonWebKey, { actor, now }: Deed): Promise<KeyInfo> {
      return records.transaction().execute(async (trx) => {
        await lockKeys(trx)
        const { active, next } = (await readRoots(trx, secrets)) ?? {}
        const fingerprint = fingerprintOf(jwk)
        if (active !== undefined && fingerprintOf(active.trusted.jwk) === fingerprint)
          throw new ApiError('CONFLICT', 'this key is the root already')
        if (next !== undefined && fingerprintOf(next.trusted.jwk) === fingerprint)
          return find(trx, next.trusted.id)
        if (next !== undefined)
          throw new ApiError(
            'CONFLICT',
            `another root waits to be signed: sign it, or drop ${next.trusted.id}`,
          )
        const id = await insertOfflineRoot(trx, { jwk, state: 'next', now })
        await audit(trx, { operation: 'create', id, purpose: 'root' }, { actor, now })
        return find(trx, id)
      })
    },

    /**
     * Has keys sign that were told of since before this: of those that edges must know, the ones that the root has
     * named. @returns whether any does
     */
    promote(toldBefore: Date, now: Date): Promise<boolean> {
      return records.transaction().execute(async (trx) => {
        await lockKeys(trx)
        const rows = await trx
          .selectFrom('keys')
          .select(['id', 'purpose', 'public_jwk'])
          .where('state', '=', 'next')
          .where('purpose', '!=', 'root')
          .where('changed_at', '<=', toldBefore)
          .execute()
        if (rows.length === 0) return false
        const list = (await readTrust(trx, { issuer, secrets }))?.inForce
        const due = rows.filter(
          (row) => row.purpose === 'jwt' || (list !== undefined && isNamed(list, row)),
        )
        for (const { purpose } of due) await promoteNext(trx, { purpose, now })
        return due.length > 0
      })
    },

    /** Forgets keys of a purpose that do not sign since before this. @returns whether any is gone */
    forget(purpose: KeyPurpose, retiredBefore: Date, now: Date): Promise<boolean> {
      return records.transaction().execute(async (trx) => {
        const gone = await trx
          .deleteFrom('keys')
          .where('purpose', '=', purpose)
          .where('state', '=', 'retired')
          .where('changed_at', '<=', retiredBefore)
          .returning('id')
          .execute()
        for (const { id } of gone) await tell(trx, { id, purpose, state: 'gone', now })
        return gone.length > 0
      })
    },

    /**
     * Ends a key at once: nothing that it signed counts any more. What the log holds of its signatures is signed anew.
     * @throws ApiError NOT_FOUND, PRECONDITION for the one that signs
     */
    drop(id: string, { actor, now }: Deed): Promise<void> {
      return records.transaction().execute(async (trx) => {
        await lockKeys(trx)
        const row = await trx
          .selectFrom('keys')
          .select(['purpose', 'state'])
          .where('id', '=', id)
          .executeTakeFirst()
        if (row === undefined) throw new ApiError('NOT_FOUND', 'there is no such key')
        const { purpose, state } = row
        if (state === 'active')
          throw new ApiError('PRECONDITION', 'this key signs now: rotate it first')
        await trx.deleteFrom('keys').where('id', '=', id).execute()
        if (purpose === 'log') await signAnew(trx, id, secrets)
        await tell(trx, { id, purpose, state: 'gone', now })
        await audit(trx, { operation: 'delete', id, purpose }, { actor, now })
      })
    },
  }
}

/** How the next key of a purpose is written. A CA is made before any lock: it takes a good part of a second. */
async function nextOf(
  purpose: Exclude<KeyPurpose, 'root'>,
  { secrets, now }: Pick<TrustOptions, 'secrets'> & { readonly now: Date },
): Promise<(trx: Transaction<Schema>) => Promise<string>> {
  if (purpose !== 'ca') return (trx) => insertKey(trx, { secrets, purpose, state: 'next', now })
  const made = await createCa('Outport edges', now)
  return (trx) => insertCa(trx, { secrets, made, state: 'next', now })
}

async function isRootOffline(trx: Transaction<Schema>, secrets: Secrets): Promise<boolean> {
  const roots = await readRoots(trx, secrets)
  return roots !== undefined && roots.active.signing === undefined
}

function rowsOf(trx: Transaction<Schema>, purpose: KeyPurpose) {
  return trx.selectFrom('keys').select(['id', 'state']).where('purpose', '=', purpose).execute()
}

async function promoteNext(
  trx: Transaction<Schema>,
  { purpose, now }: { readonly purpose: KeyPurpose; readonly now: Date },
): Promise<void> {
  for (const { id, state } of await rowsOf(trx, purpose)) {
    if (state === 'retired') continue
    const then = state === 'next' ? 'active' : 'retired'
    await trx
      .updateTable('keys')
      .set({ state: then, changed_at: now })
      .where('id', '=', id)
      .execute()
    await tell(trx, { id, purpose, state: then, now })
  }
}

/** Every primary reads its keys again by this. */
async function tell(
  trx: Transaction<Schema>,
  {
    id,
    purpose,
    state,
    now,
  }: {
    readonly id: string
    readonly purpose: KeyPurpose
    readonly state: string
    readonly now: Date
  },
): Promise<void> {
  await appendEvents(trx, [{ type: 'key', keyId: id, purpose, state }], now)
}

async function audit(
  trx: Transaction<Schema>,
  {
    operation,
    id,
    purpose,
  }: {
    readonly operation: 'create' | 'delete'
    readonly id: string
    readonly purpose: KeyPurpose
  },
  { actor, now }: Deed,
): Promise<void> {
  const entry = { operation, resourceType: 'key', resource: id, description: purpose } as const
  await appendAudit(trx, { ...entry, actor }, now)
}

async function find(trx: Transaction<Schema>, id: string): Promise<KeyInfo> {
  const row = await trx
    .selectFrom('keys')
    .selectAll()
    .where('id', '=', id)
    .executeTakeFirstOrThrow()
  return infoOf(row)
}

function infoOf(row: Selectable<KeysTable>): KeyInfo {
  const { id, purpose, state, public_jwk: jwk } = row
  const fingerprint =
    purpose === 'ca'
      ? new X509Certificate(certificateOf(jwk)).fingerprint256.replaceAll(':', '').toLowerCase()
      : fingerprintOf(jwk)
  return {
    id,
    purpose,
    state,
    isOffline: row.private_sealed === null,
    fingerprint,
    createdAt: row.created_at,
    changedAt: row.changed_at,
  }
}

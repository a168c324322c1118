import type { JsonWebKey } from 'node:crypto'
import { sql, type Transaction } from 'kysely'
import type { Secrets } from '../../shared/trust/secrets.ts'
import { signStatement, statementTypes, type Envelope } from '../../shared/trust/statement.ts'
import { openTrustList, type TrustedKey, type TrustList } from '../../shared/trust/trust-list.ts'
import type { Records } from './database.ts'
import { insertKey, readCa, readRing, type CaRing, type KeyRing } from './keys.ts'
import type { Schema } from './schema.ts'

/** What an edge needs to believe the log: the root, and what it says of the other keys. */
export interface Trust {
  readonly root: TrustedKey
  readonly list: TrustList
  /** The list as the root signed it. */
  readonly envelope: Envelope
  /** Those lists, in order, in which a root named the next one: by them who knows an older root comes to know this one. */
  readonly rotations: readonly Envelope[]
}

/** All keys as they are at one moment, and what the root says of them. */
export interface AgreedKeys {
  /** Those of tokens. */
  readonly jwt: KeyRing
  readonly log: KeyRing
  /** Undefined while no edge was to join. */
  readonly ca: CaRing | undefined
  readonly trust: Trust
}

export interface TrustOptions {
  /** The installation: its store's id. */
  readonly issuer: string
  readonly secrets: Secrets
}

/** So many versions are passed over by a new epoch: a database from before does not know which were given out since. */
const skippedVersions = 100

/**
 * The keys, and the newest list of trusted ones. A list is written where none says what is true now: the keys are
 * others, or the epoch is. Primaries that start together write it once. All keys were made before.
 */
export function agreeOnTrust(
  records: Records,
  { issuer, secrets }: TrustOptions,
  now: Date,
): Promise<AgreedKeys> {
  return records.transaction().execute(async (trx) => {
    await lockTrust(trx)
    const { root, ...keys } = await readKeys(trx, secrets)
    const rootKey = activeKeyOf(root)
    const lists = await readLists(trx)
    const rotations = lists.filter(({ signatures }) => signatures.length > 1)
    const newest = lists.at(-1)
    const wanted = await wantedList(trx, { issuer, root: rootKey, ...keys })
    const known = newest && openTrustList(newest, { root: rootKey })
    if (newest !== undefined && known !== undefined && says(known, wanted))
      return { ...keys, trust: { root: rootKey, list: known, envelope: newest, rotations } }
    const isOtherEpoch = known !== undefined && known.epoch !== wanted.epoch
    const version = (known?.version ?? 0) + (isOtherEpoch ? skippedVersions : 1)
    const list: TrustList = { version, ...wanted }
    const envelope = signStatement(statementTypes.trust, list, root.signing)
    await insertList(trx, { version, envelope, now })
    return { ...keys, trust: { root: rootKey, list, envelope, rotations } }
  })
}

/**
 * Makes another key the root, in the transaction that is given: both it and the one before sign the list that says so.
 * The one before is gone then.
 * @returns the new key's id
 */
export async function replaceRoot(
  trx: Transaction<Schema>,
  { issuer, secrets }: TrustOptions,
  now: Date,
): Promise<string> {
  await lockTrust(trx)
  const before = await readKeys(trx, secrets)
  const newest = (await readLists(trx)).at(-1)
  const known = newest && openTrustList(newest, { root: activeKeyOf(before.root) })
  await trx.deleteFrom('keys').where('id', '=', before.root.signing.kid).execute()
  const id = await insertKey(trx, { secrets, purpose: 'root', state: 'active', now })
  const { root, ...keys } = await readKeys(trx, secrets)
  const version = (known?.version ?? 0) + 1
  const wanted = await wantedList(trx, { issuer, root: activeKeyOf(root), ...keys })
  const list: TrustList = { version, ...wanted }
  const byOld = signStatement(statementTypes.trust, list, before.root.signing)
  const byNew = signStatement(statementTypes.trust, list, root.signing)
  const envelope = { ...byOld, signatures: [...byOld.signatures, ...byNew.signatures] }
  await insertList(trx, { version, envelope, now })
  return id
}

/** Before anything is read: a list is written of what is true then. */
async function lockTrust(trx: Transaction<Schema>): Promise<void> {
  await sql`LOCK TABLE trust_lists IN SHARE ROW EXCLUSIVE MODE`.execute(trx)
}

async function readKeys(trx: Transaction<Schema>, secrets: Secrets) {
  const jwt = await readRing(trx, { secrets, purpose: 'jwt' })
  const log = await readRing(trx, { secrets, purpose: 'log' })
  const root = await readRing(trx, { secrets, purpose: 'root' })
  if (jwt === undefined || log === undefined || root === undefined)
    throw new Error('a key is missing that was made before')
  return { jwt, log, root, ca: await readCa(trx, secrets) }
}

async function wantedList(
  trx: Transaction<Schema>,
  {
    issuer,
    root,
    log,
    ca,
  }: { readonly issuer: string; readonly root: TrustedKey } & Pick<AgreedKeys, 'log' | 'ca'>,
): Promise<Omit<TrustList, 'version'>> {
  const { epoch } = await trx.selectFrom('event_head').select('epoch').executeTakeFirstOrThrow()
  return { issuer, epoch, root, log: log.public.keys.map(trustedKeyOf), ca: ca?.trusted ?? [] }
}

async function readLists(trx: Transaction<Schema>): Promise<readonly Envelope[]> {
  const rows = await trx.selectFrom('trust_lists').select('envelope').orderBy('version').execute()
  return rows.map(({ envelope }) => JSON.parse(envelope) as Envelope)
}

async function insertList(
  trx: Transaction<Schema>,
  {
    version,
    envelope,
    now,
  }: { readonly version: number; readonly envelope: Envelope; readonly now: Date },
): Promise<void> {
  await trx
    .insertInto('trust_lists')
    .values({ version, envelope: JSON.stringify(envelope), created_at: now })
    .execute()
}

function says({ version: _, ...said }: TrustList, wanted: Omit<TrustList, 'version'>): boolean {
  return JSON.stringify(said) === JSON.stringify(wanted)
}

function activeKeyOf({ signing, public: { keys } }: KeyRing): TrustedKey {
  const key = keys.find(({ kid }) => kid === signing.kid)
  if (key === undefined) throw new Error(`the key ${signing.kid} has no public half`)
  return trustedKeyOf(key)
}

/** Its members in one order, whatever the database made of it: lists are compared as text. */
function trustedKeyOf({ kid, kty, crv, x, y }: KeyRing['public']['keys'][number]): TrustedKey {
  const jwk: JsonWebKey = {
    ...(kty !== undefined && { kty }),
    ...(crv !== undefined && { crv }),
    ...(x !== undefined && { x }),
    ...(y !== undefined && { y }),
  }
  return { id: kid ?? '', jwk }
}

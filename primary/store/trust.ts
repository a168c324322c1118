import { sql, type Selectable, type Transaction } from 'kysely'
import { ApiError } from '../../shared/api/errors.ts'
import type { Secrets } from '../../shared/trust/secrets.ts'
import { signStatement, statementTypes, type Envelope } from '../../shared/trust/statement.ts'
import { openTrustList, type TrustedKey, type TrustList } from '../../shared/trust/trust-list.ts'
import type { Records } from './database.ts'
import {
  certificateOf,
  insertKey,
  lockKeys,
  readCa,
  readRing,
  type CaRing,
  type KeyRing,
} from './keys.ts'
import { readRoots, trustedKeyOf, type RootKey, type Roots } from './roots.ts'
import type { KeysTable, Schema } from './schema.ts'

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
  /** A list that only somebody elsewhere can sign: the keys are others, or a root is to take the place of this one. */
  readonly pending: PendingList | undefined
}

/** A list that is to come into force. */
export interface PendingList {
  readonly list: TrustList
  /** What it takes the place of. */
  readonly inForce: TrustList | undefined
  /** All that must sign it, also those that are here. */
  readonly signers: readonly RootKey[]
}

export interface TrustOptions {
  /** The installation: its store's id. */
  readonly issuer: string
  readonly secrets: Secrets
}

/** What lists are made of, and those that there are. */
export interface KnownTrust {
  readonly issuer: string
  readonly epoch: number
  readonly jwt: KeyRing
  readonly log: KeyRing
  readonly ca: CaRing | undefined
  readonly roots: Roots
  /** As they were signed, in order. */
  readonly lists: readonly Envelope[]
  /** What the newest one says. */
  readonly inForce: TrustList | undefined
}

/** So many versions are passed over by a new epoch: a database from before does not know which were given out since. */
const skippedVersions = 100

/**
 * The keys, and the newest list of trusted ones. A list is written where none says what is true now: the keys are
 * others, or the epoch is. A root that is kept offline has it wait: what it signed last stays in force. Primaries that
 * start together write it once. All keys were made before.
 */
export function agreeOnTrust(
  records: Records,
  options: TrustOptions,
  now: Date,
): Promise<AgreedKeys> {
  return records.transaction().execute(async (trx) => {
    await lockTrust(trx)
    const known = await readTrust(trx, options)
    if (known === undefined) throw new Error('a key is missing that was made before')
    const { jwt, log, ca, lists, inForce } = known
    const { trusted: root, signing } = known.roots.active
    const rotations = lists.filter(({ signatures }) => signatures.length > 1)
    const newest = lists.at(-1)
    const list = draftList(known, root)
    const isSaid = inForce !== undefined && isSame(inForce, list)
    if (newest !== undefined && inForce !== undefined && (isSaid || signing === undefined)) {
      const trust = { root, list: inForce, envelope: newest, rotations }
      return { jwt, log, ca, trust, pending: pendingOf(known) }
    }
    if (signing === undefined) throw new Error('a root that is kept offline has signed no list')
    const envelope = signStatement(statementTypes.trust, list, signing)
    await insertList(trx, { version: list.version, envelope, now })
    const pending = pendingOf({ ...known, inForce: list })
    return { jwt, log, ca, trust: { root, list, envelope, rotations }, pending }
  })
}

/** The list that waits for somebody elsewhere; undefined: what is wanted is in force, or can be signed here. */
export function pendingOf(known: KnownTrust): PendingList | undefined {
  const { roots, inForce } = known
  const { active, next } = roots
  if (next !== undefined)
    return { list: draftList(known, next.trusted), inForce, signers: [active, next] }
  if (active.signing !== undefined) return undefined
  const list = draftList(known, active.trusted)
  // Which CA issues is told by their order. That alone is worth no walk to where the root is kept.
  const inOrder = (each: TrustList) => ({ ...each, ca: [...each.ca].sort() })
  const isSaid = inForce !== undefined && isSame(inOrder(inForce), inOrder(list))
  return isSaid ? undefined : { list, inForce, signers: [active] }
}

/**
 * Makes another key the root, in the transaction that is given: both it and the one before sign the list that says so.
 * The one before is gone then. Where that is kept offline, the new one waits for its signature.
 * @returns the new key's id
 * @throws ApiError CONFLICT where another one waits already
 */
export async function replaceRoot(
  trx: Transaction<Schema>,
  options: TrustOptions,
  now: Date,
): Promise<string> {
  const { secrets } = options
  await lockKeys(trx)
  await lockTrust(trx)
  const before = await readTrust(trx, options)
  if (before === undefined) throw new Error('a key is missing that was made before')
  const { active, next } = before.roots
  if (next !== undefined)
    throw new ApiError(
      'CONFLICT',
      "another root waits to be signed: sign it with 'outport keys sign', or drop it",
    )
  if (active.signing === undefined)
    return insertKey(trx, { secrets, purpose: 'root', state: 'next', now })
  await trx.deleteFrom('keys').where('id', '=', active.trusted.id).execute()
  const id = await insertKey(trx, { secrets, purpose: 'root', state: 'active', now })
  const made = (await readRoots(trx, secrets))?.active
  if (made?.signing === undefined) throw new Error('the root that was just made is not there')
  const list = draftList(before, made.trusted)
  const byOld = signStatement(statementTypes.trust, list, active.signing)
  const byNew = signStatement(statementTypes.trust, list, made.signing)
  const envelope = { ...byOld, signatures: [...byOld.signatures, ...byNew.signatures] }
  await insertList(trx, { version: list.version, envelope, now })
  return id
}

/** Before anything is read: a list is written of what is true then. */
export async function lockTrust(trx: Transaction<Schema>): Promise<void> {
  await sql`LOCK TABLE trust_lists IN SHARE ROW EXCLUSIVE MODE`.execute(trx)
}

/** All that lists are made of; undefined while a key is missing. */
export async function readTrust(
  trx: Transaction<Schema>,
  { issuer, secrets }: TrustOptions,
): Promise<KnownTrust | undefined> {
  const jwt = await readRing(trx, { secrets, purpose: 'jwt' })
  const log = await readRing(trx, { secrets, purpose: 'log' })
  const roots = await readRoots(trx, secrets)
  if (jwt === undefined || log === undefined || roots === undefined) return undefined
  const ca = await readCa(trx, secrets)
  const { epoch } = await trx.selectFrom('event_head').select('epoch').executeTakeFirstOrThrow()
  const lists = await readLists(trx)
  const newest = lists.at(-1)
  const inForce = newest && openTrustList(newest, { root: roots.active.trusted })
  return { issuer, epoch, jwt, log, ca, roots, lists, inForce }
}

/** What a root says of the keys as they are, when it is signed. */
export function draftList(
  { issuer, epoch, log, ca, inForce }: Omit<KnownTrust, 'jwt' | 'roots' | 'lists'>,
  root: TrustedKey,
): TrustList {
  const isOtherEpoch = inForce !== undefined && inForce.epoch !== epoch
  const version = (inForce?.version ?? 0) + (isOtherEpoch ? skippedVersions : 1)
  const logKeys = log.public.keys.map(({ kid = '', ...jwk }) => trustedKeyOf(kid, jwk))
  return { version, issuer, epoch, root, log: logKeys, ca: ca?.trusted ?? [] }
}

/** Whether a list says that edges are to believe this key of the log, or this CA. */
export function isNamed(
  list: TrustList,
  { id, purpose, public_jwk: jwk }: Pick<Selectable<KeysTable>, 'id' | 'purpose' | 'public_jwk'>,
): boolean {
  return purpose === 'ca'
    ? list.ca.includes(certificateOf(jwk))
    : list.log.some((key) => key.id === id)
}

async function readLists(trx: Transaction<Schema>): Promise<readonly Envelope[]> {
  const rows = await trx.selectFrom('trust_lists').select('envelope').orderBy('version').execute()
  return rows.map(({ envelope }) => JSON.parse(envelope) as Envelope)
}

export async function insertList(
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

/** Whether two lists say the same, whatever their versions. */
function isSame(
  { version: _one, ...said }: TrustList,
  { version: _other, ...wanted }: TrustList,
): boolean {
  return JSON.stringify(said) === JSON.stringify(wanted)
}

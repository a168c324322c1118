import {
  createPrivateKey,
  generateKeyPairSync,
  randomUUID,
  X509Certificate,
  type JsonWebKey,
} from 'node:crypto'
import { sql, type Insertable, type Selectable, type Transaction } from 'kysely'
import type { PublicKeys, SigningKey } from '../../shared/auth/token.ts'
import { createCa, type PemPair } from '../../shared/trust/pki.ts'
import type { Secrets } from '../../shared/trust/secrets.ts'
import type { Records } from './database.ts'
import { appendEvents } from './outbox.ts'
import type { KeysTable, Schema } from './schema.ts'

/** Also within a transaction. */
export type Reading = Records | Transaction<Schema>

/** The keys of one purpose: the one that signs, and all that verify. */
export interface KeyRing {
  readonly signing: SigningKey
  readonly public: PublicKeys
}

/** The edges' own CAs: the one that issues, and all by whose certificates edges are let in. */
export interface CaRing {
  readonly issuing: PemPair
  /** PEM; the one that issues comes first. */
  readonly trusted: readonly string[]
}

/** What a key signs: tokens, the log, or what is said of the other keys. Each is a key of its own. */
export type SigningPurpose = 'jwt' | 'log' | 'root'
/** Those whose keys sign here all the time; the root may be elsewhere: `readRoots`. */
type RingPurpose = Exclude<SigningPurpose, 'root'>

/** Signing keys, sealed at rest. */
export function createKeys(records: Records, secrets: Secrets) {
  return {
    /** The keys of a purpose; the first primary to ask makes the first one. */
    async ring(purpose: RingPurpose, now: Date): Promise<KeyRing> {
      return (
        (await readRing(records, { secrets, purpose })) ?? create(records, secrets, purpose, now)
      )
    },

    /** Makes the first root, where there is none. */
    async makeRoot(now: Date): Promise<void> {
      if ((await rowsOf(records, 'root')).length > 0) return
      await records
        .transaction()
        .execute((trx) => createFirst(trx, { secrets, purpose: 'root', now }))
    },

    /** The edges' own CA; who first needs it makes it. */
    async ca(now: Date): Promise<CaRing> {
      const known = await readCa(records, secrets)
      if (known !== undefined) return known
      // Before the lock: it takes a good part of a second.
      const made = await createCa('Outport edges', now)
      await records.transaction().execute((trx) => createFirstCa(trx, { secrets, made, now }))
      const ca = await readCa(records, secrets)
      if (ca === undefined) throw new Error('the CA that was just made is not there')
      return ca
    },
  }
}

const algorithm = 'ES256'
const labelOf = (purpose: SigningPurpose | 'ca', id: string) => `${purpose} key ${id}`

/** The keys of a purpose, as they are; undefined while there are none. */
export async function readRing(
  records: Reading,
  { secrets, purpose }: { readonly secrets: Secrets; readonly purpose: RingPurpose },
): Promise<KeyRing | undefined> {
  const rows = await rowsOf(records, purpose)
  const active = rows.find(({ state }) => state === 'active')
  const signing = active && signingKeyOf(active, secrets)
  if (signing === undefined) return undefined
  return {
    signing,
    public: {
      keys: rows.map(({ id, public_jwk }): PublicKeys['keys'][number] => ({
        ...public_jwk,
        kid: id,
        alg: algorithm,
        use: 'sig',
      })),
    },
  }
}

/** What a key signs by; undefined for a root whose private half is kept elsewhere. */
export function signingKeyOf(
  { id, purpose, private_sealed: sealed }: Selectable<KeysTable>,
  secrets: Secrets,
): SigningKey | undefined {
  if (sealed === null) return undefined
  const key = secrets.open(sealed, labelOf(purpose, id))
  return { kid: id, privateKey: createPrivateKey({ key, format: 'der', type: 'pkcs8' }) }
}

/** Also those that do not sign yet, or not any more: what verifies knows them. */
export function rowsOf(records: Reading, purpose: SigningPurpose | 'ca') {
  return records
    .selectFrom('keys')
    .selectAll()
    .where('purpose', '=', purpose)
    .orderBy('created_at', 'desc')
    .orderBy('id')
    .execute()
}

async function create(
  records: Records,
  secrets: Secrets,
  purpose: RingPurpose,
  now: Date,
): Promise<KeyRing> {
  await records.transaction().execute((trx) => createFirst(trx, { secrets, purpose, now }))
  const ring = await readRing(records, { secrets, purpose })
  if (ring === undefined) throw new Error('the key that was just made is not there')
  return ring
}

/** The edges' own CAs, as they are; undefined while no edge was to join. */
export async function readCa(records: Reading, secrets: Secrets): Promise<CaRing | undefined> {
  const rows = await rowsOf(records, 'ca')
  const active = rows.find(({ state }) => state === 'active')
  const key = active && signingKeyOf(active, secrets)?.privateKey
  if (active === undefined || key === undefined) return undefined
  const cert = certificateOf(active.public_jwk)
  const others = rows.filter((row) => row !== active).map((row) => certificateOf(row.public_jwk))
  return {
    issuing: { cert, key: key.export({ format: 'pem', type: 'pkcs8' }).toString() },
    trusted: [cert, ...others],
  }
}

/** PEM. [RFC 7517 §4.7] */
export function certificateOf(jwk: Readonly<Record<string, unknown>>): string {
  const [der] = jwk['x5c'] as readonly [string]
  return new X509Certificate(Buffer.from(der, 'base64')).toString()
}

async function createFirstCa(
  trx: Transaction<Schema>,
  { secrets, made, now }: { readonly secrets: Secrets; readonly made: PemPair; readonly now: Date },
): Promise<void> {
  if (await isFirst(trx, 'ca')) await insertCa(trx, { secrets, made, state: 'active', now })
}

/** Writes a CA, in the transaction that decided it. @returns its id */
export async function insertCa(
  trx: Transaction<Schema>,
  { secrets, made, state, now }: NewKey & { readonly made: PemPair },
): Promise<string> {
  const id = randomUUID()
  const der = new X509Certificate(made.cert).raw.toString('base64')
  const key = createPrivateKey(made.key).export({ format: 'der', type: 'pkcs8' })
  await insert(trx, {
    row: {
      id,
      purpose: 'ca',
      algorithm: 'RS256',
      public_jwk: JSON.stringify({ x5c: [der] }),
      private_sealed: secrets.seal(key, labelOf('ca', id)),
    },
    state,
    now,
  })
  return id
}

/** Makes a key that signs, in the transaction that decided it. @returns its id */
export async function insertKey(
  trx: Transaction<Schema>,
  { secrets, purpose, state, now }: NewKey & { readonly purpose: SigningPurpose },
): Promise<string> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const id = randomUUID()
  const der = privateKey.export({ format: 'der', type: 'pkcs8' })
  await insert(trx, {
    row: {
      id,
      purpose,
      algorithm,
      public_jwk: JSON.stringify(publicKey.export({ format: 'jwk' })),
      private_sealed: secrets.seal(der, labelOf(purpose, id)),
    },
    state,
    now,
  })
  return id
}

/** Writes down a root whose private half is kept elsewhere. @returns its id */
export async function insertOfflineRoot(
  trx: Transaction<Schema>,
  { jwk, state, now }: Omit<NewKey, 'secrets'> & { readonly jwk: JsonWebKey },
): Promise<string> {
  const id = randomUUID()
  const public_jwk = JSON.stringify(jwk)
  const row = { id, purpose: 'root', algorithm, public_jwk, private_sealed: null } as const
  await insert(trx, { row, state, now })
  return id
}

async function insert(
  trx: Transaction<Schema>,
  {
    row,
    state,
    now,
  }: Pick<NewKey, 'state' | 'now'> & {
    readonly row: Pick<
      Insertable<KeysTable>,
      'id' | 'purpose' | 'algorithm' | 'public_jwk' | 'private_sealed'
    >
  },
): Promise<void> {
  const { id, purpose } = row
  await trx
    .insertInto('keys')
    .values({ ...row, state, created_at: now, changed_at: now })
    .execute()
  await appendEvents(trx, [{ type: 'key', keyId: id, purpose, state }], now)
}

interface NewKey {
  readonly secrets: Secrets
  readonly state: 'next' | 'active'
  readonly now: Date
}

/** Who changes keys by what they are takes their turn; before the lock of the lists, where both are needed. */
export async function lockKeys(trx: Transaction<Schema>): Promise<void> {
  await sql`LOCK TABLE keys IN SHARE ROW EXCLUSIVE MODE`.execute(trx)
}

/** Whether there is no such key yet. Primaries that start together must agree on one: call it in the transaction that writes it. */
async function isFirst(trx: Transaction<Schema>, purpose: SigningPurpose | 'ca'): Promise<boolean> {
  await lockKeys(trx)
  const known = await trx
    .selectFrom('keys')
    .select('id')
    .where('purpose', '=', purpose)
    .where('state', '=', 'active')
    .executeTakeFirst()
  return known === undefined
}

async function createFirst(
  trx: Transaction<Schema>,
  {
    secrets,
    purpose,
    now,
  }: { readonly secrets: Secrets; readonly purpose: SigningPurpose; readonly now: Date },
): Promise<void> {
  if (await isFirst(trx, purpose)) await insertKey(trx, { secrets, purpose, state: 'active', now })
}

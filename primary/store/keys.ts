import { createPrivateKey, generateKeyPairSync, randomUUID, X509Certificate } from 'node:crypto'
import { sql, type Transaction } from 'kysely'
import type { PublicKeys, SigningKey } from '../../shared/auth/token.ts'
import { createCa, type PemPair } from '../../shared/trust/pki.ts'
import type { Secrets } from '../../shared/trust/secrets.ts'
import type { Records } from './database.ts'
import { appendEvents } from './outbox.ts'
import type { Schema } from './schema.ts'

/** The keys of one purpose: the one that signs, and all that verify. */
export interface KeyRing {
  readonly signing: SigningKey
  readonly public: PublicKeys
}

/** What a key signs: tokens, the log, or what is said of the other keys. Each is a key of its own. */
export type SigningPurpose = 'jwt' | 'log' | 'root'

/** Signing keys, sealed at rest. */
export function createKeys(records: Records, secrets: Secrets) {
  return {
    /** The keys of a purpose; the first primary to ask makes the first one. */
    async ring(purpose: SigningPurpose, now: Date): Promise<KeyRing> {
      return (await read(records, { secrets, purpose })) ?? create(records, secrets, purpose, now)
    },

    /** The edges' own CA, or undefined while no edge was to join. */
    findCa: (): Promise<PemPair | undefined> => readCa(records, secrets),

    /** The edges' own CA; who first needs it makes it. */
    async ca(now: Date): Promise<PemPair> {
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

async function read(
  records: Records,
  { secrets, purpose }: { readonly secrets: Secrets; readonly purpose: SigningPurpose },
): Promise<KeyRing | undefined> {
  const rows = await records
    .selectFrom('keys')
    .selectAll()
    .where('purpose', '=', purpose)
    .orderBy('created_at', 'desc')
    .execute()
  const active = rows.find(({ state }) => state === 'active')
  if (active === undefined) return undefined
  const der = secrets.open(active.private_sealed, labelOf(purpose, active.id))
  return {
    signing: {
      kid: active.id,
      privateKey: createPrivateKey({ key: der, format: 'der', type: 'pkcs8' }),
    },
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

async function create(
  records: Records,
  secrets: Secrets,
  purpose: SigningPurpose,
  now: Date,
): Promise<KeyRing> {
  await records.transaction().execute((trx) => createFirst(trx, { secrets, purpose, now }))
  const ring = await read(records, { secrets, purpose })
  if (ring === undefined) throw new Error('the key that was just made is not there')
  return ring
}

async function readCa(records: Records, secrets: Secrets): Promise<PemPair | undefined> {
  const row = await records
    .selectFrom('keys')
    .select(['id', 'public_jwk', 'private_sealed'])
    .where('purpose', '=', 'ca')
    .where('state', '=', 'active')
    .executeTakeFirst()
  if (row === undefined) return undefined
  // [RFC 7517 §4.7]
  const [der] = row.public_jwk['x5c'] as readonly [string]
  const key = createPrivateKey({
    key: secrets.open(row.private_sealed, labelOf('ca', row.id)),
    format: 'der',
    type: 'pkcs8',
  })
  return {
    cert: new X509Certificate(Buffer.from(der, 'base64')).toString(),
    key: key.export({ format: 'pem', type: 'pkcs8' }).toString(),
  }
}

async function createFirstCa(
  trx: Transaction<Schema>,
  { secrets, made, now }: { readonly secrets: Secrets; readonly made: PemPair; readonly now: Date },
): Promise<void> {
  if (!(await isFirst(trx, 'ca'))) return
  const id = randomUUID()
  const der = new X509Certificate(made.cert).raw.toString('base64')
  const key = createPrivateKey(made.key).export({ format: 'der', type: 'pkcs8' })
  await trx
    .insertInto('keys')
    .values({
      id,
      purpose: 'ca',
      algorithm: 'RS256',
      public_jwk: JSON.stringify({ x5c: [der] }),
      private_sealed: secrets.seal(key, labelOf('ca', id)),
      state: 'active',
      created_at: now,
    })
    .execute()
  await appendEvents(trx, [{ type: 'key', keyId: id, purpose: 'ca', state: 'active' }], now)
}

/** Whether there is no such key yet. Primaries that start together must agree on one: call it in the transaction that writes it. */
async function isFirst(trx: Transaction<Schema>, purpose: SigningPurpose | 'ca'): Promise<boolean> {
  await sql`LOCK TABLE keys IN SHARE ROW EXCLUSIVE MODE`.execute(trx)
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
  if (!(await isFirst(trx, purpose))) return
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const id = randomUUID()
  await trx
    .insertInto('keys')
    .values({
      id,
      purpose,
      algorithm,
      public_jwk: JSON.stringify(publicKey.export({ format: 'jwk' })),
      private_sealed: secrets.seal(
        privateKey.export({ format: 'der', type: 'pkcs8' }),
        labelOf(purpose, id),
      ),
      state: 'active',
      created_at: now,
    })
    .execute()
  await appendEvents(trx, [{ type: 'key', keyId: id, purpose, state: 'active' }], now)
}

import { createPrivateKey, generateKeyPairSync, randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import type { PublicKeys, SigningKey } from '../../shared/auth/token.ts'
import type { Secrets } from '../../shared/trust/secrets.ts'
import type { Records } from './database.ts'
import { appendEvents } from './outbox.ts'

/** The keys of one purpose: the one that signs, and all that verify. */
export interface KeyRing {
  readonly signing: SigningKey
  readonly public: PublicKeys
}

/** Signing keys, sealed at rest. */
export function createKeys(records: Records, secrets: Secrets) {
  return {
    /** The keys by which tokens are signed and verified; the first primary to ask makes the first one. */
    async tokenKeys(now: Date): Promise<KeyRing> {
      return (await read(records, secrets)) ?? create(records, secrets, now)
    },
  }
}

const purpose = 'jwt'
const algorithm = 'ES256'
const labelOf = (id: string) => `${purpose} key ${id}`

async function read(records: Records, secrets: Secrets): Promise<KeyRing | undefined> {
  const rows = await records
    .selectFrom('keys')
    .selectAll()
    .where('purpose', '=', purpose)
    .orderBy('created_at', 'desc')
    .execute()
  const active = rows.find(({ state }) => state === 'active')
  if (active === undefined) return undefined
  const der = secrets.open(active.private_sealed, labelOf(active.id))
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

async function create(records: Records, secrets: Secrets, now: Date): Promise<KeyRing> {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const id = randomUUID()
  await records.transaction().execute(async (trx) => {
    // Primaries that start together must agree on one.
    await sql`LOCK TABLE keys IN SHARE ROW EXCLUSIVE MODE`.execute(trx)
    const known = await trx
      .selectFrom('keys')
      .select('id')
      .where('purpose', '=', purpose)
      .where('state', '=', 'active')
      .executeTakeFirst()
    if (known !== undefined) return
    await trx
      .insertInto('keys')
      .values({
        id,
        purpose,
        algorithm,
        public_jwk: JSON.stringify(publicKey.export({ format: 'jwk' })),
        private_sealed: secrets.seal(
          privateKey.export({ format: 'der', type: 'pkcs8' }),
          labelOf(id),
        ),
        state: 'active',
        created_at: now,
      })
      .execute()
    await appendEvents(trx, [{ type: 'key', keyId: id, purpose, state: 'active' }], now)
  })
  const ring = await read(records, secrets)
  if (ring === undefined) throw new Error('the key that was just made is not there')
  return ring
}

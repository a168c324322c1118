import type { JsonWebKey } from 'node:crypto'
import { sql } from 'kysely'
import { signStatement, statementTypes, type Envelope } from '../../shared/trust/statement.ts'
import { openTrustList, type TrustedKey, type TrustList } from '../../shared/trust/trust-list.ts'
import type { Records } from './database.ts'
import type { KeyRing } from './keys.ts'

/** What an edge needs to believe the log: the root, and what it says of the other keys. */
export interface Trust {
  readonly root: TrustedKey
  readonly list: TrustList
  /** The list as the root signed it. */
  readonly envelope: Envelope
}

export interface TrustSubjects {
  /** The installation: its store's id. */
  readonly issuer: string
  readonly root: KeyRing
  readonly log: KeyRing
  /** Of the edges' own CA, where there is one: PEM. */
  readonly ca: readonly string[]
}

/**
 * The newest list of trusted keys. One is written where none says what is true now: the log's keys are others, or the
 * epoch is. Primaries that start together write it once.
 */
export function agreeOnTrust(
  records: Records,
  { issuer, root, log, ca }: TrustSubjects,
  now: Date,
): Promise<Trust> {
  const rootKey = activeKeyOf(root)
  return records.transaction().execute(async (trx) => {
    await sql`LOCK TABLE trust_lists IN SHARE ROW EXCLUSIVE MODE`.execute(trx)
    const { epoch } = await trx.selectFrom('event_head').select('epoch').executeTakeFirstOrThrow()
    const newest = await trx
      .selectFrom('trust_lists')
      .select('envelope')
      .orderBy('version', 'desc')
      .limit(1)
      .executeTakeFirst()
    const wanted = { issuer, epoch, root: rootKey, log: log.public.keys.map(trustedKeyOf), ca }
    const known = newest && read(newest.envelope, rootKey)
    if (known !== undefined && says(known.list, wanted)) return known
    const list: TrustList = { version: (known?.list.version ?? 0) + 1, ...wanted }
    const envelope = signStatement(statementTypes.trust, list, root.signing)
    await trx
      .insertInto('trust_lists')
      .values({ version: list.version, envelope: JSON.stringify(envelope), created_at: now })
      .execute()
    return { root: rootKey, list, envelope }
  })
}

function read(text: string, root: TrustedKey): Trust {
  const envelope = JSON.parse(text) as Envelope
  return { root, list: openTrustList(envelope, { root }), envelope }
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

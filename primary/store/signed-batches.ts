import type { Transaction } from 'kysely'
import { headStatement } from '../../shared/replication/chain.ts'
import type { Secrets } from '../../shared/trust/secrets.ts'
import { signStatement, statementTypes, type Envelope } from '../../shared/trust/statement.ts'
import { readRing } from './keys.ts'
import type { Schema } from './schema.ts'

/** The ends of batches that this key had signed, by the one that signs now: edges that are behind go on to read them. */
export async function signAnew(
  trx: Transaction<Schema>,
  kid: string,
  secrets: Secrets,
): Promise<void> {
  const ring = await readRing(trx, { secrets, purpose: 'log' })
  if (ring === undefined) return
  const rows = await trx
    .selectFrom('event_batches as b')
    .innerJoin('events as e', 'e.seq', 'b.last_seq')
    .select(['b.last_seq as seq', 'b.epoch', 'b.envelope', 'e.header_hash as hash'])
    .execute()
  for (const { envelope, ...head } of rows) {
    const { signatures } = JSON.parse(envelope) as Envelope
    if (!signatures.some(({ keyid }) => keyid === kid)) continue
    const signed = signStatement(statementTypes.head, headStatement(head), ring.signing)
    await trx
      .updateTable('event_batches')
      .set({ envelope: JSON.stringify(signed) })
      .where('last_seq', '=', head.seq)
      .execute()
  }
}

import type { Transaction } from 'kysely'
import { createEventBody, streamOf, type EventFact } from '../../shared/replication/events.ts'
import type { Schema } from './schema.ts'

/**
 * Writes facts to the outbox, in the transaction that makes them true. Call it while the row lock of what
 * changes is held: the ids that are taken here then have the order of the changes.
 */
export async function appendEvents(
  trx: Transaction<Schema>,
  facts: readonly EventFact[],
  now: Date,
): Promise<void> {
  if (facts.length === 0) return
  const rows = facts.map((fact) => ({
    stream: streamOf(fact),
    body: JSON.stringify(createEventBody(fact, now)),
  }))
  await trx.insertInto('outbox').values(rows).execute()
}

import { randomUUID } from 'node:crypto'
import { sql } from 'kysely'
import type { Database, Records } from './database.ts'
import { listenTo } from './listen.ts'

/** A start of an edge that is fed now, at this primary or another. */
export interface FeedStart {
  readonly edgeId: string
  /** Which start of it asks. */
  readonly instance: string
  readonly address: string
}

const channel = 'outport_feed_starts'

/** Tells the primaries of one database of the edges that begin to be fed. One that is not listening is not told later. */
export function createFeedStarts(records: Records, database: Pick<Database, 'connect'>) {
  const self = randomUUID()
  return {
    /** Nothing is written. */
    async announce(start: FeedStart): Promise<void> {
      const payload = JSON.stringify({ ...start, primary: self })
      await sql`SELECT pg_notify(${channel}, ${payload})`.execute(records)
    },
    /** Calls back for what other primaries tell. @returns how to stop */
    listen: (onStart: (start: FeedStart) => void): Promise<() => Promise<void>> =>
      listenTo(database, {
        channel,
        onNotification(payload) {
          const { primary, ...start } = JSON.parse(payload) as FeedStart & {
            readonly primary: string
          }
          if (primary !== self) onStart(start)
        },
      }),
  }
}

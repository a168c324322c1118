import { checkInTime, type ReadinessCheck } from '../shared/http/readiness.ts'
import type { Follower } from './events/follower.ts'
import type { HighWater } from './events/high-water.ts'
import type { BlobStore } from './store/blobs.ts'
import type { Database } from './store/database.ts'
import { createEvents } from './store/events.ts'

/** What a primary cannot work without. */
export interface HealthParts {
  readonly database: Database
  readonly blobs: BlobStore
  readonly follower: Follower
  readonly highWater: Pick<HighWater, 'behind'>
}

/** Looks at each of them. A log that waits for an administrator keeps nobody from pulling and pushing here. */
export async function checkHealth({
  database,
  blobs,
  follower,
  highWater,
}: HealthParts): Promise<readonly ReadinessCheck[]> {
  const followed = async () => {
    // Nothing is numbered then: caches are passed by.
    if (highWater.behind() !== undefined) return
    if (!follower.isCurrent()) throw new Error('the event log is not being read in time')
  }
  return Promise.all([
    checkInTime('database', () => createEvents(database.records).head()),
    checkInTime('registry', () => blobs.readRecord('store-id')),
    checkInTime('events', followed),
  ])
}

/** Whether the log is all that it ever was: shown, and no reason to send clients elsewhere. */
export function checkLog({ behind }: Pick<HighWater, 'behind'>): ReadinessCheck {
  const more = behind()
  if (more === undefined) return { name: 'log', ok: true }
  const { epoch, seq, shownBy } = more
  const reason = `${shownBy} shows event ${seq} of epoch ${epoch}, which is not in the database: it was restored; 'outport keys accept-epoch' has the log go on`
  return { name: 'log', ok: false, reason }
}

import { checkInTime, type ReadinessCheck } from '../shared/http/readiness.ts'
import type { Follower } from './events/follower.ts'
import type { BlobStore } from './store/blobs.ts'
import type { Database } from './store/database.ts'
import { createEvents } from './store/events.ts'

/** What a primary cannot work without. */
export interface HealthParts {
  readonly database: Database
  readonly blobs: BlobStore
  readonly follower: Follower
}

/** Looks at each of them. */
export async function checkHealth({
  database,
  blobs,
  follower,
}: HealthParts): Promise<readonly ReadinessCheck[]> {
  const followed = async () => {
    if (!follower.isCurrent()) throw new Error('the event log is not being read in time')
  }
  return Promise.all([
    checkInTime('database', () => createEvents(database.records).head()),
    checkInTime('registry', () => blobs.readRecord('store-id')),
    checkInTime('events', followed),
  ])
}

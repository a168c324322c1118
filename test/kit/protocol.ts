import { readFileSync } from 'node:fs'
import type { EventStream } from '../../shared/replication/events.ts'
import type { FeedLine, SnapshotLine } from '../../shared/replication/feed.ts'

/** What an edge and a primary of another version say to each other, as it was recorded. */
export interface RecordedProtocol {
  /** Fields of the list of trusted keys and of leases that are not in this version's. */
  readonly trust: object
  readonly lease: object
  /** Whether leases may be asked for over the feed. */
  readonly twoWayFeed: boolean
  /** Lines of the feed that are none of this version's. */
  readonly lines: readonly FeedLine[]
  readonly snapshots: Readonly<Record<EventStream, readonly SnapshotLine[]>>
  /** Bodies, as their hashes were made of. */
  readonly events: readonly string[]
  /** Of a newer one: what this version cannot take. */
  readonly breaking?: readonly string[]
  readonly breakingLine?: SnapshotLine
  readonly leaseRequest: unknown
}

export function readProtocol(version: 'older' | 'newer'): RecordedProtocol {
  const text = readFileSync(new URL(`protocol/${version}.json`, import.meta.url), 'utf8')
  return JSON.parse(text) as RecordedProtocol
}

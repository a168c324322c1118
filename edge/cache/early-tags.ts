import type { EventStream } from '../../shared/replication/events.ts'
import { createLru } from '../../shared/memory/lru.ts'
import { isLater, type TagPlace, type TagStatement } from './statement-records.ts'

/** What the primary stated of a tag in a stream whose state is not here yet. */
export interface EarlyTag {
  readonly place: TagPlace
  readonly statement: TagStatement
  readonly epoch: number
}

/** Statements that wait for their stream's state: it may have been made before them. */
export interface EarlyTags {
  put(stream: EventStream, tag: EarlyTag): void
  /** Takes out what was stated of a stream by the numbers of one log. */
  take(stream: EventStream, epoch: number): readonly EarlyTag[]
}

const most = 10_000

export function createEarlyTags(): EarlyTags {
  const tags = createLru<string, EarlyTag>({ max: most })
  return {
    put(stream, tag) {
      const key = `${stream}!${tag.place.repositoryId}!${tag.place.tag}`
      const other = tags.get(key)
      if (other?.epoch !== tag.epoch || isLater(tag.statement, other.statement)) tags.set(key, tag)
    },
    take(stream, epoch) {
      const taken: EarlyTag[] = []
      for (const [key, tag] of [...tags.entries()]) {
        if (!key.startsWith(`${stream}!`)) continue
        tags.delete(key)
        if (tag.epoch === epoch) taken.push(tag)
      }
      return taken
    },
  }
}

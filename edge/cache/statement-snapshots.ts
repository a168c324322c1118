import type { SnapshotLine } from '../../shared/replication/feed.ts'
import type { EarlyTag } from './early-tags.ts'
import type { Database, Operation } from './statement-events.ts'
import {
  entriesOf,
  includes,
  isLacking,
  knownBefore,
  manifestKey,
  nameKey,
  notYet,
  rangeOf,
  repositoryKey,
  tagKey,
  type RecordedTag,
  type SelectionRecord,
  type StreamRecord,
  type TagPlace,
  type TagStatement,
} from './statement-records.ts'

/** Writes a stream's whole state behind a prefix of its own, where nobody looks yet. */
export interface StateWriter {
  take(line: SnapshotLine): Promise<void>
  /** What the primary itself stated of a tag after the snapshot was made. @param before the prefix of the state before */
  keepNewer(before: string, made: StreamRecord): Promise<void>
  /** What it stated of the stream before any of its state was here. */
  putEarly(tags: Iterable<EarlyTag>, made: StreamRecord): void
  /** Images that tags named of which all is here: they stay answered until all of the new ones is. */
  keepWhole(before: string, followedUpTo: number): Promise<void>
  /** Writes what was not written yet. */
  flush(): Promise<void>
}

const writeEvery = 1000

export function createStateWriter(level: Database, prefix: string): StateWriter {
  let waiting: Operation[] = []
  const put = (key: string, value: unknown): void =>
    void waiting.push({ type: 'put', key: prefix + key, value })
  const flush = async (): Promise<void> => {
    const taken = waiting
    waiting = []
    await level.batch(taken)
  }
  return {
    flush,
    async take(line) {
      for (const [key, value] of entriesOf(line)) put(key, value)
      if (waiting.length >= writeEvery) await flush()
    },
    async keepNewer(before, made) {
      for await (const [key, value] of level.iterator(rangeOf(before, 't'))) {
        const known = value as RecordedTag
        if (includes(made, known)) continue
        const of = key.slice(before.length)
        put(of, value)
        const repositoryId = Number(of.split('!')[1])
        const repository = level.getSync(before + repositoryKey(repositoryId))
        if (typeof repository !== 'string') continue
        for (const [told, said] of toldWith({ repositoryId, repository }, known)) put(told, said)
      }
    },
    putEarly(tags, made) {
      for (const { place, statement } of tags) {
        if (includes(made, statement)) continue
        put(tagKey(place.repositoryId, place.tag), { ...statement, unfollowed: notYet })
        for (const [told, said] of toldWith(place, statement)) put(told, said)
      }
    },
    async keepWhole(before, followedUpTo) {
      const lacking = new Set<string>()
      let isSelected = false
      for await (const [key, value] of level.iterator(rangeOf(before, 'z'))) {
        isSelected = true
        const place = key.slice(before.length)
        const [, , repositoryId, digest] = place.split('!')
        const record = value as SelectionRecord
        if (isLacking(record)) lacking.add(`${repositoryId}!${digest}`)
        const told = level.getSync(prefix + place) as SelectionRecord | undefined
        if (told !== undefined && record.isDemoted === true)
          put(place, { ...told, isDemoted: true })
      }
      if (!isSelected) return
      for await (const [key, value] of level.iterator(rangeOf(before, 'y')))
        put(key.slice(before.length), value)
      for await (const [key, value] of level.iterator(rangeOf(before, 't'))) {
        const place = key.slice(`${before}t!`.length)
        const digest = knownBefore(value as RecordedTag, followedUpTo)
        const now = level.getSync(`${prefix}t!${place}`) as RecordedTag | undefined
        if (now === undefined || digest === undefined || now.digest === digest) continue
        if (!lacking.has(`${place.slice(0, place.indexOf('!'))}!${digest}`))
          put(`y!${place}`, digest)
      }
    },
  }
}

/** What a statement of a tag says besides: what its repository is called, and that the manifest is there. */
export function toldWith(
  { repositoryId, repository }: Pick<TagPlace, 'repositoryId' | 'repository'>,
  { digest, seq }: TagStatement,
): readonly (readonly [string, unknown])[] {
  return [
    [nameKey(repository), repositoryId],
    [repositoryKey(repositoryId), repository],
    [manifestKey(repositoryId, digest), seq],
  ]
}

import type { BatchOperation, Level } from 'level'
import type { Digest } from '../../shared/oci/digest.ts'
import type {
  EventFact,
  EventStream,
  PreheatFact,
  RuleFact,
} from '../../shared/replication/events.ts'
import {
  answerableBefore,
  edgeKey,
  followedKey,
  isGuarding,
  isLacking,
  isOf,
  keys,
  manifestKey,
  nameKey,
  pieceListKey,
  preheatKey,
  projectKey,
  rangeOf,
  repositoryKey,
  ruleKey,
  selectionKey,
  tagKey,
  type KnownRule,
  type RecordedTag,
  type SelectionRecord,
  type StreamRecord,
} from './statement-records.ts'

// What each event of the log changes in what is recorded.

export type Database = Level<string, unknown>
export type Operation = BatchOperation<Database, string, unknown>

/** An event of a stream that this edge may read, as the log tells it. */
export interface KnownEvent {
  readonly seq: number
  readonly stream: EventStream
  /** sha256, hex. */
  readonly bodyHash: string
  /** When it became true, in epoch ms by the primary's clock. */
  readonly at: number
  readonly fact: EventFact
}

/** What is recorded before some events, and of whom. */
export interface StateBefore {
  readonly level: Database
  readonly epoch: number
  readonly record: (stream: EventStream) => StreamRecord | undefined
  /** Streams whose new state begins with these events. */
  readonly begun: readonly (readonly [EventStream, StreamRecord])[]
  readonly followedUpTo: number
  /** Rules that have images answered here only when all of them is here. */
  readonly wholeRules: ReadonlySet<number>
  readonly wantsWhole: (rule: RuleFact) => boolean
}

/** What is to be written of events, at once. */
export interface Changes {
  readonly operations: readonly Operation[]
  readonly records: ReadonlyMap<EventStream, StreamRecord>
}

/** What events change, in order: they may be about one another. Those of streams that are not known are passed by. */
export async function changesOf(
  events: readonly KnownEvent[],
  state: StateBefore,
): Promise<Changes> {
  const { level, begun, wantsWhole } = state
  const operations: Operation[] = []
  const changed = new Map<string, unknown>()
  const changedRecords = new Map<EventStream, StreamRecord>(begun)
  let { followedUpTo } = state
  const wholeRules = new Set(state.wholeRules)
  const current = (key: string): unknown =>
    changed.has(key) ? changed.get(key) : level.getSync(key)
  /** A tag that a snapshot told of before it had a number: rules are waited for up to this one. */
  const followNumbered = (
    { stream, fact, seq }: KnownEvent,
    { generation }: StreamRecord,
  ): void => {
    if (fact.type !== 'tag') return
    const key = keys.state(stream, generation) + tagKey(fact.repositoryId, fact.tag)
    const known = current(key) as RecordedTag | undefined
    if (known?.digest !== fact.digest || known.unfollowed === undefined) return
    const value = { ...known, unfollowed: seq }
    changed.set(key, value)
    operations.push({ type: 'put', key, value })
  }
  for (const event of events) {
    const record = changedRecords.get(event.stream) ?? state.record(event.stream)
    if (record === undefined || !isOf(record, state.epoch) || event.seq <= record.base) continue
    if (record.ahead.includes(event.bodyHash)) {
      const ahead = record.ahead.filter((hash) => hash !== event.bodyHash)
      changedRecords.set(event.stream, { ...record, ahead })
      followNumbered(event, record)
      continue
    }
    const prefix = keys.state(event.stream, record.generation)
    const put = (key: string, value: unknown): void => {
      changed.set(prefix + key, value)
      operations.push({ type: 'put', key: prefix + key, value })
    }
    const remove = (key: string): void => {
      changed.set(prefix + key, undefined)
      operations.push({ type: 'del', key: prefix + key })
    }
    const now = (key: string): unknown => current(prefix + key)
    const removeAll = async (kind: string): Promise<void> => {
      const begin = `${prefix}${kind}!`
      for (const key of changed.keys()) if (key.startsWith(begin)) remove(key.slice(prefix.length))
      for await (const key of level.keys(rangeOf(prefix, kind))) remove(key.slice(prefix.length))
    }
    const { fact, seq } = event
    switch (fact.type) {
      case 'project':
        put(projectKey, { name: fact.name, public: fact.public })
        break
      case 'project-deleted':
        changedRecords.set(event.stream, { ...record, gone: true })
        break
      case 'repository':
        // The primary may have stated a later one of that name.
        if (((now(nameKey(fact.name)) as number | undefined) ?? 0) <= fact.repositoryId)
          put(nameKey(fact.name), fact.repositoryId)
        put(repositoryKey(fact.repositoryId), fact.name)
        break
      case 'repository-deleted':
        if (now(nameKey(fact.name)) === fact.repositoryId) remove(nameKey(fact.name))
        remove(repositoryKey(fact.repositoryId))
        await removeAll(`t!${fact.repositoryId}`)
        await removeAll(`m!${fact.repositoryId}`)
        await removeAll(`y!${fact.repositoryId}`)
        break
      case 'manifest':
        put(manifestKey(fact.repositoryId, fact.digest), seq)
        break
      case 'manifest-deleted':
        remove(manifestKey(fact.repositoryId, fact.digest))
        break
      case 'tag':
      case 'tag-deleted': {
        const key = tagKey(fact.repositoryId, fact.tag)
        const known = now(key) as RecordedTag | undefined
        if (known?.waiting !== undefined) {
          // Whatever moved the tag before that is older than what the primary stated.
          if (known.waiting.bodyHash !== event.bodyHash) break
          const { waiting: _, ...told } = known
          put(key, { ...told, seq, unfollowed: seq })
          break
        }
        // What the primary stated since then is newer.
        if (known !== undefined && known.seq > seq) {
          const isSame = fact.type === 'tag' && known.digest === fact.digest
          if (isSame) put(key, { ...known, unfollowed: seq })
        } else if (fact.type === 'tag') {
          const before = answerableBefore(known, {
            followedUpTo,
            lacks: lacksIn(wholeRules, fact.repositoryId, now),
          })
          put(key, { digest: fact.digest, seq, unfollowed: seq, ...(before && { before }) })
        } else remove(key)
        break
      }
      case 'piece-list':
        put(pieceListKey(fact.digest), fact.list)
        break
      case 'preheat': {
        const { type: _, ...preheatFact } = fact
        for await (const [key, value] of level.iterator(rangeOf(prefix, 'p')))
          if ((value as PreheatFact).until < event.at) remove(key.slice(prefix.length))
        put(preheatKey(fact.preheatId), preheatFact)
        break
      }
      case 'preheat-ended':
        remove(preheatKey(fact.preheatId))
        break
      case 'rules-followed':
        followedUpTo = Math.max(followedUpTo, fact.seq)
        put(followedKey, followedUpTo)
        break
      case 'edge': {
        const { type: _, ...rosterEdge } = fact
        put(edgeKey(fact.edgeId), rosterEdge)
        break
      }
      case 'edge-deleted':
        remove(edgeKey(fact.edgeId))
        break
      case 'rule': {
        const { type: _, ...ruleFact } = fact
        const before = now(ruleKey(fact.ruleId)) as KnownRule | undefined
        const since = isGuarding(before) ? (before?.since ?? 0) : seq
        put(ruleKey(fact.ruleId), { ...ruleFact, since })
        if (wantsWhole(ruleFact)) wholeRules.add(fact.ruleId)
        else wholeRules.delete(fact.ruleId)
        break
      }
      case 'rule-deleted':
        wholeRules.delete(fact.ruleId)
        remove(ruleKey(fact.ruleId))
        break
      case 'selected': {
        const key = selectionKey(fact.ruleId, fact.repositoryId, fact.digest)
        // What tags name already they go on naming.
        put(key, { seq, ...pickDemoted(now(key)) })
        break
      }
      case 'unselected':
        remove(selectionKey(fact.ruleId, fact.repositoryId, fact.digest))
        break
      default:
      // Of others it is enough that they were told.
    }
  }
  return { operations, records: changedRecords }
}

/** Whether some of an image is not here yet that one of these rules wants whole. @param read what is recorded under a key */
export function lacksIn(
  wholeRules: ReadonlySet<number>,
  repositoryId: number,
  read: (key: string) => unknown,
) {
  return (digest: Digest): boolean =>
    [...wholeRules].some((ruleId) => {
      const selection = read(selectionKey(ruleId, repositoryId, digest))
      return selection !== undefined && isLacking(selection as SelectionRecord)
    })
}

function pickDemoted(record: unknown): Pick<SelectionRecord, 'isDemoted'> {
  const isDemoted = (record as SelectionRecord | undefined)?.isDemoted === true
  return isDemoted ? { isDemoted } : {}
}

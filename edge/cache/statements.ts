import { Level, type BatchOperation } from 'level'
import { createLru } from '../../shared/memory/lru.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import {
  projectOfStream,
  streamOfText,
  type EventFact,
  type EventStream,
  type PreheatFact,
  type RosterEdge,
  type RuleFact,
} from '../../shared/replication/events.ts'
import type { SnapshotLine } from '../../shared/replication/feed.ts'
import {
  answerableBefore,
  edgeKey,
  entriesOf,
  followedKey,
  heldTagKey,
  isGuarding,
  isLacking,
  isOf,
  keys,
  knownBefore,
  manifestKey,
  nameKey,
  notYet,
  pieceListKey,
  preheatKey,
  projectKey,
  rangeOf,
  readCursor,
  repositoryKey,
  ruleKey,
  selectionKey,
  storedCursor,
  tagKey,
  type KnownRule,
  type RecordedHead,
  type RecordedTag,
  type SelectionRecord,
  type StreamRecord,
  type TagStatement,
} from './statement-records.ts'
import { createTurns } from './turns.ts'

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

/** A manifest that a rule brings to its edges. */
export interface Selection {
  readonly ruleId: number
  readonly projectId: number
  readonly repositoryId: number
  readonly digest: Digest
  /** The event that said so. */
  readonly seq: number
  /** Whether all of it was here once. */
  readonly isHeld: boolean
  /** A tag may name it though not all of it is here: there was no room for it, or some of it went. */
  readonly isDemoted: boolean
}

export interface ProjectStatement {
  readonly name: string
  readonly public: boolean
}

/** What a stream's state was when the primary signed it. */
export interface StreamState {
  readonly stream: EventStream
  readonly epoch: number
  readonly seq: number
  readonly ahead: readonly string[]
}

/** A snapshot on its way in: nothing of it is believed before `commit`. */
export interface SnapshotWriter {
  take(line: SnapshotLine): Promise<void>
  /**
   * Takes the place of whatever was known of the stream, at once with what the log has said of it since: a tag that
   * is answered by the one and not by the other would go back.
   */
  commit(state: StreamState, since?: SaidSince): Promise<void>
}

/** Events of a stream that came while its snapshot was on its way, and whose tokens lost their worth by them. */
export interface SaidSince {
  readonly events: readonly KnownEvent[]
  readonly revoked: Revoked
}

/** What the primary's log says, as far as this edge has recorded it: all of it synced, or none. */
export interface Statements {
  /** The log up to here is recorded; undefined before the first snapshot. */
  readonly cursor: RecordedHead | undefined
  /** When all that there was had last been recorded, in epoch ms; it survives a restart, a little late. */
  readonly currentAt: number
  /** Remembers that it is so now. */
  markCurrent(at: number): void
  /** When what is recorded last began to be answered without asking, in epoch ms; it survives a restart. */
  readonly freshFrom: number
  /** Remembers that it begins now. */
  markFreshFrom(at: number): void
  streams(): readonly EventStream[]
  /** Whether its state is that of the log; else a snapshot has to come. */
  knows(stream: EventStream): boolean
  /** Whether the log said that this project is no more. */
  isGone(projectId: number): boolean
  project(projectId: number): ProjectStatement | undefined
  /** The project that has this name now. */
  projectIdOf(name: string): number | undefined
  repositoryId(projectId: number, name: string): number | undefined
  repositoryName(projectId: number, repositoryId: number): string | undefined
  tag(projectId: number, repositoryId: number, tag: string): RecordedTag | undefined
  /** Up to here all is known that rules make of tags. */
  readonly followedSeq: number
  hasManifest(projectId: number, repositoryId: number, digest: Digest): boolean
  /** The digest of the list of a blob's pieces. */
  pieceList(projectId: number, digest: Digest): Digest | undefined
  edge(edgeId: string): RosterEdge | undefined
  /** When tokens of this subject last lost their worth, in epoch ms by the primary's clock. */
  revokedAt(subject: string): number | undefined
  edges(): Promise<readonly RosterEdge[]>
  rules(): Promise<readonly KnownRule[]>
  /** All that rules select, whichever edges they are for. */
  selections(): AsyncIterable<Selection>
  /** Preheats that were not stopped, whichever edges they are for, some that are over included. */
  preheats(): Promise<readonly PreheatFact[]>
  /** All of it is here: a tag that names it may be answered. */
  markHeld(selection: Selection): Promise<void>
  /** Not all of it is here, and it may be answered all the same. */
  demote(selection: Selection): Promise<void>
  /** What a tag named when all of that was here last; undefined: nothing that a rule wants whole. */
  heldTag(projectId: number, repositoryId: number, tag: string): Digest | undefined
  /** Records events, in order, and where the log is with them. Streams that are not known are passed by. */
  apply(events: readonly KnownEvent[], head: RecordedHead, revoked?: Revoked): Promise<void>
  /** Records a tag that the primary itself stated, unless something as new is known. */
  putTag(place: TagPlace, statement: TagStatement): Promise<void>
  startSnapshot(stream: EventStream): SnapshotWriter
  /** Forgets where the log was, which is no more; what it said stands until snapshots come. */
  restart(): Promise<void>
  /** Manifests that the log listed before it began anew, and does not list any more: somebody may need them back. */
  unlisted(): readonly Digest[]
  /** Forgets a stream, which this edge may not read any more. */
  drop(stream: EventStream): Promise<void>
  close(): Promise<void>
}

/** Subjects whose tokens lost their worth, and when. */
export type Revoked = ReadonlyMap<string, number>

export interface TagPlace {
  readonly projectId: number
  readonly repositoryId: number
  readonly tag: string
}

type Database = Level<string, unknown>
type Operation = BatchOperation<Database, string, unknown>

const writeEvery = 1000
/** Records that are held in memory: a tag that is asked for needs three. */
const hotRecords = 30_000
/** Longer than any token lives. */
const revokedForMs = 25 * 3_600_000
/** How much later than it was a restart may believe that all was known. */
const currentEveryMs = 5000

export interface StatementsOptions {
  /** Whether a rule brings images to this edge, and has none answered before all of it is here. */
  readonly wantsWhole?: (rule: RuleFact) => boolean
  /** Milliseconds for which what a new log does not list any more is remembered. */
  readonly unlistedMs?: number
  /** Epoch ms. */
  readonly now?: () => number
}

/**
 * Opens what is recorded, or begins anew.
 * @throws when the folder is damaged or another process holds it
 */
export async function openStatements(
  folder: string,
  {
    wantsWhole = () => false,
    unlistedMs = 30 * 24 * 3_600_000,
    now: clock = Date.now,
  }: StatementsOptions = {},
): Promise<Statements> {
  const level: Database = new Level(folder, { valueEncoding: 'json' })
  await level.open()
  let cursor = readCursor(level.getSync(keys.cursor))
  let currentAt = Number(level.getSync(keys.current) ?? 0)
  let writtenAt = currentAt
  let freshFrom = Number(level.getSync(keys.freshFrom) ?? 0)
  const records = new Map<EventStream, StreamRecord>()
  for await (const [key, value] of level.iterator({ gt: 's!', lt: 's"' })) {
    const stream = streamOfText(key.slice('s!'.length))
    if (stream !== undefined) records.set(stream, value as StreamRecord)
  }
  const revocations = new Map<string, number>()
  for await (const [key, value] of level.iterator({ gt: 'v!', lt: 'v"' }))
    revocations.set(key.slice('v!'.length), value as number)
  /** Until when, in epoch ms. */
  const unlisted = new Map<Digest, number>()
  for await (const [key, value] of level.iterator({ gt: 'k!', lt: 'k"' }))
    unlisted.set(key.slice('k!'.length) as Digest, value as number)
  let generations = Math.max(0, ...[...records.values()].map(({ generation }) => generation))

  const hot = createLru<string, { readonly value: unknown }>({ max: hotRecords })
  const projectStream = (projectId: number): EventStream => `project:${projectId}`
  const prefixOf = (stream: EventStream): string | undefined => {
    const record = records.get(stream)
    return record && keys.state(stream, record.generation)
  }
  const read = (stream: EventStream, key: string): unknown => {
    const prefix = prefixOf(stream)
    if (prefix === undefined) return undefined
    const known = hot.get(prefix + key)
    if (known !== undefined) return known.value
    const value: unknown = level.getSync(prefix + key)
    hot.set(prefix + key, { value })
    return value
  }
  const readFollowed = (): number => (read('system', followedKey) as number | undefined) ?? 0
  const list = async <Value>(stream: EventStream, kind: string): Promise<readonly Value[]> => {
    const prefix = prefixOf(stream)
    if (prefix === undefined) return []
    return (await level.values(rangeOf(prefix, kind)).all()) as readonly Value[]
  }
  /** Made when it is asked for; forgotten when a project, or a whole state, changes. */
  let projectIds: ReadonlyMap<string, number> | undefined
  const readProjectIds = (): ReadonlyMap<string, number> => {
    const ids = new Map<string, number>()
    for (const [stream, { gone }] of records) {
      const known =
        gone === true ? undefined : (read(stream, projectKey) as ProjectStatement | undefined)
      const projectId = projectOfStream(stream)
      if (known !== undefined && projectId !== undefined) ids.set(known.name, projectId)
    }
    return ids
  }
  /** What a crash leaves of a state that is no more is removed by the next one that takes its place. */
  const clear = (prefix: string): Promise<void> =>
    level.clear({ gt: prefix, lt: `${prefix.slice(0, -1)}"` })
  const clearOthers = async (stream: EventStream): Promise<void> => {
    const prefix = prefixOf(stream)
    const all = `x!${stream}!`
    await level.clear({ gt: all, lt: prefix ?? `x!${stream}"` })
    if (prefix !== undefined)
      await level.clear({ gt: `${prefix.slice(0, -1)}"`, lt: `x!${stream}"` })
  }

  /** Remembers what a state of a log before listed, unless this one lists it too. @param prefix undefined: all is gone */
  const keepUnlisted = async (before: string, prefix: string | undefined): Promise<void> => {
    const until = clock() + unlistedMs
    const operations: Operation[] = []
    for await (const key of level.keys(rangeOf(before, 'm'))) {
      const place = key.slice(before.length)
      if (prefix !== undefined && level.getSync(prefix + place) !== undefined) continue
      const digest = place.split('!')[2] as Digest
      unlisted.set(digest, until)
      operations.push({ type: 'put', key: keys.unlisted(digest), value: until })
    }
    for (const [digest, end] of unlisted) {
      if (end > clock()) continue
      unlisted.delete(digest)
      operations.push({ type: 'del', key: keys.unlisted(digest) })
    }
    await level.batch(operations)
  }

  /** Only one writes at a time: the feed, a snapshot's end, a stated tag. */
  const turns = createTurns()
  const inTurn = <Result>(work: () => Promise<Result>): Promise<Result> =>
    turns.inTurn('writes', work)

  /** Rules that have images answered here only when all of them is here. */
  const readWholeRules = async (): Promise<Set<number>> =>
    new Set((await list<KnownRule>('system', 'u')).filter(wantsWhole).map(({ ruleId }) => ruleId))

  const applyNow = async (
    events: readonly KnownEvent[],
    {
      head,
      revoked,
      begun = [],
    }: {
      readonly head: RecordedHead
      readonly revoked: Revoked
      /** Streams whose new state begins with this. */
      readonly begun?: readonly (readonly [EventStream, StreamRecord])[]
    },
  ): Promise<void> => {
    const operations: Operation[] = []
    for (const [subject, at] of revoked)
      operations.push({ type: 'put', key: keys.revoked(subject), value: at })
    for (const [subject, at] of revocations)
      if (at < Date.now() - revokedForMs && !revoked.has(subject)) {
        operations.push({ type: 'del', key: keys.revoked(subject) })
        revocations.delete(subject)
      }
    // Facts of one batch may be about one another.
    const changed = new Map<string, unknown>()
    const changedRecords = new Map<EventStream, StreamRecord>(begun)
    let followedUpTo = readFollowed()
    const wholeRules = events.some(({ fact }) => fact.type === 'tag')
      ? await readWholeRules()
      : new Set<number>()
    /** A tag that a snapshot told of before it had a number: rules are waited for up to this one. */
    const followNumbered = ({ fact, seq }: KnownEvent, { generation }: StreamRecord): void => {
      if (fact.type !== 'tag') return
      const key =
        keys.state(projectStream(fact.projectId), generation) + tagKey(fact.repositoryId, fact.tag)
      const known = (changed.has(key) ? changed.get(key) : level.getSync(key)) as
        RecordedTag | undefined
      if (known?.digest !== fact.digest || known.unfollowed === undefined) return
      const value = { ...known, unfollowed: seq }
      changed.set(key, value)
      operations.push({ type: 'put', key, value })
    }
    for (const event of events) {
      const record = changedRecords.get(event.stream) ?? records.get(event.stream)
      if (record === undefined || !isOf(record, head.epoch) || event.seq <= record.base) continue
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
      const now = (key: string): unknown =>
        changed.has(prefix + key) ? changed.get(prefix + key) : level.getSync(prefix + key)
      const removeAll = async (kind: string): Promise<void> => {
        const begin = `${prefix}${kind}!`
        for (const key of changed.keys())
          if (key.startsWith(begin)) remove(key.slice(prefix.length))
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
    for (const [stream, value] of changedRecords)
      operations.push({ type: 'put', key: keys.stream(stream), value })
    operations.push({ type: 'put', key: keys.cursor, value: storedCursor(head) })
    await level.batch(operations, { sync: true })
    for (const { key } of operations) hot.delete(key)
    for (const [subject, at] of revoked) revocations.set(subject, at)
    for (const [stream, record] of changedRecords) records.set(stream, record)
    if (events.some(({ fact }) => fact.type.startsWith('project'))) projectIds = undefined
    cursor = head
  }

  return {
    get cursor() {
      return cursor
    },
    get currentAt() {
      return currentAt
    },
    markCurrent(at) {
      currentAt = at
      if (at - writtenAt < currentEveryMs) return
      writtenAt = at
      level.put(keys.current, at).catch(ignore)
    },
    get freshFrom() {
      return freshFrom
    },
    markFreshFrom(at) {
      freshFrom = at
      level.put(keys.freshFrom, at).catch(ignore)
    },
    streams: () => [...records.keys()],
    knows(stream) {
      const record = records.get(stream)
      return record !== undefined && isOf(record, cursor?.epoch)
    },
    isGone: (projectId) => records.get(projectStream(projectId))?.gone === true,
    project: (projectId) =>
      read(projectStream(projectId), projectKey) as ProjectStatement | undefined,
    projectIdOf(text) {
      projectIds ??= readProjectIds()
      return projectIds.get(text)
    },
    repositoryId: (projectId, text) =>
      read(projectStream(projectId), nameKey(text)) as number | undefined,
    repositoryName: (projectId, id) =>
      read(projectStream(projectId), repositoryKey(id)) as string | undefined,
    tag(projectId, repositoryId, tag) {
      const known = read(projectStream(projectId), tagKey(repositoryId, tag)) as
        Partial<RecordedTag> | undefined
      return known?.digest === undefined ? undefined : (known as RecordedTag)
    },
    get followedSeq() {
      return readFollowed()
    },
    hasManifest: (projectId, repositoryId, digest) =>
      read(projectStream(projectId), manifestKey(repositoryId, digest)) !== undefined,
    pieceList: (projectId, digest) =>
      read(projectStream(projectId), pieceListKey(digest)) as Digest | undefined,
    edge: (edgeId) => read('system', edgeKey(edgeId)) as RosterEdge | undefined,
    edges: () => list<RosterEdge>('system', 'e'),
    rules: () => list<KnownRule>('system', 'u'),
    async preheats() {
      const found: PreheatFact[] = []
      for (const [stream, { gone }] of records)
        if (gone !== true && stream !== 'system')
          found.push(...(await list<PreheatFact>(stream, 'p')))
      return found
    },
    async *selections() {
      for (const [stream, { gone, base }] of records) {
        const prefix = prefixOf(stream)
        const projectId = projectOfStream(stream)
        if (gone === true || prefix === undefined || projectId === undefined) continue
        for await (const [key, value] of level.iterator(rangeOf(prefix, 'z'))) {
          const [, ruleId, repositoryId, digest] = key.slice(prefix.length).split('!')
          const { seq, isHeld, isDemoted } = value as SelectionRecord
          yield {
            ruleId: Number(ruleId),
            projectId,
            repositoryId: Number(repositoryId),
            digest: digest as Digest,
            seq: Math.max(seq, base),
            isHeld: isHeld === true,
            isDemoted: isDemoted === true,
          }
        }
      }
    },
    markHeld: ({ ruleId, projectId, repositoryId, digest, seq }) =>
      inTurn(async () => {
        const prefix = prefixOf(projectStream(projectId))
        if (prefix === undefined) return
        const key = prefix + selectionKey(ruleId, repositoryId, digest)
        // It may have been unselected meanwhile.
        if (level.getSync(key) === undefined) return
        const operations: Operation[] = [{ type: 'put', key, value: { seq, isHeld: true } }]
        const tags = `${prefix}t!${repositoryId}!`
        for await (const [tag, value] of level.iterator({
          gt: tags,
          lt: `${tags.slice(0, -1)}"`,
        })) {
          if ((value as Partial<TagStatement>).digest !== digest) continue
          const key = prefix + heldTagKey(repositoryId, tag.slice(tags.length))
          operations.push({ type: 'put', key, value: digest })
        }
        await level.batch(operations)
        for (const { key } of operations) hot.delete(key)
      }),
    demote: ({ ruleId, projectId, repositoryId, digest, seq }) =>
      inTurn(async () => {
        const prefix = prefixOf(projectStream(projectId))
        if (prefix === undefined) return
        const key = prefix + selectionKey(ruleId, repositoryId, digest)
        if (level.getSync(key) === undefined) return
        await level.put(key, { seq, isDemoted: true }, { sync: true })
      }),
    heldTag: (projectId, repositoryId, tag) =>
      read(projectStream(projectId), heldTagKey(repositoryId, tag)) as Digest | undefined,
    apply: (events, head, revoked = new Map()) => inTurn(() => applyNow(events, { head, revoked })),
    revokedAt: (subject) => revocations.get(subject),
    putTag: ({ projectId, repositoryId, tag }, statement) =>
      inTurn(async () => {
        const record = records.get(projectStream(projectId))
        const prefix = prefixOf(projectStream(projectId))
        if (record === undefined || prefix === undefined) return
        if (cursor === undefined || !isOf(record, cursor.epoch)) return
        // What the log, or the stream's snapshot, has told up to here says at least as much.
        if (statement.seq <= Math.max(cursor.seq, record.base)) return
        const key = prefix + tagKey(repositoryId, tag)
        const known = level.getSync(key) as RecordedTag | undefined
        if (known !== undefined && known.seq >= statement.seq) return
        const before = answerableBefore(known, {
          followedUpTo: readFollowed(),
          lacks: lacksIn(await readWholeRules(), repositoryId, (of) => level.getSync(prefix + of)),
        })
        const value: RecordedTag =
          known?.digest === statement.digest
            ? { ...known, seq: statement.seq }
            : { ...statement, unfollowed: notYet, ...(before && { before }) }
        await level.put(key, value, { sync: true })
        hot.delete(key)
      }),
    startSnapshot(stream) {
      generations++
      const generation = generations
      const prefix = keys.state(stream, generation)
      let waiting: Operation[] = []
      /** What the primary itself stated of a tag after the snapshot was made. */
      const keepNewer = async (before: string, seq: number): Promise<void> => {
        for await (const [key, value] of level.iterator(rangeOf(before, 't')))
          if ((value as { readonly seq: number }).seq > seq)
            waiting.push({ type: 'put', key: prefix + key.slice(before.length), value })
      }
      /** Images that tags named of which all is here: they stay answered until all of the new ones is. */
      const keepWhole = async (before: string): Promise<void> => {
        const lacking = new Set<string>()
        let isSelected = false
        for await (const [key, value] of level.iterator(rangeOf(before, 'z'))) {
          isSelected = true
          const [, , repositoryId, digest] = key.slice(before.length).split('!')
          const record = value as SelectionRecord
          if (isLacking(record)) lacking.add(`${repositoryId}!${digest}`)
          const place = prefix + key.slice(before.length)
          const told = level.getSync(place) as SelectionRecord | undefined
          if (told !== undefined && record.isDemoted === true)
            waiting.push({ type: 'put', key: place, value: { ...told, isDemoted: true } })
        }
        if (!isSelected) return
        const keep = (key: string, digest: Digest): void =>
          void waiting.push({ type: 'put', key: `${prefix}y!${key}`, value: digest })
        for await (const [key, value] of level.iterator(rangeOf(before, 'y')))
          keep(key.slice(`${before}y!`.length), value as Digest)
        for await (const [key, value] of level.iterator(rangeOf(before, 't'))) {
          const place = key.slice(`${before}t!`.length)
          const digest = knownBefore(value as RecordedTag, readFollowed())
          const now = level.getSync(`${prefix}t!${place}`) as RecordedTag | undefined
          if (now === undefined || digest === undefined || now.digest === digest) continue
          if (!lacking.has(`${place.slice(0, place.indexOf('!'))}!${digest}`)) keep(place, digest)
        }
      }
      const flush = async (): Promise<void> => {
        const taken = waiting
        waiting = []
        await level.batch(taken)
      }
      return {
        async take(line) {
          for (const [key, value] of entriesOf(line))
            waiting.push({ type: 'put', key: prefix + key, value })
          if (waiting.length >= writeEvery) await flush()
        },
        commit: ({ epoch, seq, ahead }, { events, revoked } = { events: [], revoked: new Map() }) =>
          inTurn(async () => {
            const before = prefixOf(stream)
            const known = records.get(stream)
            // Numbers of another log say nothing.
            if (before !== undefined && known !== undefined && isOf(known, epoch))
              await keepNewer(before, seq)
            await flush()
            if (before !== undefined) await keepWhole(before)
            await flush()
            if (before !== undefined && known !== undefined && !isOf(known, epoch))
              await keepUnlisted(before, prefix)
            const record: StreamRecord = { epoch, generation, base: seq, ahead }
            if (cursor === undefined) {
              await level.put(keys.stream(stream), record, { sync: true })
              records.set(stream, record)
            } else await applyNow(events, { head: cursor, revoked, begun: [[stream, record]] })
            hot.clear()
            projectIds = undefined
            await clearOthers(stream)
          }),
      }
    },
    restart: () =>
      inTurn(async () => {
        const stale = [...records].map(([of, record]) => [of, { ...record, stale: true }] as const)
        await level.batch<string, unknown>(
          [
            { type: 'del', key: keys.cursor },
            ...stale.map(([of, value]) => ({ type: 'put', key: keys.stream(of), value }) as const),
          ],
          { sync: true },
        )
        for (const [of, record] of stale) records.set(of, record)
        cursor = undefined
      }),
    unlisted: () => [...unlisted].filter(([, end]) => end > clock()).map(([digest]) => digest),
    drop: (stream) =>
      inTurn(async () => {
        const prefix = prefixOf(stream)
        // Else it is still there, and not for this edge.
        if (prefix !== undefined && records.get(stream)?.stale === true)
          await keepUnlisted(prefix, undefined)
        await level.del(keys.stream(stream), { sync: true })
        records.delete(stream)
        projectIds = undefined
        if (prefix !== undefined) await clear(prefix)
      }),
    async close() {
      await inTurn(() => level.close())
    },
  }
}

/** Whether some of an image is not here yet that one of these rules wants whole. @param read what is recorded under a key */
function lacksIn(
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

function ignore(): void {
  // Whoever wrote was told.
}

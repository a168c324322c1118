import { Level } from 'level'
import { createLru } from '../../shared/memory/lru.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import {
  projectOfStream,
  streamOfText,
  type EventStream,
  type PreheatFact,
  type RosterEdge,
  type RuleFact,
} from '../../shared/replication/events.ts'
import type { SnapshotLine } from '../../shared/replication/feed.ts'
import {
  answerableBefore,
  edgeKey,
  followedKey,
  heldTagKey,
  includes,
  isLater,
  isOf,
  keys,
  manifestKey,
  nameKey,
  notYet,
  pieceListKey,
  projectKey,
  rangeOf,
  readCursor,
  repositoryKey,
  selectionKey,
  storedCursor,
  tagKey,
  type KnownRule,
  type RecordedHead,
  type RecordedTag,
  type SelectionRecord,
  type StreamRecord,
  type TagStatement,
  type TagPlace,
} from './statement-records.ts'
import { createEarlyTags } from './early-tags.ts'
import {
  changesOf,
  lacksIn,
  type Database,
  type KnownEvent,
  type Operation,
} from './statement-events.ts'
import { createStateWriter, toldWith } from './statement-snapshots.ts'
import { createTurns } from './turns.ts'

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
  /**
   * Records a tag that the primary itself stated, unless something as new is known. What it says of a stream whose
   * state is not here waits for that.
   */
  putTag(place: TagPlace, statement: StatedTagAt): Promise<void>
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

/** What the primary said of a tag, by the numbers of one log. */
export interface StatedTagAt extends TagStatement {
  readonly epoch: number
}

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
  const early = createEarlyTags()
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
    const changes = await changesOf(events, {
      level,
      epoch: head.epoch,
      record: (stream) => records.get(stream),
      begun,
      followedUpTo: readFollowed(),
      wholeRules: events.some(({ fact }) => fact.type === 'tag')
        ? await readWholeRules()
        : new Set(),
      wantsWhole,
    })
    operations.push(...changes.operations)
    for (const [stream, value] of changes.records)
      operations.push({ type: 'put', key: keys.stream(stream), value })
    operations.push({ type: 'put', key: keys.cursor, value: storedCursor(head) })
    await level.batch(operations, { sync: true })
    for (const { key } of operations) hot.delete(key)
    for (const [subject, at] of revoked) revocations.set(subject, at)
    for (const [stream, record] of changes.records) records.set(stream, record)
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
    putTag: (place, { epoch, ...statement }) =>
      inTurn(async () => {
        const { projectId, repositoryId, tag } = place
        const stream = projectStream(projectId)
        const record = records.get(stream)
        const prefix = prefixOf(stream)
        if (record === undefined || prefix === undefined || !isOf(record, epoch)) {
          early.put(stream, { place, statement, epoch })
          return
        }
        if (cursor?.epoch !== epoch || includes(record, statement)) return
        // What the log has told up to here says at least as much: what waits is numbered next.
        const { seq, waiting } = statement
        if (seq < cursor.seq || (seq === cursor.seq && waiting === undefined)) return
        const key = prefix + tagKey(repositoryId, tag)
        const known = level.getSync(key) as RecordedTag | undefined
        if (known !== undefined && !isLater(statement, known)) return
        const before = answerableBefore(known, {
          followedUpTo: readFollowed(),
          lacks: lacksIn(await readWholeRules(), repositoryId, (of) => level.getSync(prefix + of)),
        })
        const { waiting: _, ...rest } = known ?? {}
        const value: RecordedTag =
          known?.digest === statement.digest
            ? { ...rest, ...statement }
            : { ...statement, unfollowed: notYet, ...(before && { before }) }
        const operations: Operation[] = [
          { type: 'put', key, value },
          ...toldWith(place, statement).map(
            ([of, told]) => ({ type: 'put', key: prefix + of, value: told }) as const,
          ),
        ]
        await level.batch(operations, { sync: true })
        for (const each of operations) hot.delete(each.key)
      }),
    startSnapshot(stream) {
      generations++
      const generation = generations
      const prefix = keys.state(stream, generation)
      const writer = createStateWriter(level, prefix)
      return {
        take: writer.take,
        commit: ({ epoch, seq, ahead }, { events, revoked } = { events: [], revoked: new Map() }) =>
          inTurn(async () => {
            const before = prefixOf(stream)
            const known = records.get(stream)
            const record: StreamRecord = { epoch, generation, base: seq, ahead }
            // Numbers of another log say nothing.
            if (before !== undefined && known !== undefined && isOf(known, epoch))
              await writer.keepNewer(before, record)
            writer.putEarly(early.take(stream, epoch), record)
            await writer.flush()
            if (before !== undefined) await writer.keepWhole(before, readFollowed())
            await writer.flush()
            if (before !== undefined && known !== undefined && !isOf(known, epoch))
              await keepUnlisted(before, prefix)
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

function ignore(): void {
  // Whoever wrote was told.
}

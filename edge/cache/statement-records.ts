import type { Digest } from '../../shared/oci/digest.ts'
import type { LogHead } from '../../shared/replication/chain.ts'
import type { RuleFact } from '../../shared/replication/events.ts'
import type { SnapshotLine } from '../../shared/replication/feed.ts'
import type { WaitingMove } from '../../shared/replication/signed-tag.ts'
import type { Envelope } from '../../shared/trust/statement.ts'

// How what the primary's log says lies on the disk: under which keys, and in which form.

/** Where a tag points, and the event that the primary knew when it said so. */
export interface TagStatement {
  readonly digest: Digest
  readonly seq: number
  /** What made it so is told after that event: whatever moves the tag before it is older. */
  readonly waiting?: WaitingMove
}

export interface TagPlace {
  readonly projectId: number
  readonly repositoryId: number
  /** The whole name of the repository. */
  readonly repository: string
  readonly tag: string
}

/** Whether the primary said the one after the other. */
export function isLater(one: TagStatement, other: TagStatement): boolean {
  return (one.seq - other.seq || (one.waiting?.id ?? 0) - (other.waiting?.id ?? 0)) > 0
}

/** Whether a stream's state, as it was made, holds what a statement says, or what came after it. */
export function includes(
  { base, ahead }: Pick<StreamRecord, 'base' | 'ahead'>,
  { seq, waiting }: TagStatement,
): boolean {
  if (seq !== base) return seq < base
  return waiting === undefined || ahead.includes(waiting.bodyHash)
}

/** A tag as it is recorded. */
export interface RecordedTag extends TagStatement {
  /** What rules make of it is known once they have been followed up to this event; absent: it is. */
  readonly unfollowed?: number
  /** What it named when that was last known of it. */
  readonly before?: Digest
}

/** A rule, and since when it says what it does of tags. */
export interface KnownRule extends RuleFact {
  /** Tags that moved up to this event it does not hold back; absent: 0. */
  readonly since?: number
}

/** Where the log is, and by what that is shown to who does not know it any more. */
export interface RecordedHead extends LogHead {
  /** As a key of the log signed it. */
  readonly proof?: Envelope
}

/** Where a stream's state stands. */
export interface StreamRecord {
  /** Of the log that told it; what another one tells is fetched whole. */
  readonly epoch?: number
  /** Tells its keys from those of a state before. */
  readonly generation: number
  /** Its state holds all up to this event. */
  readonly base: number
  /** Bodies that it holds already, though they are numbered later. */
  readonly ahead: readonly string[]
  /** The project is gone: so is all that was said in it. */
  readonly gone?: boolean
  /** The log does not reach back to it: it stands until a snapshot takes its place. */
  readonly stale?: boolean
}

/** What is recorded of a selection. */
export interface SelectionRecord {
  readonly seq: number
  readonly isHeld?: boolean
  readonly isDemoted?: boolean
}

/** Whether a tag may not name it where a rule wants it whole. */
export function isLacking({ isHeld, isDemoted }: SelectionRecord): boolean {
  return isHeld !== true && isDemoted !== true
}

export const keys = {
  cursor: 'c!cursor',
  current: 'c!current',
  stream: (stream: string) => `s!${stream}`,
  revoked: (subject: string) => `v!${subject}`,
  unlisted: (digest: string) => `k!${digest}`,
  /** All of a stream's state. */
  state: (stream: string, generation: number) => `x!${stream}!${generation}!`,
} as const
// Behind a state's prefix. '!' is in no name, and sorts below all that is.
export const projectKey = 'i'
export const followedKey = 'f'
export const nameKey = (text: string) => `n!${text}`
export const repositoryKey = (id: number) => `r!${id}`
export const tagKey = (id: number, tag: string) => `t!${id}!${tag}`
export const manifestKey = (id: number, digest: string) => `m!${id}!${digest}`
export const edgeKey = (id: string) => `e!${id}`
export const ruleKey = (id: number) => `u!${id}`
export const selectionKey = (ruleId: number, repositoryId: number, digest: string) =>
  `z!${ruleId}!${repositoryId}!${digest}`
export const preheatKey = (id: number) => `p!${id}`
export const pieceListKey = (digest: string) => `l!${digest}`
export const heldTagKey = (id: number, tag: string) => `y!${id}!${tag}`

/** All that is of one kind behind a state's prefix, or behind one of that kind: `t`, `t!7`. */
export function rangeOf(
  prefix: string,
  kind: string,
): { readonly gt: string; readonly lt: string } {
  return { gt: `${prefix}${kind}!`, lt: `${prefix}${kind}"` }
}

/** The log has not told of it yet. */
export const notYet = Number.MAX_SAFE_INTEGER

/** What a tag named last of which it is known what rules make of it. */
export function knownBefore(
  known: RecordedTag | undefined,
  followedUpTo: number,
): Digest | undefined {
  if (known === undefined) return undefined
  return (known.unfollowed ?? 0) <= followedUpTo ? known.digest : known.before
}

/**
 * What may be answered instead of what a tag names next, until that is known and here: what it named last of which the
 * same is true. A rule may let go of an image before all of it has come.
 */
export function answerableBefore(
  known: RecordedTag | undefined,
  {
    followedUpTo,
    lacks,
  }: { readonly followedUpTo: number; readonly lacks: (digest: Digest) => boolean },
): Digest | undefined {
  const last = knownBefore(known, followedUpTo)
  return last !== undefined && lacks(last) ? known?.before : last
}

export function isGuarding(known: KnownRule | undefined): boolean {
  return known?.enabled === true && known.guards !== undefined
}

export function entriesOf(line: SnapshotLine): readonly (readonly [string, unknown])[] {
  if ('edge' in line) return [[edgeKey(line.edge.edgeId), line.edge]]
  if ('ruleFact' in line) return [[ruleKey(line.ruleFact.ruleId), line.ruleFact]]
  if ('pieceList' in line) return [[pieceListKey(line.pieceList.digest), line.pieceList.list]]
  if ('preheat' in line) return [[preheatKey(line.preheat.preheatId), line.preheat]]
  if ('rulesFollowed' in line) return [[followedKey, line.rulesFollowed]]
  if ('rule' in line) return [[selectionKey(line.rule, line.repository, line.selected), { seq: 0 }]]
  if ('project' in line) return [[projectKey, { name: line.project, public: line.public }]]
  if ('name' in line)
    return [
      [nameKey(line.name), line.repository],
      [repositoryKey(line.repository), line.name],
    ]
  if ('tag' in line) {
    const { digest, unfollowed } = line
    const since = unfollowed === 'next' ? notYet : unfollowed
    const value = { digest, seq: 0, ...(since !== undefined && { unfollowed: since }) }
    return [[tagKey(line.repository, line.tag), value]]
  }
  return [[manifestKey(line.repository, line.manifest), 0]]
}

export interface StoredCursor extends Omit<RecordedHead, 'hash'> {
  /** Hex. */
  readonly hash: string
}

export function storedCursor({ hash, ...head }: RecordedHead): StoredCursor {
  return { ...head, hash: hash.toString('hex') }
}

export function readCursor(value: unknown): RecordedHead | undefined {
  if (value === undefined) return undefined
  const { hash, ...head } = value as StoredCursor
  return { ...head, hash: Buffer.from(hash, 'hex') }
}

/** Whether a state is of the log of this epoch; the first one is not written down. */
export function isOf(
  { epoch: told = 1, stale = false }: StreamRecord,
  epoch: number | undefined,
): boolean {
  return !stale && told === epoch
}

import { randomUUID } from 'node:crypto'
import type { Digest } from '../../shared/oci/digest.ts'
import type { Tag } from '../../shared/oci/reference.ts'
import { createTurns } from './turns.ts'

/** GETs of one manifest of the primary, by one tag or by its digest. */
export interface Pulls {
  readonly repositoryId: number
  readonly digest: Digest
  /** undefined: by its digest. */
  readonly tag: Tag | undefined
  readonly count: number
  /** The last of them, in epoch ms by this edge's clock. */
  readonly lastAt: number
}

/** What the primary is told as one: it counts once, by its log and number. */
export interface PullBatch {
  /** A UUID: of the folder, so that numbers that begin again mean others. */
  readonly log: string
  readonly n: number
  readonly pulls: readonly Pulls[]
}

/** Where the log lies on the disk. */
export interface PullRecords {
  list(): Promise<readonly (readonly [string, unknown])[]>
  /** Writes all or nothing; undefined removes. Without `sync` a crash may undo it. */
  write(changes: ReadonlyMap<string, unknown>, options: { readonly sync: boolean }): Promise<void>
}

/** Pulls on their way to the primary: what is recorded is told, and counts once, whatever happens in between. */
export interface PullLog {
  /**
   * Records pulls, synced.
   * @throws when the disk fails: then they are kept in memory, and written with the next ones
   */
  record(pulls: readonly Pulls[]): Promise<void>
  /**
   * The batch that comes next: the same until it is acknowledged; undefined when there is nothing to tell.
   * @throws when the disk fails
   */
  next(): Promise<PullBatch | undefined>
  /** The primary has counted all batches up to this one. @throws when the disk fails; it is so all the same */
  acknowledge(n: number): Promise<void>
  /** Pulls that the primary has not acknowledged. */
  readonly waiting: number
}

export interface PullLogOptions {
  readonly records: PullRecords
  /** Manifests and tags that one batch may hold. */
  readonly batchPulls: number
  /** Manifests and tags that may wait, besides the batch on its way: then what was pulled longest ago goes. */
  readonly mostWaiting: number
  /** Told of pulls that will not be told. */
  readonly onLost: (count: number) => void
}

const logKey = 'log'
const batchKey = 'batch'
const waitingPrefix = 'waiting!'

interface LogRecord {
  readonly log: string
  /** The last number that was given. */
  readonly n: number
}

type BatchRecord = Pick<PullBatch, 'n' | 'pulls'>

interface Waiting extends Pulls {
  /** Whether the disk may have something under its key: a write that failed may have been made. */
  isOnDisk: boolean
  isDirty: boolean
}

/**
 * Opens the log. What was pulled is numbered when the batch before has been acknowledged, and until then it is one line for
 * each manifest and tag, however often it is pulled: an outage costs no more room than what there is to pull.
 */
export async function openPullLog(options: PullLogOptions): Promise<PullLog> {
  const { records, batchPulls, mostWaiting, onLost } = options
  const turns = createTurns()
  const inTurn = <Result>(work: () => Promise<Result>) => turns.inTurn('log', work)
  const { log, waiting, ...last } = await readLog(records)
  let { n, batch } = last

  const merge = (pulls: Pulls): void => {
    const key = keyOf(pulls)
    const known = waiting.get(key)
    // To the end: the first ones are those that were pulled longest ago.
    waiting.delete(key)
    waiting.set(key, {
      ...pulls,
      count: pulls.count + (known?.count ?? 0),
      lastAt: Math.max(pulls.lastAt, known?.lastAt ?? 0),
      isOnDisk: known?.isOnDisk ?? false,
      isDirty: true,
    })
  }
  /** Writes what is not written; what may be numbered now is so at once, in the same write. */
  const flush = async (): Promise<void> => {
    const changes = new Map<string, unknown>()
    const lines = [...waiting]
    const taken = batch === undefined ? lines.slice(0, batchPulls) : []
    const rest = lines.slice(taken.length)
    const kept = rest.slice(Math.max(0, rest.length - mostWaiting))
    for (const [key, line] of rest.slice(0, rest.length - kept.length)) {
      waiting.delete(key)
      if (line.isOnDisk) changes.set(waitingPrefix + key, undefined)
      onLost(line.count)
    }
    for (const [key, { isOnDisk }] of taken)
      if (isOnDisk) changes.set(waitingPrefix + key, undefined)
    const next = { n: n + 1, pulls: taken.map(([, line]) => pullsOf(line)) }
    if (taken.length > 0) {
      changes.set(batchKey, next satisfies BatchRecord)
      changes.set(logKey, { log, n: next.n } satisfies LogRecord)
    }
    const dirty = kept.filter(([, line]) => line.isDirty)
    for (const [key, line] of dirty) {
      changes.set(waitingPrefix + key, pullsOf(line))
      line.isOnDisk = true
    }
    if (changes.size === 0) return
    await records.write(changes, { sync: true })
    for (const [, line] of dirty) line.isDirty = false
    if (taken.length === 0) return
    for (const [key] of taken) waiting.delete(key)
    n = next.n
    batch = next
  }
  return {
    record: (pulls) =>
      inTurn(async () => {
        for (const one of pulls) merge(one)
        await flush()
      }),
    next: () =>
      inTurn(async () => {
        if (batch === undefined) await flush()
        return batch && { log, ...batch }
      }),
    acknowledge: (acknowledged) =>
      inTurn(async () => {
        const changes = new Map<string, unknown>()
        // A folder that was put back from a copy gives numbers that were given before.
        if (acknowledged > n) {
          n = acknowledged
          changes.set(logKey, { log, n } satisfies LogRecord)
        }
        if (batch !== undefined && batch.n <= acknowledged) {
          batch = undefined
          changes.set(batchKey, undefined)
        }
        // Undone by a crash, it is told again, and does not count again.
        if (changes.size > 0) await records.write(changes, { sync: false })
      }),
    get waiting() {
      return sum(batch?.pulls ?? []) + sum(waiting.values())
    },
  }
}

/** What the disk has; a log of its own where there is none. */
async function readLog(records: PullRecords) {
  let record: LogRecord = { log: randomUUID(), n: 0 }
  let batch: BatchRecord | undefined
  const lines: (readonly [string, Waiting])[] = []
  for (const [key, value] of await records.list()) {
    if (key === logKey) record = value as LogRecord
    else if (key === batchKey) batch = value as BatchRecord
    else if (key.startsWith(waitingPrefix)) {
      const pulls = value as Pulls
      lines.push([keyOf(pulls), { ...pulls, isOnDisk: true, isDirty: false }])
    }
  }
  const oldestFirst = lines.sort(([, one], [, other]) => one.lastAt - other.lastAt)
  return { ...record, batch, waiting: new Map(oldestFirst) }
}

/** Neither a digest nor a tag has a '!'. */
function keyOf({ repositoryId, digest, tag }: Pulls): string {
  return `${repositoryId}!${digest}!${tag ?? ''}`
}

function pullsOf({ repositoryId, digest, tag, count, lastAt }: Pulls): Pulls {
  return { repositoryId, digest, tag, count, lastAt }
}

function sum(pulls: Iterable<Pulls>): number {
  let all = 0
  for (const { count } of pulls) all += count
  return all
}

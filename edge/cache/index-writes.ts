import { mkdir, rm, statfs, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { BatchOperation, Level } from 'level'

type Database = Level<string, unknown>

/** Writes to the index, which get over a disk that was full, read-only or gone. */
export interface IndexWrites {
  put(key: string, value: unknown, options?: { readonly sync: boolean }): Promise<void>
  del(key: string): Promise<void>
  batch(
    operations: BatchOperation<Database, string, unknown>[],
    options?: { readonly sync: boolean },
  ): Promise<void>
  /** Closes the database. */
  close(): Promise<void>
}

/** LevelDB's log and what is made of it are 4 MiB each; others may write meanwhile. */
const roomBytes = 16 * 2 ** 20
/** How long a write fails at once after one that failed: each try looks at the disk. */
const pauseMs = 1000
const probeKey = 'c!probe'

/**
 * A write that fails may leave half a record at the log's end, and LevelDB goes on behind it: the next start would
 * find nothing of that. A compaction that fails even has all later writes refused. So after a failure nothing is
 * written until the disk is well, and then to a new log.
 * @param now milliseconds of a clock that only goes forward
 */
export function createIndexWrites(
  level: Database,
  folder: string,
  now: () => number = () => performance.now(),
): IndexWrites {
  let trouble: { readonly error: unknown; readonly at: number } | undefined
  let mending: Promise<void> | undefined
  let closed = false

  const mendOnce = (last: NonNullable<typeof trouble>): Promise<void> => {
    if (mending === undefined && (closed || now() - last.at < pauseMs)) throw last.error
    mending ??= mend(level, folder)
      .then(
        () => {
          trouble = undefined
        },
        (error: unknown) => {
          trouble = { error, at: now() }
          throw error
        },
      )
      .finally(() => {
        mending = undefined
      })
    return mending
  }
  const write = async (work: () => Promise<void>): Promise<void> => {
    if (trouble !== undefined) await mendOnce(trouble)
    try {
      await work()
    } catch (error) {
      trouble ??= { error, at: now() }
      throw error
    }
  }
  return {
    put: (key, value, options = { sync: false }) => write(() => level.put(key, value, options)),
    del: (key) => write(() => level.del(key)),
    batch: (operations, options = { sync: false }) => write(() => level.batch(operations, options)),
    async close() {
      closed = true
      await mending?.catch(() => undefined)
      await level.close()
    },
  }
}

/** @throws when the disk is not well */
async function mend(level: Database, folder: string): Promise<void> {
  await proveDisk(folder)
  await beginLog(level)
  try {
    await level.put(probeKey, true, { sync: true })
  } catch {
    // A compaction has failed before. All that was written lies in logs, which are read again.
    await level.close()
    await level.open()
    await level.put(probeKey, true, { sync: true })
  }
}

/** A compaction on a disk that is not well would make it worse. */
async function proveDisk(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const { bavail, bsize } = await statfs(folder)
  if (bavail * bsize < roomBytes) throw new Error('the disk has no room for the index')
  const probe = join(folder, 'probe')
  await writeFile(probe, 'probe', { flush: true })
  await rm(probe)
}

/** A compaction, of no keys at all, begins with what is in memory, and that with a new log. */
async function beginLog(level: Database & Partial<Compacting>): Promise<void> {
  if (level.status === 'open') await level.compactRange?.('!', '!')
}

/** What `level` has on Node, where it is classic-level. */
interface Compacting {
  compactRange(start: string, end: string): Promise<void>
}

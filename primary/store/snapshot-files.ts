import { createHash, randomUUID } from 'node:crypto'
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Readable } from 'node:stream'
import { isMissing } from '../../shared/files/open-files.ts'
import type { LogPlace } from '../../shared/replication/chain.ts'
import type { EventStream } from '../../shared/replication/events.ts'
import type { SnapshotStatement } from '../../shared/replication/feed.ts'
import { signStatement, statementTypes } from '../../shared/trust/statement.ts'
import type { KeyRing } from './keys.ts'
import type { Snapshots } from './snapshots.ts'

export interface StreamSnapshots {
  /** A stream's whole state after this event, and not much older than now, signed by its last line. The caller reads or destroys it. */
  open(stream: EventStream, after: number): Promise<Readable>
}

export interface StreamSnapshotsDeps {
  /** Where the files lie; what is there from before is removed. */
  readonly folder: string
  readonly snapshots: Snapshots
  readonly signing: () => KeyRing['signing']
  /** Where the log is. */
  readonly place: () => LogPlace
}

/** A snapshot this far behind the log is made anew: what follows it comes by the feed. */
const maxBehind = 1000

interface Made extends LogPlace {
  readonly path: string
  readonly kid: string
}

/** Files that many edges read, made when one is first asked for. */
export async function createStreamSnapshots({
  folder,
  snapshots,
  signing,
  place,
}: StreamSnapshotsDeps): Promise<StreamSnapshots> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  for (const name of await readdir(folder)) await rm(join(folder, name))
  const made = new Map<EventStream, Made>()
  const making = new Map<EventStream, Promise<Made>>()

  const isGood = ({ epoch, seq, kid }: Made): boolean => {
    const now = place()
    return epoch === now.epoch && now.seq - seq <= maxBehind && kid === signing().kid
  }
  const make = async (stream: EventStream): Promise<Made> => {
    const { kid, privateKey } = signing()
    const path = join(folder, `${stream.replace(':', '-')}-${randomUUID()}.ndjson`)
    const place = await write(path, stream, { snapshots, key: { kid, privateKey } })
    const before = made.get(stream)
    const now = { ...place, path, kid }
    made.set(stream, now)
    // Who reads it has it open.
    if (before !== undefined) await rm(before.path, { force: true })
    return now
  }
  const current = async (stream: EventStream, after: number): Promise<Made> => {
    const known = made.get(stream)
    if (known !== undefined && known.seq >= after && isGood(known)) return known
    const running = making.get(stream) ?? make(stream).finally(() => void making.delete(stream))
    making.set(stream, running)
    const now = await running
    // The one that was being made began before.
    return now.seq >= after ? now : current(stream, after)
  }
  return {
    async open(stream, after) {
      for (;;) {
        const { path } = await current(stream, after)
        try {
          return (await open(path)).createReadStream()
        } catch (error) {
          // A newer one took its place in between.
          if (!isMissing(error) || made.get(stream)?.path === path) throw error
        }
      }
    },
  }
}

const bufferBytes = 64 * 1024

async function write(
  path: string,
  stream: EventStream,
  { snapshots, key }: { readonly snapshots: Snapshots; readonly key: KeyRing['signing'] },
): Promise<LogPlace> {
  const partial = `${path}.part`
  const file = await open(partial, 'wx', 0o600)
  try {
    const hash = createHash('sha256')
    let lines = ''
    const flush = async (): Promise<void> => {
      hash.update(lines)
      await file.writeFile(lines)
      lines = ''
    }
    const { head, ahead } = await snapshots.read(stream, async (line) => {
      lines += `${JSON.stringify(line)}\n`
      if (lines.length >= bufferBytes) await flush()
    })
    await flush()
    const { epoch, seq } = head
    const statement: SnapshotStatement = {
      stream,
      epoch,
      at: Date.now(),
      seq,
      hash: head.hash.toString('hex'),
      digest: hash.digest('hex'),
      ahead,
    }
    const signed = signStatement(statementTypes.snapshot, statement, key)
    await file.writeFile(`${JSON.stringify({ signed })}\n`)
    await rename(partial, path)
    return { epoch, seq }
  } catch (error) {
    await rm(partial, { force: true })
    throw error
  } finally {
    await file.close()
  }
}

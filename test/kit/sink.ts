import { constants } from 'node:fs'
import { mkdtemp, open, readFile, rename, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { OpenedSink, Sink, SinkProgress } from '../../shared/fill/sink.ts'

/** A place for one blob in a temporary folder, with a disk that can fail. */
export interface TestDisk {
  /** What a fill is given; a later call finds what an earlier one left. */
  openSink(): Promise<OpenedSink>
  /** From now on, writes (or the opening) fail with this code: ENOSPC, EIO. */
  fail(step: 'open' | 'write' | 'read' | 'sync' | 'commit', code: string, after?: number): void
  /** Waits before each write and sync, to be slow. */
  delayMs: number
  /** As `delayMs`, before each read. */
  readDelayMs: number
  /** In the order they happened: `write`, `sync`, `save`, `cut`, `commit`, `discard`, `close`. */
  readonly steps: string[]
  readonly progress: SinkProgress | undefined
  /** The published blob; undefined when it is not. */
  content(): Promise<Buffer | undefined>
  /** Sinks opened and not closed. */
  readonly openSinks: number
  /** Overwrites a byte of the unfinished file, as a failing disk would. */
  corrupt(offset: number): Promise<void>
  remove(): Promise<void>
}

export async function createTestDisk(): Promise<TestDisk> {
  const folder = await mkdtemp(join(tmpdir(), 'outport-sink-'))
  const [partial, final] = [join(folder, 'partial'), join(folder, 'blob')]
  const failures = new Map<string, { code: string; after: number }>()
  const steps: string[] = []
  let progress: SinkProgress | undefined
  let openSinks = 0

  async function step(name: string): Promise<void> {
    if (name !== 'read') steps.push(name)
    const failure = failures.get(name)
    if (failure !== undefined && failure.after-- <= 0)
      throw Object.assign(new Error(`${failure.code}: ${name}`), { code: failure.code })
    if (disk.readDelayMs > 0 && name === 'read') await delay(disk.readDelayMs)
    if (disk.delayMs > 0 && (name === 'write' || name === 'sync')) await delay(disk.delayMs)
  }

  async function openSink(): Promise<OpenedSink> {
    await step('open')
    // What is there stays, as in the edge's cache: bytes of an earlier run may lie behind the blob's end.
    const file = await open(partial, constants.O_RDWR | constants.O_CREAT)
    openSinks++
    let closed = false
    const sink: Sink = {
      async write(buffer, offset) {
        await step('write')
        await file.write(buffer, 0, buffer.length, offset)
      },
      async read(buffer, offset) {
        await step('read')
        return (await file.read(buffer, 0, buffer.length, offset)).bytesRead
      },
      async sync() {
        await step('sync')
        await file.datasync()
      },
      async saveProgress(saved) {
        await step('save')
        progress = saved
      },
      async commit(size) {
        if ((await file.stat()).size > size) {
          await step('cut')
          await file.truncate(size)
        }
        await sink.sync()
        await step('commit')
        await rename(partial, final)
        progress = undefined
      },
      async discard() {
        await step('discard')
        await rm(partial, { force: true })
        progress = undefined
      },
      async close() {
        await step('close')
        if (closed) throw new Error('the sink was closed twice')
        closed = true
        openSinks--
        await file.close()
      },
    }
    return { sink, held: progress?.held ?? [], size: progress?.size }
  }

  const disk: TestDisk = {
    openSink,
    delayMs: 0,
    readDelayMs: 0,
    fail(name, code, after = 0) {
      failures.set(name, { code, after })
    },
    steps,
    get progress() {
      return progress
    },
    async content() {
      return steps.includes('commit') ? readFile(final) : undefined
    },
    get openSinks() {
      return openSinks
    },
    async corrupt(offset) {
      const file = await open(partial, 'r+')
      const byte = Buffer.alloc(1)
      await file.read(byte, 0, 1, offset)
      byte[0] = (byte[0] ?? 0) ^ 1
      await file.write(byte, 0, 1, offset)
      await file.close()
    },
    async remove() {
      await rm(folder, { recursive: true, force: true })
    },
  }
  return disk
}

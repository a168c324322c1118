import { SourceError } from '../stream/blob-source.ts'
import type { BufferPool, PooledBuffer } from '../stream/buffers.ts'
import type { Lanes } from './lanes.ts'
import { hashOf } from './piece-store.ts'
import { pieceBytes } from './segments.ts'
import type { RankedSource } from './source-order.ts'
import { openTransfer, type Transfer } from './transfer.ts'

export interface BypassOptions {
  readonly size: number
  readonly pool: BufferPool
  readonly lanes: Lanes
  /** Those worth a try now, best first; sources that know no ranges only when there are no others. */
  readonly candidates: () => readonly RankedSource[]
  readonly headersTimeoutMs: number
  readonly stallMs: number
  readonly onBytes: (source: RankedSource, count: number) => void
}

/**
 * One reader's own way to the sources, past the fill: what it reads is kept for nobody else. A request brings at
 * most one piece, and is over before the reader gets any of it: however slowly its client takes the bytes,
 * nobody else waits for its place at the source or for its memory. Only a source that knows no ranges keeps its place
 * to the end: the alternative is the whole blob for every piece.
 */
export interface Bypass {
  /** Bytes from `offset`, unproved, so from no stand-in. `end` is the first byte that is never wanted. */
  read(buffer: Buffer, request: { readonly offset: number; readonly end: number }): Promise<number>
  /** Bytes of a piece whose digest (hex) is known: proved before any is given. */
  readProved(
    buffer: Buffer,
    request: { readonly offset: number; readonly digest: string },
  ): Promise<number>
  close(): void
}

/** Bytes `start` to `end`, as far as they are here. */
interface Part {
  readonly start: number
  readonly end: number
  /** What they are proved by; undefined when by nothing. */
  readonly digest: string | undefined
  /** Only referred to while a request fills it: at all other times whoever needs the room may have it. */
  buffer: PooledBuffer | undefined
  filled: number
}

interface Request {
  readonly source: RankedSource
  readonly transfer: Transfer
  readonly leave: () => void
  /** The offset of the next byte that it brings. */
  at: number
}

/** What lies before the part goes through a buffer of this size. */
const dropBytes = 64 * 1024

/** What a round of all sources must bring for another one to be worth it. */
const worthwhileBytes = 64 * 1024

export function createBypass(options: BypassOptions): Bypass {
  const { size, pool, lanes, candidates, headersTimeoutMs, stallMs } = options
  const controller = new AbortController()
  const { signal } = controller
  /** Which source is asked first: moves on past one that lied. */
  let turn = 0
  let held: Part | undefined
  /** The request at a source that knows no ranges: it is followed from part to part, at its reader's pace. */
  let whole: Request | undefined

  function inTurn({ digest }: Part): readonly RankedSource[] {
    const sources = candidates().filter(
      ({ blob }) => digest !== undefined || blob.isStandIn !== true,
    )
    const first = turn % Math.max(sources.length, 1)
    return [...sources.slice(first), ...sources.slice(0, first)]
  }

  async function bufferFor(part: Part): Promise<PooledBuffer> {
    const kept = part.buffer
    if (kept !== undefined) {
      kept.retain()
      return kept
    }
    const buffer = await pool.take(signal)
    buffer.cache(() => empty(part))
    part.buffer = buffer
    return buffer
  }

  /** Asks a source for what is missing of the part; one that knows no ranges gives the blob from its beginning. */
  async function open(source: RankedSource, part: Part): Promise<Request> {
    const offset = part.start + part.filled
    if (whole?.source === source && whole.at <= offset) return whole
    if (whole !== undefined) await end(whole, false)
    const { name } = source.blob
    // The place first: who waits for one must hold no memory that those who have one are waiting for.
    const leave = await lanes.enter(name, 'client', signal)
    let transfer: Transfer | undefined
    try {
      const wanted = source.rangeless
        ? { offset: 0, end: undefined }
        : { offset, end: part.end < size ? part.end : undefined }
      transfer = await openTransfer(source.blob, { ...wanted, signal, headersTimeoutMs, stallMs })
      source.rangeless ||= transfer.offset === 0 && offset > 0
      const isRight = transfer.offset === (source.rangeless ? 0 : offset)
      if (!isRight || (transfer.size ?? size) !== size)
        throw new SourceError('broken', `${name} answers another range or size`)
      const request = { source, transfer, leave, at: transfer.offset }
      if (source.rangeless) whole = request
      return request
    } catch (error) {
      await transfer?.close(false)
      leave()
      throw error
    }
  }

  async function end(request: Request, complete: boolean): Promise<void> {
    if (whole === request) whole = undefined
    await request.transfer.close(complete)
    request.leave()
  }

  async function readSome(request: Request, into: Buffer): Promise<number> {
    const { source } = request
    const count = await request.transfer.read(into)
    if (count === 0) throw new SourceError('broken', `${source.blob.name} ends early`)
    request.at += count
    options.onBytes(source, count)
    return count
  }

  async function skipTo(request: Request, offset: number): Promise<void> {
    if (request.at === offset) return
    const dropped = Buffer.allocUnsafe(dropBytes)
    while (request.at < offset) await readSome(request, dropped.subarray(0, offset - request.at))
  }

  /** Has one source bring what is missing of the part, and gives the whole to `use`. @throws SourceError */
  async function ask<T>(source: RankedSource, part: Part, use: (bytes: Buffer) => T): Promise<T> {
    const request = await open(source, part)
    let buffer: PooledBuffer | undefined
    let complete = false
    try {
      await skipTo(request, part.start + part.filled)
      buffer = await bufferFor(part)
      const bytes = buffer.bytes.subarray(0, part.end - part.start)
      while (part.filled < bytes.length)
        part.filled += await readSome(request, bytes.subarray(part.filled))
      complete = true
      return use(bytes)
    } finally {
      if (request !== whole || !complete) await end(request, complete)
      buffer?.release()
    }
  }

  /** Has the sources bring the part, each from where the one before it stopped. */
  async function fetchPart<T>(part: Part, use: (bytes: Buffer) => T): Promise<T> {
    let failure = new SourceError('unavailable', 'there is no source to ask')
    for (let least = 0; part.filled >= least;) {
      least = part.filled + worthwhileBytes
      for (const source of inTurn(part)) {
        try {
          return await ask(source, part, use)
        } catch (error) {
          signal.throwIfAborted()
          if (!(error instanceof SourceError)) throw error
          failure = error
        }
      }
    }
    throw failure
  }

  /** Whoever sent wrong bytes cannot be told from the mixture: the next in turn begins anew. */
  async function fetchRight(part: Part, buffer: Buffer, offset: number): Promise<number> {
    const attempts = part.digest === undefined ? 1 : 2 * Math.max(candidates().length, 1)
    for (let attempt = 0; attempt < attempts; attempt++) {
      const count = await fetchPart(part, (bytes) => {
        const isRight = part.digest === undefined || hashOf(bytes) === part.digest
        return isRight ? bytes.copy(buffer, 0, offset - part.start) : undefined
      })
      if (count !== undefined) return count
      part.filled = 0
      turn++
    }
    throw new SourceError('broken', 'no source gives the bytes that were proved')
  }

  async function readPart(
    buffer: Buffer,
    offset: number,
    wanted: Pick<Part, 'start' | 'end' | 'digest'>,
  ): Promise<number> {
    const kept = heldAt(offset, wanted.digest)
    if (kept !== undefined) return kept.copy(buffer)
    forget(held)
    const part: Part = { ...wanted, buffer: undefined, filled: 0 }
    try {
      const count = await fetchRight(part, buffer, offset)
      held = part
      return count
    } catch (error) {
      forget(part)
      throw error
    }
  }

  /** What was fetched for an earlier read, if nobody has needed the room meanwhile. */
  function heldAt(offset: number, digest: string | undefined): Buffer | undefined {
    if (held?.buffer === undefined || held.digest !== digest) return undefined
    if (offset < held.start || offset >= held.end) return undefined
    return held.buffer.bytes.subarray(offset - held.start, held.end - held.start)
  }

  return {
    read: (buffer, { offset, end }) =>
      readPart(buffer.subarray(0, end - offset), offset, {
        start: offset,
        end: Math.min((Math.floor(offset / pieceBytes) + 1) * pieceBytes, end),
        digest: undefined,
      }),
    readProved(buffer, { offset, digest }) {
      const start = Math.floor(offset / pieceBytes) * pieceBytes
      return readPart(buffer, offset, { start, end: Math.min(start + pieceBytes, size), digest })
    },
    close() {
      controller.abort(new Error('the reader was closed'))
      if (whole !== undefined) void end(whole, false)
      forget(held)
    },
  }
}

function forget(part: Part | undefined) {
  part?.buffer?.uncache()
  if (part !== undefined) empty(part)
}

function empty(part: Part) {
  part.buffer = undefined
  part.filled = 0
}

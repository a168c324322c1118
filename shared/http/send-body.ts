import type { ServerResponse } from 'node:http'
import { endTogether } from './end-together.ts'
import {
  fittingSize,
  plainBufferBytes,
  smallBufferBytes,
  type BufferBytes,
  type SendPool,
} from './send-pool.ts'
import type { ChunkReader, SharedChunks, SharedPiece } from './shared-chunks.ts'
import type { WriteTurns } from './write-turns.ts'

/** Bytes that belong to somebody else: read them, change nothing, release once. */
export interface Lent {
  readonly bytes: Buffer
  release(): void
}

/** Where a body comes from: a `BlobHandle`, or one that also lends what it holds in memory. */
export interface BodySource {
  readonly size: number
  /** As `BlobHandle.read`. */
  read(buffer: Buffer, offset: number): Promise<number>
  /**
   * The same object for all sources of the same unchanging file: what is read for one client then serves the
   * others who pull it.
   */
  readonly identity?: object
  /** Told before the first read that only `start` to `end` (both inclusive) will be read. */
  expect?(range: { readonly start: number; readonly end: number }): void
  /** Whether bytes at this offset have still to come from somebody else: the head need not wait for them. */
  isComing?(offset: number): boolean
  /**
   * The bytes from `offset`, at least one and at most `maxBytes`, without a copy; waits for bytes that are still
   * arriving. Undefined when they should be had by `read`. Not asked for slow clients.
   */
  borrow?(offset: number, maxBytes: number): Promise<Lent | undefined>
}

export interface SentBody {
  /** Bytes of the body that the client's connection took. */
  readonly bytes: number
  /** `aborted`: the client went away. `cut`: the source failed, and so the connection was closed short of the end. */
  readonly outcome: 'complete' | 'aborted' | 'cut'
  /** What the source threw, when it was cut. */
  readonly cause?: unknown
}

export interface BodyToSend {
  readonly source: BodySource
  /** First byte, and the one behind the last. */
  readonly start: number
  readonly end: number
  readonly pool: SendPool
  readonly shared: SharedChunks
  readonly turns: WriteTurns
  /** The size of buffer that suits the connection. */
  readonly bufferBytes: BufferBytes
  /** Calls `writeHead`; not called when the source fails first. */
  readonly writeHead: () => void
}

/** The head leaves without the first bytes when these take longer: it costs a write of its own. */
const headDelayMs = 2
/**
 * What a write lasts before the next chunk is read beside it: whoever takes the bytes as fast as memory copies them gains
 * little by it, and one buffer that is warm costs a tenth less CPU than two.
 */
const readAheadMs = 8
/** A write of the usual size that took longer makes a client slow, and so many bytes in so short a time make it fast again. */
const slowWriteMs = 100
const fastAgain = { bytes: 4 * 1024 * 1024, ms: 200 }

/**
 * Writes the bytes `start` to `end` (exclusive, not empty) as the whole body of a response: the next chunk is
 * read while the write of one lasts. Resolves when the connection took all of it, or the client went away; a read may
 * then still be in flight for a moment.
 * @throws what the source throws, as long as no head was written: the caller may still answer something else
 */
export async function sendBody(response: ServerResponse, body: BodyToSend): Promise<SentBody> {
  const client = watchClient(response, body.turns)
  const pace = createPace()
  const chunks = openChunks(body, pace)
  const total = body.end - body.start
  // What is lent is in memory already: nothing to gain, and it would be held for longer.
  const readsAhead = body.source.borrow === undefined
  let bytes = 0
  try {
    const first = client.orGone(chunks.next(), releaseChunk)
    const late =
      body.source.isComing?.(body.start) === true ||
      (await isLate(first, body.turns.isBusy() ? waitTurn : waitForBytes))
    if (client.isGone()) return { bytes, outcome: 'aborted' }
    body.writeHead()
    if (late || body.turns.isBusy()) response.flushHeaders()
    let chunk = await first
    while (chunk !== undefined) {
      const last = bytes + chunk.bytes.length === total
      const reading = last || !readsAhead ? undefined : setTimeout(chunks.readAhead, readAheadMs)
      const ms = await client.write(chunk, last)
      clearTimeout(reading)
      if (ms === undefined) break
      pace.wrote(chunk.bytes.length, ms)
      bytes += chunk.bytes.length
      if (bytes === total) return { bytes, outcome: 'complete' }
      chunk = await client.orGone(chunks.next(), releaseChunk)
    }
    return { bytes, outcome: 'aborted' }
  } catch (cause) {
    if (!response.headersSent) throw cause
    response.destroy()
    return { bytes, outcome: 'cut', cause }
  } finally {
    client.unwatch()
    chunks.close()
  }
}

/**
 * Ends a response whose head is written with bytes that are here already, or with none.
 * @param onClosed called once: when the connection took them, or the client went away
 */
export function endBody(
  response: ServerResponse,
  bytes: Buffer | undefined,
  onClosed: (sent: SentBody) => void,
): void {
  if (response.destroyed) return onClosed(aborted)
  // It comes once, and `once` would wrap it.
  response.on('close', () => {
    onClosed(
      response.writableFinished ? { bytes: bytes?.length ?? 0, outcome: 'complete' } : aborted,
    )
  })
  const isSmall = bytes !== undefined && bytes.length <= stringBytes
  endTogether(response, isSmall ? bytes.toString('latin1') : bytes)
}

const aborted: SentBody = { bytes: 0, outcome: 'aborted' }

/**
 * Node joins a body that is a string to its head, which is one; a Buffer goes out as a piece of its own. Up to this length
 * the copy costs less.
 */
const stringBytes = 8 * 1024

interface Chunk {
  readonly bytes: Buffer
  release(): void
  /** Instead of `release`, when an aborted write may still read the bytes. */
  lose(): void
}

interface Chunks {
  /** The bytes behind those that the last call gave; whoever takes them releases them. */
  next(): Promise<Chunk>
  /** Begins the next read in a second buffer, when there is one to spare. */
  readAhead(): void
  /** Releases what was read ahead in vain. */
  close(): void
}

function openChunks(body: BodyToSend, pace: Pace): Chunks {
  const { source, start, end, pool, bufferBytes } = body
  const reader = joinShared(body)
  let offset = start
  let ahead: Promise<Chunk | undefined> | undefined
  let closed = false
  /** What is left of a shared piece that is larger than one write may be. */
  let rest: { readonly piece: SharedPiece; readonly bytes: Buffer } | undefined
  source.expect?.({ start, end: end - 1 })

  const readInto = async (buffer: Buffer): Promise<Chunk> => {
    const room = Math.min(buffer.length, end - offset)
    try {
      const length = await source.read(buffer.subarray(0, room), offset)
      if (length === 0) throw new Error(`a blob of ${source.size} bytes ended at byte ${offset}`)
      offset += length
      const bytes = buffer.subarray(0, length)
      return { bytes, release: () => pool.give(buffer), lose: () => pool.lose(buffer) }
    } catch (error) {
      pool.give(buffer)
      throw error
    }
  }
  const borrow = async (): Promise<Chunk | undefined> => {
    const lent = await source.borrow?.(offset, Math.min(end - offset, bufferBytes))
    if (lent === undefined) return undefined
    offset += lent.bytes.length
    // Safe after an abort too: libuv has let go of the bytes once the response is closed.
    return { bytes: lent.bytes, release: () => lent.release(), lose: () => lent.release() }
  }
  const share = async (): Promise<Chunk | undefined> => {
    const piece = await reader?.take(offset)
    if (closed) {
      piece?.release()
      throw new Error('the transfer has ended')
    }
    rest = piece && { piece, bytes: piece.bytes.subarray(0, end - offset) }
    return takeRest()
  }
  const takeRest = (): Chunk | undefined => {
    if (rest === undefined) return undefined
    const { piece, bytes } = rest
    // A write of more would hold the others up, and under TLS be copied whole.
    const isWhole = bufferBytes === plainBufferBytes && body.turns.isAlone()
    const part = isWhole ? bytes : bytes.subarray(0, bufferBytes)
    offset += part.length
    rest = part.length < bytes.length ? { piece, bytes: bytes.subarray(part.length) } : undefined
    const release = rest === undefined ? () => piece.release() : ignore
    const lose = (): void => {
      rest = undefined
      piece.lose()
    }
    return { bytes: part, release, lose }
  }
  const read = async (): Promise<Chunk> => {
    const inMemory =
      takeRest() ?? (pace.isSlow() ? undefined : ((await borrow()) ?? (await share())))
    if (inMemory !== undefined) return inMemory
    const size = pace.isSlow() ? smallBufferBytes : fittingSize(end - offset, bufferBytes)
    return readInto(pool.take(size) ?? pool.take(smallBufferBytes))
  }

  return {
    async next() {
      const reading = ahead ?? read()
      ahead = undefined
      return (await reading) ?? read()
    },
    readAhead() {
      if (offset === end || pace.isSlow() || rest !== undefined) return
      if (reader !== undefined) {
        ahead = share()
      } else {
        const buffer = pool.take(fittingSize(end - offset, bufferBytes))
        if (buffer === undefined) return
        ahead = readInto(buffer)
      }
      ahead.catch(ignore)
    },
    close() {
      closed = true
      ahead?.then((chunk) => chunk?.release(), ignore)
      rest?.piece.release()
      reader?.leave()
    },
  }
}

/** Small parts are not worth the reading of whole chunks. */
function joinShared({ source, start, end, shared }: BodyToSend): ChunkReader | undefined {
  const { identity, size } = source
  if (identity === undefined || end - start < plainBufferBytes) return undefined
  return shared.join({ identity, size, read: (buffer, offset) => source.read(buffer, offset) })
}

interface Client {
  isGone(): boolean
  /**
   * Writes when it is its turn, and after the last chunk ends the response; then releases the chunk.
   * @returns the milliseconds that the client took; undefined when it went away, which node's own callbacks
   * mostly do not say
   */
  write(chunk: Chunk, last: boolean): Promise<number | undefined>
  /** What the promise brings, or undefined when the client went away first: it is then given to `drop`. */
  orGone<T>(promise: Promise<T>, drop: (value: T) => void): Promise<T | undefined>
  unwatch(): void
}

/** Tells when a client goes away. One thing is waited for at a time. */
function watchClient(response: ServerResponse, turns: WriteTurns): Client {
  let gone = response.destroyed
  let onGone = ignore
  const close = (): void => {
    gone = true
    onGone()
  }
  response.once('close', close)
  // A write that meets a response destroyed a moment ago emits an error, which would end the process.
  response.on('error', ignore)

  /** Resolves too when the client goes away first. */
  const myTurn = (bytes: number): Promise<void> =>
    new Promise((resolve) => {
      const withdraw = gone ? resolve() : turns.take(bytes, resolve)
      if (withdraw === undefined) return
      onGone = () => {
        withdraw()
        resolve()
      }
    })
  const settled = (send: (done: (error?: Error | null) => void) => void): Promise<boolean> =>
    new Promise((resolve) => {
      onGone = () => resolve(false)
      if (gone) onGone()
      else send((error) => resolve(!gone && !error))
    })
  return {
    isGone: () => gone,
    async write(chunk, last) {
      await myTurn(chunk.bytes.length)
      if (gone) {
        chunk.release()
        return undefined
      }
      const startedAt = performance.now()
      const sent = await settled((done) => {
        if (last) response.end(chunk.bytes, done)
        else response.write(chunk.bytes, done)
      })
      if (sent) chunk.release()
      else chunk.lose()
      return sent ? performance.now() - startedAt : undefined
    },
    orGone: (promise, drop) =>
      new Promise((resolve) => {
        onGone = () => {
          promise.then(drop, ignore)
          resolve(undefined)
        }
        if (gone) return onGone()
        const settle = (): void => {
          if (gone) return
          onGone = ignore
          resolve(promise)
        }
        promise.then(settle, settle)
      }),
    unwatch: () => void response.off('close', close),
  }
}

interface Pace {
  isSlow(): boolean
  wrote(bytes: number, ms: number): void
}

/** Whether a client takes its bytes slowly: it then gets one small buffer, and memory is left for others. */
function createPace(): Pace {
  let slow = false
  let recent = { bytes: 0, ms: 0 }
  return {
    isSlow: () => slow,
    wrote(bytes, ms) {
      if (!slow) {
        slow = ms > slowWriteMs * Math.max(bytes / plainBufferBytes, 1)
        return
      }
      // A socket takes many small writes at once and then none for long: only many together say anything.
      recent = { bytes: recent.bytes + bytes, ms: recent.ms + ms }
      if (recent.bytes < fastAgain.bytes) return
      slow = recent.ms > fastAgain.ms
      recent = { bytes: 0, ms: 0 }
    },
  }
}

/** Whether a promise takes longer than a wait, which returns how to end it. */
async function isLate(
  promise: Promise<unknown>,
  wait: (done: () => void) => () => void,
): Promise<boolean> {
  const { promise: late, resolve } = Promise.withResolvers<boolean>()
  const end = wait(() => resolve(true))
  try {
    return await Promise.race([promise.then(() => false), late])
  } finally {
    end()
  }
}

function waitForBytes(done: () => void): () => void {
  const timer = setTimeout(done, headDelayMs)
  return () => clearTimeout(timer)
}

/** While others write, bytes that are here wait too. */
function waitTurn(done: () => void): () => void {
  const immediate = setImmediate(done)
  return () => clearImmediate(immediate)
}

function releaseChunk(chunk: Chunk): void {
  chunk.release()
}

function ignore(): void {}

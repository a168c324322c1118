import { setImmediate as turn } from 'node:timers/promises'
import {
  SourceError,
  type BlobSource,
  type OpenedSource,
  type SourceErrorCode,
} from '../../shared/stream/blob-source.ts'

/** What one request at a scripted source does; bytes are counted in the blob. */
export interface RequestScript {
  /** Refuses with this code. */
  readonly fail?: SourceErrorCode
  readonly retryAfterMs?: number
  /** Cuts after so many bytes of this request. */
  readonly cutAfter?: number
  /** Ends the body without an error after so many bytes of this request. */
  readonly endAfter?: number
  /** Flips the lowest bit of this byte of the blob. */
  readonly flipAt?: number
  /** Sends nothing more after so many bytes of this request. */
  readonly stallAfter?: number
  /** Waits for this after `waitAfter` bytes of this request (0: before the first). */
  readonly waitFor?: Promise<unknown>
  readonly waitAfter?: number
  /** Never sends headers. */
  readonly stallHeaders?: boolean
  /** Says this size. */
  readonly size?: number
  /** Has so many bytes of something else behind the blob, and says so. */
  readonly extra?: number
  readonly ignoreRange?: boolean
  /** Bytes a chunk. */
  readonly chunk?: number
}

export interface ScriptedSource extends BlobSource {
  readonly requests: { offset: number; end: number | undefined; bytes: number; open: boolean }[]
  /** All bytes given. */
  readonly deliveredBytes: number
  /** Gives no byte of the blob from here on until told otherwise. */
  holdAt(offset: number | undefined): void
}

export interface ScriptedSourceOptions {
  readonly name?: string
  /** By the request's number, from 0; the honest one when it returns nothing. */
  readonly script?: (request: number, offset: number) => RequestScript | undefined
}

/** A source in memory that does what its script says, and counts. */
export function createScriptedSource(
  blob: Buffer,
  { name = 'origin', script = () => undefined }: ScriptedSourceOptions = {},
): ScriptedSource {
  const requests: ScriptedSource['requests'] = []
  const longer = new Map<number, Buffer>()
  let held = Infinity
  let wake = Promise.withResolvers<void>()

  function contentOf({ extra = 0 }: RequestScript): Buffer {
    if (extra === 0) return blob
    const known = longer.get(extra) ?? Buffer.concat([blob, Buffer.alloc(extra, 0x2a)])
    longer.set(extra, known)
    return known
  }

  async function open(
    { offset, end, signal }: Parameters<BlobSource['open']>[0],
    acts: RequestScript,
    seen: ScriptedSource['requests'][number],
  ): Promise<OpenedSource> {
    await turn()
    signal.throwIfAborted()
    if (acts.stallHeaders === true) await never(signal)
    if (acts.fail !== undefined) {
      const { retryAfterMs } = acts
      throw new SourceError(acts.fail, `${name} said ${acts.fail}`, { retryAfterMs })
    }
    const content = contentOf(acts)
    const start = acts.ignoreRange === true ? 0 : offset
    if (start > 0 && start >= content.length)
      throw new SourceError('broken', `${name} has no such range`, { beyondEnd: true })
    let position = start
    let cancelled = false
    seen.open = true
    signal.addEventListener('abort', () => (seen.open = false), { once: true })

    async function read(into: Buffer): Promise<number> {
      await turn()
      const given = position - start
      if (acts.stallAfter !== undefined && given >= acts.stallAfter) await never(signal)
      if (acts.waitFor !== undefined && given >= (acts.waitAfter ?? 0))
        await Promise.race([acts.waitFor, never(signal)])
      if (acts.endAfter !== undefined && given >= acts.endAfter) return 0
      if (acts.cutAfter !== undefined && given >= acts.cutAfter)
        throw new SourceError('unavailable', `${name} cut the connection`)
      const stop = Math.min(end ?? Infinity, content.length)
      while (position >= held && position < stop) {
        await Promise.race([wake.promise, never(signal)])
      }
      signal.throwIfAborted()
      if (cancelled) throw new Error('read after cancel')
      const limit = Math.min(
        stop,
        held,
        position + (acts.chunk ?? 64 * 1024),
        ...[acts.cutAfter, acts.endAfter, acts.stallAfter]
          .filter((at) => at !== undefined)
          .map((at) => start + at),
        given < (acts.waitAfter ?? 0) ? start + (acts.waitAfter ?? 0) : Infinity,
      )
      const chunk = content.subarray(position, limit)
      const count = chunk.copy(into)
      const flip = (acts.flipAt ?? -1) - position
      if (flip >= 0 && flip < count) into[flip] = (into[flip] ?? 0) ^ 1
      position += count
      seen.bytes += count
      return count
    }

    return {
      size: acts.size ?? content.length,
      offset: start,
      read,
      cancel() {
        cancelled = true
        seen.open = false
      },
    }
  }

  return {
    name,
    requests,
    get deliveredBytes() {
      return requests.reduce((sum, request) => sum + request.bytes, 0)
    },
    holdAt(offset) {
      held = offset ?? Infinity
      wake.resolve()
      wake = Promise.withResolvers<void>()
    },
    open(request) {
      const acts = script(requests.length, request.offset) ?? {}
      const seen = { offset: request.offset, end: request.end, bytes: 0, open: false }
      requests.push(seen)
      return open(request, acts, seen)
    },
  }
}

function never(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    if (signal.aborted) return reject(signal.reason as Error)
    signal.addEventListener('abort', () => reject(signal.reason as Error), { once: true })
  })
}

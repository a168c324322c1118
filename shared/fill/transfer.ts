import { SourceError, type BlobSource } from '../stream/blob-source.ts'

export interface TransferRequest {
  readonly offset: number
  /** The first byte that is not wanted. */
  readonly end: number | undefined
  readonly signal: AbortSignal
  /** Milliseconds until the headers must be here. */
  readonly headersTimeoutMs: number
  /** Milliseconds that a read may go without a byte. */
  readonly stallMs: number
}

/** One running request at a source, with its deadlines. */
export interface Transfer {
  readonly size: number | undefined
  readonly offset: number
  /** As the source's own `read`; a stall is a SourceError `unavailable`. */
  read(into: Buffer): Promise<number>
  /** Ends it: waits a moment for the body's end when all was read, so that the connection can be used again. */
  close(complete: boolean): Promise<void>
}

/** How long a source may take to end a body of which all bytes are here. */
const goodbyeMs = 1000

/** Opens a source; the caller closes the transfer. @throws SourceError */
export async function openTransfer(source: BlobSource, request: TransferRequest) {
  const controller = new AbortController()
  const signal = AbortSignal.any([request.signal, controller.signal])
  const { patienceMs = Infinity } = source
  const headersTimeoutMs = Math.min(request.headersTimeoutMs, patienceMs)
  const stallMs = Math.min(request.stallMs, patienceMs)
  const deadline = setTimeout(() => {
    const message = `${source.name} sends no headers`
    controller.abort(new SourceError('unavailable', message, { isAway: true }))
  }, headersTimeoutMs)
  try {
    const opening = source.open({ offset: request.offset, end: request.end, signal })
    const opened = await orAborted(opening, signal, () => {
      // A source that opens after all must not stay open.
      opening.then((late) => late.cancel()).catch(() => undefined)
    })
    return follow(source.name, opened, { signal, controller, stallMs })
  } catch (error) {
    throw signal.aborted ? signal.reason : asSourceError(source.name, error)
  } finally {
    clearTimeout(deadline)
  }
}

interface Following {
  readonly signal: AbortSignal
  readonly controller: AbortController
  readonly stallMs: number
}

function follow(
  name: string,
  opened: Awaited<ReturnType<BlobSource['open']>>,
  { signal, controller, stallMs }: Following,
): Transfer {
  let interrupt: ((reason: unknown) => void) | undefined
  const onAbort = () => {
    opened.cancel()
    interrupt?.(signal.reason)
  }
  signal.addEventListener('abort', onAbort, { once: true })
  // One timer for all reads: only the time inside a read counts, not the time that our own disk takes.
  const stall = setTimeout(() => {
    if (interrupt === undefined) stall.refresh()
    else controller.abort(new SourceError('unavailable', `${name} stalled for ${stallMs} ms`))
  }, stallMs)

  function read(into: Buffer): Promise<number> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason as Error)
      interrupt = reject
      stall.refresh()
      opened.read(into).then(
        (count) => {
          interrupt = undefined
          resolve(count)
        },
        (error: unknown) => {
          interrupt = undefined
          reject(signal.aborted ? (signal.reason as Error) : asSourceError(name, error))
        },
      )
    })
  }

  return {
    size: opened.size,
    offset: opened.offset,
    read,
    async close(complete) {
      if (complete && !signal.aborted) {
        const goodbye = setTimeout(() => controller.abort(new Error('no end')), goodbyeMs)
        await read(Buffer.alloc(1)).catch(() => undefined)
        clearTimeout(goodbye)
      }
      clearTimeout(stall)
      signal.removeEventListener('abort', onAbort)
      opened.cancel()
    },
  }
}

/** Whatever a source throws is its failure, not ours. */
function asSourceError(name: string, error: unknown): SourceError {
  if (error instanceof SourceError) return error
  return new SourceError('unavailable', `${name} failed`, { cause: error })
}

async function orAborted<T>(promise: Promise<T>, signal: AbortSignal, onAbort: () => void) {
  return new Promise<T>((resolve, reject) => {
    const abort = () => {
      onAbort()
      reject(signal.reason as Error)
    }
    if (signal.aborted) return abort()
    signal.addEventListener('abort', abort, { once: true })
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort))
  })
}

import type { Duplex } from 'node:stream'
import { HttpError, joinHeaders } from '../http/client.ts'
import type { BulkDispatcher } from '../http/undici.ts'
import { freeChunk } from '../stream/free-chunk.ts'
import type { AnswerHead } from './exchange.ts'

/** An answer whose head is here. Its body must be read to the end, cancelled or discarded. */
export interface BulkResponse extends AnswerHead {
  /** Puts the next bytes into `into`; 0 at the end. One at a time. Rejects when the body is cut or cancelled. */
  read(into: Buffer): Promise<number>
  /** Gives up the rest and the connection, unless the end is here already. */
  cancel(): void
  /** Nobody wants the body: a short one is read away, so that the connection can serve again. */
  discard(): void
  /** Says something in the protocol that was asked for; there only where the far side agreed to it, by status 101. */
  readonly send?: (text: string) => void
}

/** Another protocol to go on in. */
export interface UpgradeRequest {
  readonly protocol: string
  /** A far side that says nothing for so long, while it is listened to, is gone. */
  readonly stallMs: number
}

/**
 * Sends a request through undici's lowest interface: chunks are copied straight into the reader's buffer, and
 * the socket waits while nobody reads.
 */
export function requestBulk(
  dispatcher: BulkDispatcher,
  url: URL,
  request: {
    readonly method: 'GET' | 'HEAD'
    readonly headers: Record<string, string>
    readonly signal: AbortSignal
    readonly upgrade?: UpgradeRequest
  },
): Promise<BulkResponse> {
  const { method, headers, signal, upgrade } = request
  return new Promise((resolve, reject) => {
    const body = createBody()
    let controller: Pick<Flow, 'abort'> | undefined
    const abort = () => {
      const reason = signal.reason as Error
      body.fail(reason)
      reject(reason)
      controller?.abort(reason)
    }
    if (signal.aborted) return abort()
    signal.addEventListener('abort', abort, { once: true })
    const settle = () => signal.removeEventListener('abort', abort)
    dispatcher.dispatch(
      {
        origin: url.origin,
        path: `${url.pathname}${url.search}`,
        method,
        headers,
        ...(upgrade && { upgrade: upgrade.protocol }),
      },
      {
        onRequestStart(started) {
          controller = started
          if (signal.aborted) started.abort(signal.reason as Error)
        },
        onResponseStart(started, status, responseHeaders) {
          if (status < 200) return
          body.controlledBy(started)
          resolve({ status, headers: joinHeaders(responseHeaders), ...body.reader })
        },
        onRequestUpgrade(_controller, status, responseHeaders, socket) {
          const flow = flowOf(socket)
          controller = flow
          body.controlledBy(flow)
          feed(body, socket, upgrade?.stallMs ?? 0)
          socket.once('close', settle)
          const send = (text: string) => void socket.write(text)
          resolve({ status, headers: joinHeaders(responseHeaders), ...body.reader, send })
        },
        onResponseData(_controller, chunk) {
          body.push(chunk)
        },
        onResponseEnd() {
          settle()
          body.end()
        },
        onResponseError(_controller, error) {
          settle()
          body.fail(error)
          reject(error)
        },
      },
    )
  })
}

/** What a body is read from, and can be made to wait. */
interface Flow {
  readonly paused: boolean
  pause(): void
  resume(): void
  abort(reason: Error): void
}

function flowOf(socket: Duplex): Flow {
  return {
    get paused() {
      return socket.isPaused()
    },
    pause: () => socket.pause(),
    resume: () => socket.resume(),
    abort: () => socket.destroy(),
  }
}

/** Gives a body what a socket brings, which is over when that ends, breaks, or says nothing for too long. */
function feed(body: ReturnType<typeof createBody>, socket: Duplex, stallMs: number): void {
  const stalled = setTimeout(() => {
    // Its reader takes its time.
    if (socket.isPaused()) return void stalled.refresh()
    body.fail(new HttpError('timeout', `nothing came for ${stallMs} ms`))
    socket.destroy()
  }, stallMs).unref()
  socket.on('data', (chunk: Buffer) => {
    stalled.refresh()
    body.push(chunk)
  })
  let hasEnded = false
  socket.on('end', () => {
    hasEnded = true
    body.end()
    socket.destroy()
  })
  socket.on('error', (error) => body.fail(error))
  socket.on('close', () => {
    clearTimeout(stalled)
    // What came before its end is still to be read.
    if (!hasEnded) body.fail(new HttpError('network', 'the connection was closed'))
  })
}

/** What may wait here for its reader before the socket has to: a read of the next tick should find something. */
const maxQueuedBytes = 128 * 1024
const maxDiscardedBytes = 64 * 1024
const maxDiscardMs = 1000

function createBody() {
  let controller: Flow | undefined
  const chunks: Buffer[] = []
  let reading:
    { into: Buffer; resolve: (count: number) => void; reject: (error: Error) => void } | undefined
  let ended = false
  /** Bytes read away; undefined while somebody wants the body. */
  let discarded: number | undefined
  let failure: Error | undefined

  /** As much as is here and fits. */
  function take(into: Buffer): number {
    let count = 0
    for (let chunk = chunks[0]; chunk !== undefined && count < into.length; chunk = chunks[0]) {
      const copied = chunk.copy(into, count)
      count += copied
      if (copied < chunk.length) {
        chunks[0] = chunk.subarray(copied)
        continue
      }
      chunks.shift()
      // Later, because the parser that is giving it to us may not be done with it.
      queueMicrotask(() => freeChunk(chunk))
    }
    return count
  }

  function fail(error: Error) {
    failure ??= error
    chunks.length = 0
    reading?.reject(failure)
    reading = undefined
  }

  function cancel() {
    if (ended) chunks.length = 0
    if (ended || failure !== undefined) return
    const cancelled = new Error('the body was cancelled')
    fail(cancelled)
    controller?.abort(cancelled)
  }

  function queuedBytes(): number {
    return chunks.reduce((sum, chunk) => sum + chunk.length, 0)
  }

  return {
    fail,
    controlledBy(started: Flow) {
      controller = started
    },
    push(chunk: Buffer) {
      if (failure !== undefined) return
      if (discarded !== undefined) {
        discarded += chunk.length
        if (discarded > maxDiscardedBytes) cancel()
        return
      }
      chunks.push(chunk)
      const waiting = reading
      reading = undefined
      waiting?.resolve(take(waiting.into))
      if (queuedBytes() >= maxQueuedBytes) controller?.pause()
    },
    end() {
      ended = true
      reading?.resolve(0)
      reading = undefined
    },
    reader: {
      cancel,
      discard() {
        discarded = queuedBytes()
        chunks.length = 0
        controller?.resume()
        if (!ended) setTimeout(cancel, maxDiscardMs).unref()
      },
      read(into: Buffer): Promise<number> {
        return new Promise((resolve, reject) => {
          if (failure !== undefined) return reject(failure)
          const count = take(into)
          if (controller?.paused === true && queuedBytes() < maxQueuedBytes) controller.resume()
          if (count > 0 || ended || into.length === 0) return resolve(count)
          reading = { into, resolve, reject }
        })
      },
    },
  }
}

import type { IncomingMessage } from 'node:http'
import { awaitsContinue } from './expect-continue.ts'

/**
 * Reads the rest of a request's body and throws it away, before a refusal is sent: clients that send
 * `Connection: close` (docker) lose an answer that comes while they still write.
 * Every error that a route throws is already answered this way; call it before an early answer of another kind.
 * @returns whether the body is at its end; if not, the connection must be closed after the answer
 */
export async function drainBody(
  request: IncomingMessage,
  { maxBytes, maxMs }: { readonly maxBytes: number; readonly maxMs: number },
): Promise<boolean> {
  if (isBodyRead(request)) return true
  // The client has not begun to send, and will not when it sees the refusal.
  if (awaitsContinue(request) || request.destroyed) return false
  return new Promise((resolve) => {
    let bytes = 0
    // Events by hand, because leaving an iterator or a pipeline early destroys the request and with it the
    // connection that the answer must go out by.
    const finish = () => {
      clearTimeout(timer)
      request.off('data', count).off('end', finish).off('close', finish).off('error', finish)
      if (!request.readableEnded) request.pause()
      resolve(isBodyRead(request))
    }
    const count = (chunk: Buffer) => {
      bytes += chunk.length
      if (bytes > maxBytes) finish()
    }
    const timer = setTimeout(finish, maxMs)
    request.on('data', count).on('end', finish).on('close', finish).on('error', finish)
    request.resume()
  })
}

/** Whether nothing of the body is still to come. */
export function isBodyRead(request: IncomingMessage): boolean {
  return request.readableEnded || (request.complete && request.readableLength === 0)
}

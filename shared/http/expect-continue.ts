import type { IncomingMessage, ServerResponse } from 'node:http'

const pendingKey = Symbol('the client waits for 100 Continue')

interface Pending {
  [pendingKey]?: boolean
}

/**
 * Answers `Expect: 100-continue` when a route first reads the body, not before: a route that refuses without
 * reading spares its client the upload. Routes need to do nothing. [RFC 9110 §10.1.1]
 */
export function deferContinue(request: IncomingMessage, response: ServerResponse): void {
  const pending = request as Pending
  pending[pendingKey] = true
  const read = request._read.bind(request)
  request._read = (size) => {
    if (pending[pendingKey] === true && !response.headersSent) {
      pending[pendingKey] = false
      response.writeContinue()
    }
    read(size)
  }
}

/** Whether the client has not been told yet to send its body. */
export function awaitsContinue(request: IncomingMessage): boolean {
  return (request as Pending)[pendingKey] === true
}

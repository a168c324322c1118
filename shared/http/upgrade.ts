import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { IdentifiedResponse } from './response.ts'

/** The response to a request that asks for another protocol. Node makes none, and has let go of the connection. */
class UpgradeResponse extends IdentifiedResponse {}

/**
 * Makes one; the connection ends with the answer.
 * @param head what came behind the request
 */
export function responseToUpgrade(
  request: IncomingMessage,
  socket: Socket,
  head: Buffer,
): ServerResponse {
  const response = new UpgradeResponse(request)
  socket.on('error', ignore)
  if (head.length > 0) socket.unshift(head)
  response.shouldKeepAlive = false
  response.assignSocket(socket)
  response.once('finish', () => socket.destroySoon())
  return response
}

/** Whether the client would go on in this protocol. It may be answered like anybody else, too. */
export function mayUpgrade(response: ServerResponse, protocol: string): boolean {
  return response instanceof UpgradeResponse && response.req.headers.upgrade === protocol
}

/** Agrees to it: from here on its connection is spoken over directly. [RFC 9110 §15.2.2] */
export function switchProtocols(response: ServerResponse, protocol: string): void {
  response.writeHead(101, { Connection: 'Upgrade', Upgrade: protocol })
  response.flushHeaders()
}

function ignore(): void {
  // 'close' tells of it.
}

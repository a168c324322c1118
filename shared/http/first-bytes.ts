import type { Socket } from 'node:net'
import type { Server } from 'node:tls'

/**
 * Has a TLS server begin with each connection when its first bytes are here. Node reads what comes first into a
 * buffer of 64 KiB, which the connection keeps for as long as it lasts; bytes that are here already get one of a
 * quarter of that, and all that comes later goes through it too. For a listener with many connections that say little.
 * Called before anybody else listens for connections.
 * @param timeoutMs how long one may say nothing
 */
export function beginWithFirstBytes(server: Server, timeoutMs: number): void {
  const begin = server.listeners('connection')
  server.removeAllListeners('connection')
  server.on('connection', (socket: Socket) => {
    // Until TLS has taken it over, and after.
    socket.on('error', ignore)
    const giveUp = () => socket.destroy()
    socket.setTimeout(timeoutMs, giveUp)
    socket.once('readable', () => {
      socket.setTimeout(0)
      socket.off('timeout', giveUp)
      // It has said nothing, and will not.
      if (socket.readableLength === 0) socket.destroy()
      else for (const listener of begin) listener.call(server, socket)
    })
  })
}

function ignore(): void {
  // 'close' tells of it.
}

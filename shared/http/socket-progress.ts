import type { Socket } from 'node:net'

/**
 * What Node keeps of a socket's writes but does not document. By the public API a 1 MiB write to a slow reader makes
 * no progress for minutes and then all of it at once; net.js's own idle timer reads `writeQueueSize` for the same
 * reason. A TLS socket's handle encrypts a whole write at once, and the connection's is its `_parent`.
 */
interface StreamHandle {
  readonly bytesWritten?: number
  readonly writeQueueSize?: number
  readonly _parent?: StreamHandle
}

/**
 * Bytes of a socket's writes that the kernel has taken, part of a large write included; encrypted ones under TLS.
 * Where Node's internals are not what they were, whole writes count.
 */
export function sentBytes(socket: Socket): number {
  const { _handle: handle } = socket as unknown as { readonly _handle?: StreamHandle | null }
  const connection = handle?._parent ?? handle
  if (connection?.bytesWritten === undefined || connection.writeQueueSize === undefined) {
    return socket.bytesWritten - socket.writableLength
  }
  return connection.bytesWritten - connection.writeQueueSize
}

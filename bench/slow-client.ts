import { once } from 'node:events'
import { connect, type OnReadOpts } from 'node:net'

/** A client that takes its time; the caller ends it. */
export interface SlowClient {
  readonly askedAt: number
  /** What it has read, its head included. */
  readonly bytes: number
  /** Whether the server has given it up. */
  readonly isCut: boolean
  end(): void
}

const ticksPerSecond = 10

/** Asks for something and reads so much a second of it; resolves with the first bytes. */
export async function startSlowClient(
  { host, hostname, port }: URL,
  path: string,
  bytesPerSecond: number,
): Promise<SlowClient> {
  const buffer = Buffer.allocUnsafe(Math.floor(bytesPerSecond / ticksPerSecond))
  let bytes = 0
  let isCut = false
  let isOver = false
  const onread: OnReadOpts = {
    buffer,
    callback: (count) => {
      bytes += count
      socket.emit('taken')
      // Reads no more before the next tick.
      return false
    },
  }
  const socket = connect({ host: hostname, port: Number(port), onread })
  const ticks = setInterval(() => socket.resume(), 1000 / ticksPerSecond)
  socket.on('error', () => (isCut = !isOver))
  socket.once('close', () => {
    isCut = !isOver
    clearInterval(ticks)
  })
  const askedAt = performance.now()
  socket.write(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\nAccept: */*\r\n\r\n`)
  await once(socket, 'taken')
  return {
    askedAt,
    get bytes() {
      return bytes
    },
    get isCut() {
      return isCut
    },
    end() {
      isOver = true
      socket.destroy()
    },
  }
}

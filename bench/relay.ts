import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

/** Stands before a listener, whatever is spoken there, and can be cut. */
export interface Relay {
  readonly url: URL
  /** Ends all connections; new ones may come. */
  cut(): void
  /** From now on nothing comes through, and nobody is told. */
  silence(): void
  /** Ends what was kept silent; new connections come through. */
  heal(): void
  close(): Promise<void>
}

export async function startRelay(target: URL): Promise<Relay> {
  const sockets = new Set<Socket>()
  let isSilent = false
  const keep = (socket: Socket): void => {
    sockets.add(socket)
    socket.on('error', () => undefined).once('close', () => sockets.delete(socket))
  }
  const endAll = (): void => {
    for (const socket of sockets) socket.destroy()
  }
  const server = createServer((near) => {
    keep(near)
    if (isSilent) return
    const far = connect(Number(target.port), target.hostname)
    keep(far)
    const pass = (from: Socket, to: Socket): void => {
      from.on('data', (bytes: Buffer) => {
        if (isSilent || to.write(bytes)) return
        from.pause()
        to.once('drain', () => from.resume())
      })
      from.once('end', () => isSilent || to.end()).once('close', () => isSilent || to.destroy())
    }
    pass(near, far)
    pass(far, near)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  return {
    url: new URL(`${target.protocol}//127.0.0.1:${port}`),
    cut: endAll,
    silence: () => (isSilent = true),
    heal() {
      isSilent = false
      endAll()
    },
    async close() {
      const closed = once(server, 'close')
      server.close()
      endAll()
      await closed
    },
  }
}

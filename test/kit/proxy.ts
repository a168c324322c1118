import { once } from 'node:events'
import { createServer, type IncomingMessage } from 'node:http'
import { createServer as createTlsServer } from 'node:https'
import { connect, type AddressInfo, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import type { TestCertificate } from './certificates.ts'

export interface ProxyOptions {
  /** The port on 127.0.0.1 that stands for what is asked for; for an authority that is not here it answers 502. */
  readonly to: Readonly<Record<string, number>>
  /** `user:password` that it wants. */
  readonly credentials?: string
  /** It is an https proxy. */
  readonly tls?: TestCertificate
  /** Takes connections, and never answers. */
  readonly isSilent?: boolean
}

/** A proxy on 127.0.0.1 that connects by name, and does nothing but CONNECT. */
export interface TestProxy {
  readonly url: URL
  /** What was asked for, `host:port`, in its order, whatever the answer was. */
  readonly connects: readonly string[]
  /** Answers this status to every CONNECT from now on. */
  refuse(status: number): void
  /** Ends before the test does. */
  close(): Promise<void>
}

/** Starts one that ends with the test. Its URL holds the credentials that it wants. */
export async function startProxy(
  test: Pick<TestContext, 'after'>,
  { to, credentials, tls, isSilent = false }: ProxyOptions,
): Promise<TestProxy> {
  const connects: string[] = []
  const sockets = new Set<Socket>()
  let refusal: number | undefined
  const server = tls === undefined ? createServer() : createTlsServer(tls)
  const keep = (socket: Socket) => {
    sockets.add(socket)
    socket.on('error', () => undefined).once('close', () => sockets.delete(socket))
  }

  function statusFor({ headers, url = '' }: IncomingMessage): number {
    if (refusal !== undefined) return refusal
    const wanted = credentials && `Basic ${Buffer.from(credentials).toString('base64')}`
    if (wanted !== undefined && headers['proxy-authorization'] !== wanted) return 407
    return to[url] === undefined ? 502 : 200
  }

  server.on('connection', keep)
  // Requests that want to be forwarded are a mistake of whoever sends them.
  server.on('request', (_request, response) => response.writeHead(405).end())
  server.on('connect', (request: IncomingMessage, socket: Socket) => {
    connects.push(request.url ?? '')
    if (isSilent) return
    const status = statusFor(request)
    if (status !== 200) return void socket.end(`HTTP/1.1 ${status} No\r\n\r\n`)
    const far = connect(to[request.url ?? ''] ?? 0, '127.0.0.1')
    keep(far)
    far.once('connect', () => {
      socket.write('HTTP/1.1 200 Connected\r\n\r\n')
      far.pipe(socket).pipe(far)
    })
    far.once('close', () => socket.destroy())
    socket.once('close', () => far.destroy())
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const login = credentials?.split(':').map(encodeURIComponent).join(':')
  const host = `${login === undefined ? '' : `${login}@`}127.0.0.1:${port}`
  let closed: Promise<unknown> | undefined
  const close = async () => {
    if (closed === undefined) {
      closed = once(server, 'close')
      server.close()
      for (const socket of sockets) socket.destroy()
    }
    await closed
  }
  test.after(close)
  return {
    url: new URL(`${tls === undefined ? 'http' : 'https'}://${host}/`),
    connects,
    refuse: (status) => (refusal = status),
    close,
  }
}

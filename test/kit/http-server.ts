import { connect, type Socket } from 'node:net'
import type { TestContext } from 'node:test'
import { connect as connectTls, type ConnectionOptions } from 'node:tls'
import {
  createHttpServer,
  type HttpServer,
  type HttpServerOptions,
} from '../../shared/http/server.ts'
import { createLogger, type LogFields, type Logger } from '../../shared/observability/log.ts'
import { createMetrics, type Metrics } from '../../shared/observability/metrics.ts'

/** A logged line, parsed. */
export type LogLine = LogFields & { readonly level: string; readonly msg: string }

/** A logger whose lines can be read back. */
export interface RecordingLog {
  readonly log: Logger
  readonly lines: readonly LogLine[]
}

/** Makes a logger that keeps its lines, of all levels. */
export function createRecordingLog(): RecordingLog {
  const lines: LogLine[] = []
  const log = createLogger({
    level: 'debug',
    write: (line) => {
      lines.push(JSON.parse(line) as LogLine)
    },
  })
  return { log, lines }
}

export interface TestServer extends RecordingLog {
  readonly server: HttpServer
  readonly url: URL
  readonly port: number
  readonly metrics: Metrics
}

/**
 * Starts a server with routes on a free port; it is drained when the test is over.
 * @param options.routes registers the routes
 */
export async function startHttpServer(
  test: Pick<TestContext, 'after'>,
  {
    routes,
    ...options
  }: Partial<HttpServerOptions> & { readonly routes?: (app: HttpServer['app']) => void },
): Promise<TestServer> {
  const recording = createRecordingLog()
  const metrics = createMetrics('primary', { processMetrics: false })
  const server = await createHttpServer({
    name: 'test',
    listener: { address: '127.0.0.1', port: 0 },
    log: recording.log,
    httpMetrics: metrics.http,
    ...options,
  })
  routes?.(server.app)
  const url = await server.listen()
  test.after(() => server.drain(0))
  return { ...recording, server, url, port: Number(url.port), metrics }
}

/** A TCP or TLS connection that sends exactly what it is told. */
export interface RawConnection {
  readonly socket: Socket
  readonly send: (text: string | Buffer) => void
  /** Waits until what was received matches, and returns all of it. */
  until(pattern: RegExp): Promise<string>
  /** Waits until the other side has closed, and returns all that was received. */
  closed(): Promise<string>
  readonly received: () => string
}

/** Opens a raw connection to a port of this machine; it is destroyed when the test is over. */
export async function connectRaw(
  test: Pick<TestContext, 'after'>,
  port: number,
  tls?: ConnectionOptions,
): Promise<RawConnection> {
  const host = '127.0.0.1'
  const socket = tls === undefined ? connect({ host, port }) : connectTls({ ...tls, host, port })
  test.after(() => socket.destroy())
  await new Promise<void>((resolve, reject) => {
    socket.once(tls === undefined ? 'connect' : 'secureConnect', resolve)
    socket.once('error', reject)
  })
  let received = ''
  let isClosed = false
  const waiters = new Set<() => void>()
  const wake = () => {
    for (const waiter of waiters) waiter()
  }
  socket.setEncoding('latin1')
  socket.on('data', (chunk) => {
    received += String(chunk)
    wake()
  })
  // A reset is one way for the other side to close.
  socket.on('error', () => undefined)
  socket.on('close', () => {
    isClosed = true
    wake()
  })
  const wait = (what: string, condition: () => boolean) =>
    new Promise<string>((resolve, reject) => {
      const timer = setTimeout(() => {
        reject(new Error(`waited in vain for ${what}; received: ${received}`))
      }, 10_000)
      const check = () => {
        if (!condition()) {
          if (!isClosed) return
          reject(new Error(`closed before ${what}; received: ${received}`))
        } else resolve(received)
        clearTimeout(timer)
        waiters.delete(check)
      }
      waiters.add(check)
      check()
    })
  return {
    socket,
    send: (text) => {
      socket.write(text)
    },
    until: (pattern) => wait(String(pattern), () => pattern.test(received)),
    closed: () => wait('the end of the connection', () => isClosed),
    received: () => received,
  }
}

import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { awaitsContinue } from './expect-continue.ts'
import type { RequestRecord } from './request-record.ts'
import { sentBytes } from './socket-progress.ts'
import type { Transfer } from './watchdog.ts'

/** How long a drain waits for the first request of a connection that was just accepted. */
const freshGraceMs = 1000

interface Connection {
  readonly socket: Socket
  readonly running: Set<Exchange>
  /** No request has come over it yet: one may be on its way. */
  isFresh: boolean
  /** Bytes when its last request was over; the next one's headers are read before we see it. */
  receivedBefore: number
  sentBefore: number
}

/** A request that is being answered. A class, because one is made for each request, with all of its functions. */
export class Exchange implements Transfer {
  readonly record: RequestRecord
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly startedAt = performance.now()
  readonly connection: Connection

  constructor(
    { record, request, response }: Pick<Exchange, 'record' | 'request' | 'response'>,
    connection: Connection,
  ) {
    this.record = record
    this.request = request
    this.response = response
    this.connection = connection
  }

  /** Of this request alone. */
  receivedBytes(): number {
    return this.connection.socket.bytesRead - this.connection.receivedBefore
  }

  /** Of this request alone. */
  sentBytes(): number {
    return this.connection.socket.bytesWritten - this.connection.sentBefore
  }

  movedBytes(): number {
    const { socket } = this.connection
    return socket.bytesRead + sentBytes(socket)
  }

  awaitsClient(): boolean {
    if (this.connection.socket.writableLength > 0) return true
    const { request } = this
    // A body that waits in our buffer waits for us.
    return !request.complete && request.readableLength === 0 && !awaitsContinue(request)
  }

  cut(reason: 'idle' | 'slow'): void {
    this.record.cut = reason
    this.connection.socket.destroy()
  }
}

/** Knows a server's open connections and running requests, and ends them in order. */
export class Connections {
  readonly #server: Server
  /** Under TLS both sockets of a connection are here: only the inner one carries requests. */
  readonly #connections = new Map<Socket, Connection>()
  #isDraining = false
  #sparesFresh = true
  #closed: Promise<void> | undefined

  constructor(server: Server) {
    this.#server = server
    server.on('connection', (socket) => this.#track(socket))
    server.on('secureConnection', (socket: Socket) => this.#track(socket))
  }

  #track(socket: Socket): Connection {
    const connection = {
      socket,
      running: new Set<Exchange>(),
      isFresh: true,
      receivedBefore: 0,
      sentBefore: 0,
    }
    this.#connections.set(socket, connection)
    socket.once('close', () => this.#connections.delete(socket))
    if (this.#isDraining) this.#closeIdle()
    return connection
  }

  /** Running requests, for the watchdog. */
  *[Symbol.iterator](): Iterator<Exchange> {
    for (const { running } of this.#connections.values()) yield* running
  }

  /** Registers a request that has just come in. */
  begin(record: RequestRecord, request: IncomingMessage, response: ServerResponse): Exchange {
    const { socket } = record
    const connection = this.#connections.get(socket) ?? this.#track(socket)
    const exchange = new Exchange({ record, request, response }, connection)
    connection.isFresh = false
    connection.running.add(exchange)
    if (this.#isDraining) response.shouldKeepAlive = false
    return exchange
  }

  /** Forgets a request whose response is over. */
  end(exchange: Exchange): void {
    const { connection } = exchange
    const { socket } = connection
    connection.running.delete(exchange)
    connection.receivedBefore = socket.bytesRead
    connection.sentBefore = socket.bytesWritten
    // What is left of the body would be read without anybody watching.
    if (!exchange.request.complete) socket.destroySoon()
    // The response may have promised to keep the connection before the drain began.
    if (this.#isDraining) setImmediate(() => this.#closeIdle())
  }

  /** Requests of one connection. */
  runningOn(socket: Socket): readonly Exchange[] {
    return [...(this.#connections.get(socket)?.running ?? [])]
  }

  /**
   * Refuses new connections, lets running requests finish, and closes each connection behind them. Called again, it
   * may only bring the deadline forward.
   * @returns when no connection is left: at the latest when those left at the deadline were cut
   */
  async drain(deadlineMs: number): Promise<void> {
    this.#closed ??= this.#startDrain(deadlineMs)
    const deadline = setTimeout(() => {
      for (const socket of this.#connections.keys()) socket.destroy()
    }, deadlineMs)
    await this.#closed
    clearTimeout(deadline)
  }

  async #startDrain(deadlineMs: number): Promise<void> {
    this.#isDraining = true
    const closed = new Promise<void>((resolve) => {
      this.#server.close(() => resolve())
    })
    for (const { response } of this) {
      if (!response.headersSent) response.shouldKeepAlive = false
    }
    this.#closeIdle()
    const freshOver = setTimeout(
      () => {
        this.#sparesFresh = false
        this.#closeIdle()
      },
      Math.min(freshGraceMs, deadlineMs / 2),
    )
    await closed
    clearTimeout(freshOver)
  }

  /** Closes connections that carry no request. One that has just sent half of its headers is among them. */
  #closeIdle(): void {
    this.#server.closeIdleConnections()
    for (const connection of this.#connections.values()) {
      if (this.#isIdle(connection)) connection.socket.destroy()
    }
  }

  #isIdle({ socket, running, isFresh }: Connection): boolean {
    const carriesRequests = !('setSecureContext' in this.#server) || 'encrypted' in socket
    if (!carriesRequests || running.size > 0 || (isFresh && this.#sparesFresh)) return false
    return socket.writableLength === 0
  }
}

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
  /** More than one only where a client pipelines. */
  readonly running: Exchange[]
  /** No request has come over it yet: one may be on its way. */
  isFresh: boolean
  /** Bytes when its last request was over; the next one's headers are read before we see it. */
  receivedBefore: number
  sentBefore: number
  /** When its last request was over, on the clock of `performance.now()`. */
  idleSince: number
}

/** What a request that is over took. */
export interface Finished {
  readonly milliseconds: number
  readonly receivedBytes: number
  readonly sentBytes: number
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
    const connection: Connection = {
      socket,
      running: [],
      isFresh: true,
      receivedBefore: 0,
      sentBefore: 0,
      idleSince: Infinity,
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
    connection.running.push(exchange)
    if (this.#isDraining) response.shouldKeepAlive = false
    return exchange
  }

  /** Forgets a request whose response is over. */
  end(exchange: Exchange): Finished {
    const { connection, startedAt } = exchange
    const { socket, running, receivedBefore, sentBefore } = connection
    if (running.length === 1) running.pop()
    else running.splice(running.indexOf(exchange), 1)
    connection.receivedBefore = socket.bytesRead
    connection.sentBefore = socket.bytesWritten
    connection.idleSince = performance.now()
    // What is left of the body would be read without anybody watching.
    if (!exchange.request.complete) socket.destroySoon()
    // The response may have promised to keep the connection before the drain began.
    if (this.#isDraining) setImmediate(() => this.#closeIdle())
    return {
      milliseconds: connection.idleSince - startedAt,
      receivedBytes: connection.receivedBefore - receivedBefore,
      sentBytes: connection.sentBefore - sentBefore,
    }
  }

  /** Closes connections over which no request has come for so long. */
  expire(keepAliveMs: number): void {
    const before = performance.now() - keepAliveMs
    for (const connection of this.#connections.values()) {
      const { socket, idleSince, receivedBefore } = connection
      // The next request's first bytes may have come.
      const isWaiting = idleSince < before && socket.bytesRead === receivedBefore
      if (isWaiting && this.#isIdle(connection)) socket.destroySoon()
    }
  }

  /** Requests of one connection. */
  runningOn(socket: Socket): readonly Exchange[] {
    return this.#connections.get(socket)?.running ?? []
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
    if (!carriesRequests || running.length > 0 || (isFresh && this.#sparesFresh)) return false
    return socket.writableLength === 0
  }
}

import { randomUUID } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'

/** The proxies whose forwarding headers count. */
export interface TrustedProxies {
  includes(address: string): boolean
}

/** What is known of a running request: routes fill it in, the access log and the metrics read it at the end. */
export interface RequestRecord {
  /** From the client's `X-Request-Id` or made here; echoed, logged, and sent on to the primary. */
  readonly id: string
  /** The kind of route, one of a bounded set: `blob`, `manifest`, a route's pattern; never the URL. */
  route: string
  /** The listener that it came in by. */
  readonly listener: string | undefined
  /** Whose word counts about the client's address. */
  readonly proxies: TrustedProxies
  /** What the answer says of how long its connection is kept. [RFC 2068 §19.7.1.1] */
  readonly keepAlive: string | undefined
  /**
   * The connection that it came by. Ask here, never the request: Node takes `request.socket` away when a loop over
   * the body is left early, while the answer is still to come.
   */
  readonly socket: Socket
  /** Who is at the other end of the connection, also once that is closed; empty when it was gone before. */
  readonly peer: string
  /** How a cache took part. */
  cache?: 'hit' | 'fill' | 'miss'
  /** Where the bytes came from: `memory`, `disk`, `primary`, an upstream's id. */
  source?: string
  /** Why the server cut the transfer. */
  cut?: 'idle' | 'slow'
  /** More fields of the access line. */
  fields?: Readonly<Record<string, unknown>>
}

const recordKey = Symbol('request record')

interface Recorded {
  [recordKey]?: RequestRecord
}

const requestIdGrammar = /^[A-Za-z0-9._:+/=-]{1,128}$/

/** The record of a request to one of our servers. */
export function recordOf(request: IncomingMessage): RequestRecord {
  return (
    (request as Recorded)[recordKey] ?? startRecord(request, { proxies: { includes: () => false } })
  )
}

/** Makes the record of a request that came in just now. */
export function startRecord(
  request: IncomingMessage,
  {
    listener,
    proxies,
    keepAlive,
  }: Pick<RequestRecord, 'proxies'> & Partial<Pick<RequestRecord, 'listener' | 'keepAlive'>>,
): RequestRecord {
  const { socket } = request
  const record: RequestRecord = {
    id: requestId(request),
    route: 'unknown',
    listener,
    proxies,
    keepAlive,
    socket,
    peer: socket.remoteAddress ?? '',
  }
  ;(request as Recorded)[recordKey] = record
  return record
}

/** A client's id is taken if it is harmless in a header, a log line and a search. */
function requestId(request: IncomingMessage): string {
  const given = request.headers['x-request-id']
  return typeof given === 'string' && requestIdGrammar.test(given) ? given : randomUUID()
}

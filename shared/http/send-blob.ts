import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import { namesDigest, parseEntityTags } from '../oci/entity-tags.ts'
import { formatErrors } from '../oci/errors.ts'
import {
  formatContentRange,
  formatUnsatisfiedRange,
  parseRange,
  type ByteRange,
} from '../stream/range.ts'
import { recordOf } from './request-record.ts'
import { endBody, sendBody, type BodySource, type SentBody } from './send-body.ts'
import { createSharedChunks } from './shared-chunks.ts'
import {
  createSendPool,
  plainBufferBytes,
  tlsBufferBytes,
  type SendPoolStats,
} from './send-pool.ts'
import { createWriteTurns } from './write-turns.ts'

/** A blob and what a response says of it. */
export type BlobToSend = BlobHead & ({ readonly handle: BodySource } | { readonly bytes: Buffer })

export interface BlobHead {
  /** The digest as the request wrote it. */
  readonly digest: string
  /** `application/octet-stream` unless given; a manifest's own media type, without parameters. */
  readonly contentType?: string
  /** `private, max-age=31536000, immutable` unless given: right for whatever is named by its digest. */
  readonly cacheControl?: string
  /** More headers: request id, `Age`, `Warning`. */
  readonly headers?: Readonly<Record<string, string>>
  /**
   * Lets the nginx in front send the file itself, by `X-Accel-Redirect` to this internal location. Only for
   * a trusted front that asked, and a blob that is whole on its disk.
   */
  readonly accel?: string
  /** Called just before the head is written: fastify's `reply.hijack()`, which forbids any other answer. */
  readonly beforeHead?: () => void
}

export interface SendResult {
  readonly status: 200 | 206 | 304 | 416
  /** Bytes of body that the client's connection took; 0 when the nginx in front sends them. */
  readonly bytes: number
  /** As `SentBody`; `accel`: the nginx in front sends it. */
  readonly outcome: SentBody['outcome'] | 'accel'
  /** What the source threw, when it was cut: a fault to log. */
  readonly cause?: unknown
}

/** The only writer of blob bytes to a response. */
export interface BlobSender {
  /**
   * Answers a GET or HEAD with a blob: whole, one range, 304 or 416. [distribution-spec, end-2; RFC 9110 §13, §14]
   * Resolves when the connection took the body or the client went away; the caller then closes the handle,
   * whose last read may still be in flight. A source that fails cuts the connection: the body stays short.
   * @throws what the source throws before anything was sent: the caller may still answer something else
   */
  send(request: IncomingMessage, response: ServerResponse, blob: BlobToSend): Promise<SendResult>
  /**
   * As `send`, for bytes that are in memory: the answer is written in this turn of the loop.
   * @param onClosed called once, when the connection took the body or the client went away
   */
  sendBytes(
    request: IncomingMessage,
    response: ServerResponse,
    blob: BlobHead & { readonly bytes: Buffer },
    onClosed: (result: SendResult) => void,
  ): void
  stats(): SendPoolStats & { readonly transfers: number }
}

/** A small part of a millisecond's writing; and a burst of requests holds bodies up for a few milliseconds. */
const turnLimits = { bytesPerTurn: 256 * 1024, maxYields: 8 }

/** @param maxBufferBytes what the buffers of all transfers may take together */
export function createBlobSender({ maxBufferBytes }: { maxBufferBytes: number }): BlobSender {
  const pool = createSendPool(maxBufferBytes, () => shared.reclaim())
  const shared = createSharedChunks(pool)
  const turns = createWriteTurns(turnLimits)
  let transfers = 0

  const sendPart = async (
    request: IncomingMessage,
    response: ServerResponse,
    { source, start, end, status, head }: PartAnswer,
    beforeHead: BlobHead['beforeHead'],
  ): Promise<SentBody> => {
    const writeHead = (): void => {
      beforeHead?.()
      response.writeHead(status, head)
    }
    const bufferBytes = 'encrypted' in recordOf(request).socket ? tlsBufferBytes : plainBufferBytes
    transfers++
    const leave = turns.enter()
    try {
      const part = { source, start, end, pool, shared, turns, bufferBytes, writeHead }
      return await sendBody(response, part)
    } finally {
      transfers--
      leave()
    }
  }

  return {
    async send(request, response, blob) {
      const answer = answerTo(request, blob)
      if ('source' in answer) {
        const sent = await sendPart(request, response, answer, blob.beforeHead)
        return { status: answer.status, ...sent }
      }
      return new Promise((resolve) => sendReady(response, answer, blob.beforeHead, resolve))
    },
    sendBytes(request, response, blob, onClosed) {
      sendReady(response, answerTo(request, blob), blob.beforeHead, onClosed)
    },
    stats() {
      const { aliveBytes, freeBytes } = pool.stats()
      return { aliveBytes, freeBytes: freeBytes + shared.idleBytes(), transfers }
    },
  }
}

function sendReady(
  response: ServerResponse,
  { status, head, body }: ReadyAnswer,
  beforeHead: BlobHead['beforeHead'],
  onClosed: (result: SendResult) => void,
): void {
  beforeHead?.()
  response.writeHead(status, head)
  endBody(response, body, (sent) => {
    const outcome = 'X-Accel-Redirect' in head ? 'accel' : sent.outcome
    onClosed({ status, bytes: sent.bytes, outcome })
  })
}

interface PartAnswer {
  readonly status: 200 | 206
  readonly head: OutgoingHttpHeaders
  readonly source: BodySource
  /** First byte, and the one behind the last. */
  readonly start: number
  readonly end: number
}

interface ReadyAnswer {
  readonly status: SendResult['status']
  readonly head: OutgoingHttpHeaders
  readonly body?: Buffer
}

const immutable = 'private, max-age=31536000, immutable'

/** What to answer, from the request's method and conditions. */
function answerTo(request: IncomingMessage, blob: BlobHead & { bytes: Buffer }): ReadyAnswer
function answerTo(request: IncomingMessage, blob: BlobToSend): PartAnswer | ReadyAnswer
function answerTo(request: IncomingMessage, blob: BlobToSend): PartAnswer | ReadyAnswer {
  const size = 'bytes' in blob ? blob.bytes.length : blob.handle.size
  const held = parseEntityTags(request.headers['if-none-match'])
  if (namesDigest(held, blob.digest)) return { status: 304, head: commonHead(blob) }
  const head: OutgoingHttpHeaders = {
    'Content-Type': blob.contentType ?? 'application/octet-stream',
    'Content-Length': size,
    'Accept-Ranges': 'bytes',
    ...commonHead(blob),
  }
  // HEAD ignores Range. [RFC 9110 §14.2]
  if (request.method === 'HEAD') return { status: 200, head }
  const range = rangeOf(request, { digest: blob.digest, size })
  if (range.kind === 'unsatisfiable') return refuseRange(commonHead(blob), size)
  if (blob.accel !== undefined) {
    // The nginx in front has the Range header too, and reads it itself.
    return { status: 200, head: { ...head, 'Content-Length': 0, 'X-Accel-Redirect': blob.accel } }
  }
  // Several ranges get everything: a 206 with the first of them would be taken for all.
  if (range.kind !== 'part') return bytesOf(blob, { status: 200, head, start: 0, end: size })
  const { start, end: last } = range
  head['Content-Length'] = last + 1 - start
  head['Content-Range'] = formatContentRange(start, last, size)
  return bytesOf(blob, { status: 206, head, start, end: last + 1 })
}

function commonHead(blob: BlobToSend): OutgoingHttpHeaders {
  return {
    'Docker-Distribution-API-Version': 'registry/2.0',
    'Docker-Content-Digest': blob.digest,
    ETag: `"${blob.digest}"`,
    'Cache-Control': blob.cacheControl ?? immutable,
    'X-Content-Type-Options': 'nosniff',
    ...blob.headers,
  }
}

function bytesOf(blob: BlobToSend, part: Omit<PartAnswer, 'source'>): PartAnswer | ReadyAnswer {
  const { status, head, start, end } = part
  if (start === end) return { status, head }
  if ('handle' in blob) return { ...part, source: blob.handle }
  const whole = start === 0 && end === blob.bytes.length
  return { status, head, body: whole ? blob.bytes : blob.bytes.subarray(start, end) }
}

function refuseRange(common: OutgoingHttpHeaders, size: number): ReadyAnswer {
  const message = `the blob has ${size} bytes: ask for a range inside it`
  const body = Buffer.from(formatErrors([{ code: 'RANGE_INVALID', message }]))
  const head = {
    ...common,
    'Cache-Control': 'no-store',
    'Content-Type': 'application/json',
    'Content-Length': body.length,
    'Content-Range': formatUnsatisfiedRange(size),
  }
  return { status: 416, head, body }
}

function rangeOf(
  { headers }: IncomingMessage,
  { digest, size }: { digest: string; size: number },
): ByteRange {
  const ifRange = headers['if-range']?.toString()
  // A part is only of use to a client that holds the rest of the same bytes. [RFC 9110 §13.1.5]
  if (ifRange !== undefined && unquote(ifRange) !== digest) return { kind: 'whole' }
  return headers.range === undefined ? { kind: 'whole' } : parseRange(headers.range, size)
}

function unquote(tag: string): string {
  return tag.trim().replace(/^"(.*)"$/, '$1')
}

import { createBulkAgent, createHttpClient, HttpError } from '../../shared/http/client.ts'
import { createGuard } from '../../shared/http/guard.ts'
import type { ChooseProxy } from '../../shared/http/proxy.ts'
import type { LogPlace } from '../../shared/replication/chain.ts'
import type { EventStream } from '../../shared/replication/events.ts'
import {
  aliveMs,
  feedProtocol,
  instanceHeader,
  internalPaths,
  maxLineBytes,
  type FeedLine,
  type LeaseAnswerLine,
} from '../../shared/replication/feed.ts'
import type { LeaseRequest } from '../../shared/replication/lease.ts'
import type { PullReport } from '../../shared/replication/pulls.ts'
import { parseErrors } from '../../shared/oci/errors.ts'
import { linesOf } from '../../shared/stream/lines.ts'
import {
  requestBulk,
  type BulkResponse,
  type UpgradeRequest,
} from '../../shared/upstream/bulk-body.ts'
import { createFeedLeases, type FeedLeases } from './feed-leases.ts'
import type { OwnIdentity } from './identity.ts'

/** The primary says no, by a status that is no fault of the way to it. */
export class LinkRefusedError extends Error {
  override readonly name = 'LinkRefusedError'
  readonly status: number

  constructor(status: number, message: string) {
    super(message)
    this.status = status
  }
}

/** Connections to the primary's internal listener. Whoever opened them closes them. */
export interface PrimaryLink {
  /** Asks over the feed, where there is one that takes it; else, or when that brings no answer soon, by itself. @throws LinkRefusedError, HttpError */
  lease(request: LeaseRequest): Promise<unknown>
  /** @throws LinkRefusedError, HttpError */
  reportPulls(report: PullReport): Promise<unknown>
  /** It must be read or cancelled. @throws LinkRefusedError, HttpError */
  feed(from: LogPlace, signal: AbortSignal): Promise<Feed>
  /** A stream's state, not older than `after`. @throws LinkRefusedError, HttpError */
  snapshot(stream: EventStream, after: number, signal: AbortSignal): Promise<BulkResponse>
  close(): Promise<void>
}

/** The log as it comes. */
export interface Feed {
  /** Without an end. @throws RangeError, SyntaxError for what is no line; what the connection throws when it is cut */
  lines(): AsyncGenerator<FeedLine>
  cancel(): void
}

export interface LinkOptions {
  readonly url: URL
  readonly identity: OwnIdentity
  /** Which start of this edge it is. */
  readonly instance: string
  readonly chooseProxy: ChooseProxy
  readonly connectTimeoutMs: number
  /**
   * How long an answer to what was asked over the feed is waited for. It comes behind what was sent before, and behind
   * what is being recorded here, which may be much; asked in another way, the primary answers at once.
   */
  readonly feedAnswerMs?: number
}

/** A feed shows that it lives; one that does not is as good as cut. */
const stallMs = 3 * aliveMs
/** A snapshot is made before its first byte. */
const headersTimeoutMs = 120_000
const answerTimeoutMs = 10_000

export function openLink(options: LinkOptions): PrimaryLink {
  const { url, identity, instance, chooseProxy, connectTimeoutMs, feedAnswerMs = 5000 } = options
  const shared = {
    guard: createGuard({ configured: [url] }),
    ca: identity.ca.join('\n'),
    clientCertificate: { cert: identity.certificate, key: identity.key },
    ownOrigin: url,
    chooseProxy,
    connectTimeoutMs,
  }
  const http = createHttpClient({
    ...shared,
    headersTimeoutMs: answerTimeoutMs,
    stallMs: answerTimeoutMs,
  })
  const bulk = createBulkAgent({ ...shared, headersTimeoutMs, stallMs })

  let overFeed: FeedLeases | undefined
  let endFeed: (() => void) | undefined
  const get = async (
    path: string,
    signal: AbortSignal,
    upgrade?: UpgradeRequest,
  ): Promise<BulkResponse> => {
    const response = await requestBulk(bulk, new URL(path, url), {
      method: 'GET',
      headers: { [instanceHeader]: instance },
      signal,
      ...(upgrade && { upgrade }),
    })
    if (response.status === 200 || response.send !== undefined) return response
    const body = Buffer.alloc(4096)
    const length = await response.read(body)
    response.discard()
    throw refusalOf(response.status, body.toString('utf8', 0, length))
  }
  const post = async (path: string, request: object): Promise<unknown> => {
    const { status, body } = await http.request(new URL(path, url), {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(request),
    })
    const text = body.toString('utf8')
    if (status !== 200) throw refusalOf(status, text)
    return JSON.parse(text) as unknown
  }
  return {
    async lease(request) {
      const answer = await overFeed?.ask(request)
      if (answer === undefined) return post(internalPaths.lease, request)
      if ('granted' in answer) return answer.granted
      throw refusal(answer.refused)
    },
    reportPulls: (report) => post(internalPaths.pulls, report),
    async feed({ epoch, seq }, signal) {
      const path = `${internalPaths.feed}?epoch=${epoch}&seq=${seq}`
      const body = await get(path, signal, { protocol: feedProtocol, stallMs })
      const leases = body.send && createFeedLeases(body.send, feedAnswerMs)
      overFeed = leases
      const end = () => {
        if (overFeed === leases) overFeed = undefined
        leases?.end()
      }
      // It is no connection of the agent's any more.
      endFeed = () => {
        end()
        body.cancel()
      }
      return {
        async *lines() {
          try {
            for await (const text of readLines(body, maxLineBytes)) {
              const line = JSON.parse(text) as FeedLine | LeaseAnswerLine
              if ('nonce' in line) leases?.take(line)
              else yield line
            }
          } finally {
            end()
          }
        },
        cancel: endFeed,
      }
    },
    snapshot: (stream, after, signal) =>
      get(`${internalPaths.snapshot}${stream}?after=${after}`, signal),
    async close() {
      endFeed?.()
      http.close()
      await bulk.destroy()
    },
  }
}

function refusalOf(status: number, body: string): Error {
  return refusal({ status, message: parseErrors(body)[0]?.message ?? 'without a reason' })
}

function refusal({ status, message }: { readonly status: number; readonly message: string }) {
  const said = `the primary answers ${status}: ${message}`
  return status >= 400 && status < 500
    ? new LinkRefusedError(status, said)
    : new HttpError('network', said)
}

/**
 * The lines of a body, without their ends.
 * @throws RangeError for a line that is longer than `maxBytes`; what the body throws when it is cut
 */
export function readLines(
  body: Pick<BulkResponse, 'read'>,
  maxBytes: number,
): AsyncGenerator<string> {
  return linesOf(chunksOf(body), maxBytes)
}

/** Each is over when the next one is asked for. */
async function* chunksOf({ read }: Pick<BulkResponse, 'read'>): AsyncGenerator<Buffer> {
  const buffer = Buffer.alloc(64 * 1024)
  for (let length = await read(buffer); length > 0; length = await read(buffer))
    yield buffer.subarray(0, length)
}

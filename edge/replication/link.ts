import { createBulkAgent, createHttpClient, HttpError } from '../../shared/http/client.ts'
import { createGuard } from '../../shared/http/guard.ts'
import type { ChooseProxy } from '../../shared/http/proxy.ts'
import type { LogPlace } from '../../shared/replication/chain.ts'
import type { EventStream } from '../../shared/replication/events.ts'
import { aliveMs, instanceHeader, internalPaths } from '../../shared/replication/feed.ts'
import type { LeaseRequest } from '../../shared/replication/lease.ts'
import type { PullReport } from '../../shared/replication/pulls.ts'
import { parseErrors } from '../../shared/oci/errors.ts'
import { requestBulk, type BulkResponse } from '../../shared/upstream/bulk-body.ts'
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
  /** @throws LinkRefusedError, HttpError */
  lease(request: LeaseRequest): Promise<unknown>
  /** @throws LinkRefusedError, HttpError */
  reportPulls(report: PullReport): Promise<unknown>
  /** Lines without an end. The body must be read or cancelled. @throws LinkRefusedError, HttpError */
  feed(from: LogPlace, signal: AbortSignal): Promise<BulkResponse>
  /** A stream's state, not older than `after`. @throws LinkRefusedError, HttpError */
  snapshot(stream: EventStream, after: number, signal: AbortSignal): Promise<BulkResponse>
  close(): Promise<void>
}

export interface LinkOptions {
  readonly url: URL
  readonly identity: OwnIdentity
  /** Which start of this edge it is. */
  readonly instance: string
  readonly chooseProxy: ChooseProxy
  readonly connectTimeoutMs: number
}

/** A feed shows that it lives; one that does not is as good as cut. */
const stallMs = 3 * aliveMs
/** A snapshot is made before its first byte. */
const headersTimeoutMs = 120_000
const answerTimeoutMs = 10_000

export function openLink(options: LinkOptions): PrimaryLink {
  const { url, identity, instance, chooseProxy, connectTimeoutMs } = options
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

  const get = async (path: string, signal: AbortSignal): Promise<BulkResponse> => {
    const response = await requestBulk(bulk, new URL(path, url), {
      method: 'GET',
      headers: { [instanceHeader]: instance },
      signal,
    })
    if (response.status === 200) return response
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
    lease: (request) => post(internalPaths.lease, request),
    reportPulls: (report) => post(internalPaths.pulls, report),
    feed: ({ epoch, seq }, signal) =>
      get(`${internalPaths.feed}?epoch=${epoch}&seq=${seq}`, signal),
    snapshot: (stream, after, signal) =>
      get(`${internalPaths.snapshot}${stream}?after=${after}`, signal),
    async close() {
      http.close()
      await bulk.destroy()
    },
  }
}

function refusalOf(status: number, body: string): Error {
  const message = `the primary answers ${status}: ${parseErrors(body)[0]?.message ?? 'without a reason'}`
  return status >= 400 && status < 500
    ? new LinkRefusedError(status, message)
    : new HttpError('network', message)
}

/**
 * The lines of a body, without their ends.
 * @throws RangeError for a line that is longer than `maxBytes`; what the body throws when it is cut
 */
export async function* readLines(
  body: Pick<BulkResponse, 'read'>,
  maxBytes: number,
): AsyncGenerator<string> {
  const buffer = Buffer.alloc(64 * 1024)
  let rest = Buffer.alloc(0)
  for (;;) {
    const length = await body.read(buffer)
    if (length === 0) {
      if (rest.length > 0) throw new RangeError('the last line was cut')
      return
    }
    rest = Buffer.concat([rest, buffer.subarray(0, length)])
    let from = 0
    for (let end = rest.indexOf(10); end !== -1; end = rest.indexOf(10, from)) {
      yield rest.toString('utf8', from, end)
      from = end + 1
    }
    rest = rest.subarray(from)
    if (rest.length > maxBytes) throw new RangeError(`a line is longer than ${maxBytes} bytes`)
  }
}

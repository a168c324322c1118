import type { Duplex } from 'node:stream'
import { ApiError } from '../../shared/api/errors.ts'
import type { Logger } from '../../shared/observability/log.ts'
import {
  maxLeaseBytes,
  type FeedRequestLine,
  type LeaseAnswerLine,
} from '../../shared/replication/feed.ts'
import type { LeaseRequest } from '../../shared/replication/lease.ts'
import { linesOf } from '../../shared/stream/lines.ts'
import { writeAll } from '../../shared/stream/write.ts'
import type { Envelope } from '../../shared/trust/statement.ts'
import { isLeaseRequest } from './lease-request.ts'

export interface AnswerLeasesDeps {
  /** @throws ApiError where the edge may have none */
  readonly grant: (request: LeaseRequest) => Promise<Envelope>
  readonly log: Logger
}

/**
 * Answers the requests for leases that an edge sends over its feed, one after the other, until either side ends that;
 * what breaks the protocol ends it too.
 */
export async function answerLeases(feed: Duplex, deps: AnswerLeasesDeps): Promise<void> {
  try {
    for await (const text of linesOf(feed, maxLeaseBytes)) {
      const line = JSON.parse(text) as Partial<FeedRequestLine>
      // What a newer edge says besides is passed by.
      if (line.lease === undefined) continue
      // An edge that does not read is not answered again before it does.
      await writeAll(feed, `${JSON.stringify(await answerTo(line.lease, deps))}\n`)
    }
  } catch (err) {
    deps.log.debug({ err }, 'an edge asks no more over its feed')
  } finally {
    feed.destroy()
  }
}

async function answerTo(
  request: unknown,
  { grant, log }: AnswerLeasesDeps,
): Promise<LeaseAnswerLine> {
  if (!isLeaseRequest(request)) throw new ApiError('BAD_REQUEST', 'this is no request for a lease')
  const { nonce } = request
  try {
    return { nonce, granted: await grant(request) }
  } catch (err) {
    if (err instanceof ApiError)
      return { nonce, refused: { status: err.status, message: err.message } }
    log.error({ err }, 'a lease could not be given')
    return { nonce, refused: { status: 500, message: 'the primary could not give a lease' } }
  }
}

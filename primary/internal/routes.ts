import { pipeline } from 'node:stream/promises'
import type { FastifyInstance, FastifyRequest } from 'fastify'
import { ApiError } from '../../shared/api/errors.ts'
import { acceptJson } from '../../shared/http/bodies.ts'
import { requirePermissions } from '../../shared/http/permissions.ts'
import { mayUpgrade, switchProtocols } from '../../shared/http/upgrade.ts'
import type { Logger } from '../../shared/observability/log.ts'
import { isEntitled, streamOfText } from '../../shared/replication/events.ts'
import {
  feedProtocol,
  instanceHeader,
  internalPaths,
  maxLeaseBytes,
} from '../../shared/replication/feed.ts'
import type { Feeds } from '../events/feed.ts'
import type { Leases } from '../events/lease.ts'
import type { StreamSnapshots } from '../store/snapshot-files.ts'
import { answerLeases } from './feed-leases.ts'
import { createIdentify, type IdentifyDeps } from './identify.ts'
import { isLeaseRequest } from './lease-request.ts'
import { pullReportIn } from './pull-report-request.ts'
import type { TakeReport } from './pull-reports.ts'

export interface InternalRouteDeps extends IdentifyDeps {
  readonly feeds: Feeds
  readonly leases: Leases
  readonly snapshots: StreamSnapshots
  readonly takeReport: TakeReport
  /** Whether the log is behind itself: nothing is told of it then. */
  readonly isHeld: () => boolean
  readonly log: Logger
}

const heldMessage = 'the log is behind itself: it goes on when an administrator says so'
/** Of `maxReportedPulls` lines, as long as they may be. */
const maxReportBytes = 1024 * 1024

/** What edges alone may ask for, by their certificates. Each request is authorised against the roster as it is now. */
export function internalRoutes(app: FastifyInstance, deps: InternalRouteDeps): void {
  requirePermissions(app)
  const edges = { config: { permission: { of: 'edge' } } }
  const identify = createIdentify(deps)

  app.get(internalPaths.feed, edges, async (request, reply) => {
    const edge = await identify(request.raw)
    const from = placeIn(request)
    const instance = String(request.headers[instanceHeader] ?? '')
    const address = request.raw.socket.remoteAddress ?? ''
    reply.hijack()
    const { raw: response } = reply
    const { socket } = request.raw
    const isTwoWay = mayUpgrade(response, feedProtocol)
    const refusal = await deps.feeds.open(
      { edge, instance, address, from },
      isTwoWay
        ? { stream: socket, begin: () => switchProtocols(response, feedProtocol) }
        : {
            stream: response,
            begin: () =>
              response.writeHead(200, {
                'Content-Type': 'application/x-ndjson',
                'Cache-Control': 'no-store',
              }),
          },
    )
    if (refusal === 'behind')
      throw new ApiError('CONFLICT', 'the log does not reach back to there: take snapshots')
    if (refusal === 'held')
      throw new ApiError('UNAVAILABLE', heldMessage, { headers: { 'Retry-After': '30' } })
    if (refusal === 'busy')
      throw new ApiError('UNAVAILABLE', 'many edges are catching up: try again soon', {
        headers: { 'Retry-After': '2' },
      })
    if (isTwoWay)
      void answerLeases(socket, {
        // Who it is may end while it is connected.
        grant: async (asked) => deps.leases.grant(await identify({ socket }), asked),
        log: deps.log,
      })
  })

  app.get(`${internalPaths.snapshot}:stream`, edges, async (request, reply) => {
    const { scope } = await identify(request.raw)
    const { stream: text } = request.params as { readonly stream: string }
    const stream = streamOfText(text)
    // Out of scope is unknown.
    if (stream === undefined || !isEntitled(scope, stream))
      throw new ApiError('NOT_FOUND', 'there is no such stream')
    if (deps.isHeld())
      throw new ApiError('UNAVAILABLE', heldMessage, { headers: { 'Retry-After': '30' } })
    const { after } = request.query as { readonly after?: unknown }
    const lines = await deps.snapshots.open(stream, countOf(after ?? 0, 'after'))
    reply.hijack()
    reply.raw.writeHead(200, {
      'Content-Type': 'application/x-ndjson',
      'Cache-Control': 'no-store',
    })
    // Cut short, it lacks the line that signs it.
    await pipeline(lines, reply.raw).catch(() => reply.raw.destroy())
  })

  app.register((scope, _options, done) => {
    acceptJson(scope, { maxBytes: maxLeaseBytes })
    scope.post(internalPaths.lease, edges, async (request, reply) => {
      const edge = await identify(request.raw)
      const { body } = request
      if (!isLeaseRequest(body)) throw new ApiError('BAD_REQUEST', 'this is no request for a lease')
      return reply
        .header('Cache-Control', 'no-store')
        .type('application/json')
        .send(JSON.stringify(await deps.leases.grant(edge, body)))
    })
    done()
  })

  app.register((scope, _options, done) => {
    acceptJson(scope, { maxBytes: maxReportBytes })
    scope.post(internalPaths.pulls, edges, async (request, reply) => {
      const { edgeId } = await identify(request.raw)
      const answer = await deps.takeReport(edgeId, pullReportIn(request.body))
      return reply
        .header('Cache-Control', 'no-store')
        .type('application/json')
        .send(JSON.stringify(answer))
    })
    done()
  })
}

function placeIn({ query }: FastifyRequest): { readonly epoch: number; readonly seq: number } {
  const { epoch, seq } = query as { readonly epoch?: unknown; readonly seq?: unknown }
  return { epoch: countOf(epoch, 'epoch'), seq: countOf(seq, 'seq') }
}

function countOf(value: unknown, name: string): number {
  const number = Number(value)
  if (!Number.isSafeInteger(number) || number < 0)
    throw new ApiError('BAD_REQUEST', `${name} must be a number of the log`)
  return number
}

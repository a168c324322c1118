import type { IncomingMessage, ServerResponse } from 'node:http'
import { ApiError } from '../api/errors.ts'
import { formatErrors, OciError, type OciErrorEntry } from '../oci/errors.ts'
import { badEncoding, isRegistryUrl } from '../oci/paths.ts'
import type { Logger } from '../observability/log.ts'
import { drainBody, isBodyRead } from './drain-body.ts'
import { recordOf } from './request-record.ts'

/** What a refused upload may cost before its answer. */
export interface DrainLimits {
  readonly maxBytes: number
  readonly maxMs: number
}

interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly entries: readonly OciErrorEntry[]
}

/**
 * Answers whatever a route threw: a refusal as itself, anything else as a fault, which is logged here and nowhere
 * else, and answered 500 with the request's id. Reads the rest of the body first. If the response has begun
 * already, it is cut, so that no client takes it for whole. Headers that were set before are kept.
 */
export async function answerError(
  error: unknown,
  { request, response }: { readonly request: IncomingMessage; readonly response: ServerResponse },
  { log, drain }: { readonly log: Logger; readonly drain: DrainLimits },
): Promise<void> {
  const answer = refusalOf(error, request) ?? faultAnswer(error, request, log)
  if (response.headersSent) {
    response.destroy()
    return
  }
  await closeUnlessRead(request, response, drain)
  writeErrors(response, answer)
}

/** Reads the rest of the body; where that goes too far, the connection closes behind the answer. */
export async function closeUnlessRead(
  request: IncomingMessage,
  response: ServerResponse,
  drain: DrainLimits,
): Promise<void> {
  if (isBodyRead(request)) return
  if (!(await drainBody(request, drain))) response.shouldKeepAlive = false
}

function writeErrors(response: ServerResponse, { status, headers, entries }: Answer): void {
  if (response.destroyed || response.writableEnded) return
  const body = Buffer.from(formatErrors(entries))
  for (const name of bodyHeaders) response.removeHeader(name)
  response.writeHead(status, {
    ...headers,
    'Content-Type': 'application/json',
    'Content-Length': body.length,
  })
  response.end(body)
}

/** What a route may have said about the body that it then did not send. */
const bodyHeaders = [
  'content-type',
  'content-length',
  'content-range',
  'content-encoding',
  'transfer-encoding',
  'etag',
  'cache-control',
  'docker-content-digest',
]

/** A refusal of ours as it is, and what fastify refuses by itself: a body that does not fit the schema, a broken URL. */
function refusalOf(error: unknown, request: IncomingMessage): Answer | undefined {
  if (error instanceof OciError || error instanceof ApiError) return error
  if (!(error instanceof Error)) return undefined
  if (!('statusCode' in error) || typeof error.statusCode !== 'number') return undefined
  const { statusCode: status, message } = error
  if (status < 400 || status > 499) return undefined
  const isRegistry = isRegistryUrl(request.url ?? '')
  if ('code' in error && error.code === 'FST_ERR_BAD_URL') {
    return refusal(status, isRegistry ? 'NAME_INVALID' : 'BAD_REQUEST', badEncoding)
  }
  return refusal(status, isRegistry ? 'UNSUPPORTED' : (apiCodes[status] ?? 'BAD_REQUEST'), message)
}

function refusal(status: number, code: string, message: string): Answer {
  return { status, headers: {}, entries: [{ code, message }] }
}

const apiCodes: Readonly<Record<number, string>> = {
  404: 'NOT_FOUND',
  405: 'METHOD_NOT_ALLOWED',
  413: 'REQUEST_ENTITY_TOO_LARGE',
  415: 'UNSUPPORTED_MEDIA_TYPE',
  422: 'UNPROCESSABLE_ENTITY',
}

function faultAnswer(error: unknown, request: IncomingMessage, log: Logger): Answer {
  const record = recordOf(request)
  const fields = {
    err: error,
    requestId: record.id,
    route: record.route,
    method: request.method ?? '',
  }
  if (isGone(request)) log.debug(fields, 'the client went away')
  else log.error(fields, 'a request failed')
  return {
    status: 500,
    headers: {},
    entries: [
      {
        code: 'UNKNOWN',
        message: `something broke here; the log has it under the request id ${record.id}`,
      },
    ],
  }
}

/** A client that hung up makes reads and writes fail; that is its right and no fault of ours. */
function isGone(request: IncomingMessage): boolean {
  return recordOf(request).socket.destroyed || (request.destroyed && !request.complete)
}

import type { IncomingMessage, ServerResponse } from 'node:http'
import { redactFields, type Logger } from '../observability/log.ts'
import type { HttpMetrics } from '../observability/metrics.ts'
import { clientAddressOf } from './forwarded.ts'
import type { RequestRecord } from './request-record.ts'

/** A request that is over. */
export interface FinishedExchange {
  readonly record: RequestRecord
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly milliseconds: number
  readonly receivedBytes: number
  readonly sentBytes: number
}

/** Routes whose lines are noise: probes ask every few seconds. */
const quietRoutes: ReadonlySet<string> = new Set(['/healthz', '/readyz'])

/** Writes the one line of a request, and counts it. Never the URL: its query may hold what is secret. */
export function finishExchange(
  exchange: FinishedExchange,
  { log, httpMetrics }: { readonly log: Logger; readonly httpMetrics: HttpMetrics },
): void {
  const { record, request, response } = exchange
  const status = response.headersSent ? response.statusCode : 0
  const method = request.method ?? ''
  httpMetrics.finished({
    route: record.route,
    method,
    status,
    seconds: exchange.milliseconds / 1000,
    receivedBytes: exchange.receivedBytes,
    sentBytes: exchange.sentBytes,
  })
  if (!log.isLevelEnabled('info') || quietRoutes.has(record.route)) return
  log.infoLine(formatLine(exchange, { method, status }))
}

/**
 * The members of the line, as JSON. Method, address, request id and the words of ours hold nothing that would need
 * an escape.
 */
function formatLine(
  { record, request, response, milliseconds, receivedBytes, sentBytes }: FinishedExchange,
  { method, status }: { readonly method: string; readonly status: number },
): string {
  const { cache, source, listener, cut, fields } = record
  return (
    `"method":"${method}","route":${JSON.stringify(record.route)},"status":${status},"bytes":${sentBytes},` +
    `"receivedBytes":${receivedBytes},"ms":${Math.round(milliseconds * 100) / 100}` +
    (cache === undefined ? '' : `,"cache":"${cache}"`) +
    (source === undefined ? '' : `,"source":${JSON.stringify(source)}`) +
    `,"client":"${clientAddressOf(request)}","requestId":"${record.id}"` +
    (listener === undefined ? '' : `,"listener":"${listener}"`) +
    (cut === undefined ? '' : `,"cut":"${cut}"`) +
    (response.writableFinished ? '' : ',"aborted":true') +
    formatFields(fields) +
    ',"msg":"request"'
  )
}

function formatFields(fields: RequestRecord['fields']): string {
  const members = fields === undefined ? '' : JSON.stringify(redactFields(fields)).slice(1, -1)
  return members === '' ? '' : `,${members}`
}

import {
  ServerResponse,
  type IncomingMessage,
  type OutgoingHttpHeader,
  type OutgoingHttpHeaders,
} from 'node:http'
import { recordOf } from './request-record.ts'

type Headers = OutgoingHttpHeaders | OutgoingHttpHeader[]

/**
 * Node's response, which says its request's id, and how long its connection is kept, whoever writes the head.
 * `setHeader` for that would send every response down Node's slow path, which checks and merges each header by itself:
 * a tenth of a small answer.
 */
export class IdentifiedResponse<
  Request extends IncomingMessage = IncomingMessage,
> extends ServerResponse<Request> {
  override writeHead(status: number, reason?: string | Headers, headers?: Headers): this {
    const given = typeof reason === 'string' ? headers : reason
    const { id, keepAlive } = recordOf(this.req)
    const own: Record<string, string> = { 'X-Request-Id': id }
    if (keepAlive !== undefined) own['Keep-Alive'] = keepAlive
    // A list of names and values, which nobody here writes, has its own rules.
    const all = Array.isArray(given)
      ? [...given, ...Object.entries(own).flat()]
      : { ...given, ...own }
    return typeof reason === 'string'
      ? super.writeHead(status, reason, all)
      : super.writeHead(status, all)
  }
}

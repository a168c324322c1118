import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { RepositoryName } from '../../shared/oci/reference.ts'
import type { UpstreamRequest } from '../../shared/upstream/fetch.ts'
import type { PullGrant } from '../access/authorise.ts'
import type { Origin } from '../cache/cache-index.ts'
import type { Target } from '../upstreams/target.ts'

/** One request that is allowed. */
export interface Asked {
  readonly request: IncomingMessage
  readonly response: ServerResponse
  readonly target: Target
  readonly grant: PullGrant
  readonly origin: Origin
  /** As the client calls it: with the upstream's prefix, without the default namespace. */
  readonly repository: RepositoryName
  readonly query: URLSearchParams
}

/** One whose answer is not in memory. */
export interface Asking extends Asked {
  readonly upstreamRequest: UpstreamRequest
}

/** A request for an upstream's repositories. */
export type AskingForCatalog = Omit<Asking, 'origin' | 'repository'>

/** Answers with a document that is here. */
export function sendDocument(
  { request, response }: Pick<Asked, 'request' | 'response'>,
  head: OutgoingHttpHeaders,
  body: Buffer,
): void {
  response.writeHead(200, { ...head, 'Content-Length': body.length })
  response.end(request.method === 'HEAD' ? undefined : body)
}

export const apiVersion = { 'Docker-Distribution-API-Version': 'registry/2.0' } as const
export const jsonType = { 'Content-Type': 'application/json' } as const

export function commonHeaders({ target }: Pick<Asked, 'target'>): Record<string, string> {
  return {
    ...apiVersion,
    ...(target.namespace !== undefined && { 'OCI-Namespace': target.namespace }),
  }
}

/** What a client may know of a tag that its upstream did not confirm. [RFC 9111 §5.1; RFC 7234 §5.5] */
export function staleHeaders(staleMs: number | undefined): Record<string, string> {
  if (staleMs === undefined) return {}
  return {
    Age: String(Math.floor(staleMs / 1000)),
    ...warning('the upstream did not confirm this: the tag may have moved'),
  }
}

/** What a client may know of a list that its upstream did not give. */
export function heldOnlyHeaders(isHeld: boolean): Record<string, string> {
  return isHeld ? warning('the upstream cannot be reached: this lists what is held here') : {}
}

function warning(text: string) {
  return { Warning: `110 - "${text}"` }
}

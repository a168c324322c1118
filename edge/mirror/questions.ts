import type { UpstreamRequest } from '../../shared/upstream/fetch.ts'
import type { Origin } from '../cache/cache-index.ts'

/** Of something in this very project, asked for by one who has rights of its own, or by the edge: who has the same key shares the answer. */
export function keyOf(
  { upstream, repository, project }: Origin,
  reference: string,
  request?: UpstreamRequest,
): string {
  return `${upstream}!${repository}!${project ?? ''}!${reference}!${request?.identity ?? ''}`
}

/** A question that several wait for is not dropped because the first who asked has gone. */
export function withoutSignal(request: UpstreamRequest | undefined): UpstreamRequest {
  const { signal: _, ...rest } = request ?? {}
  return rest
}

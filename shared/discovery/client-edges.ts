import { isRecord } from '../config/record.ts'
import { isEdgeId, isPlace, isServiceUrl } from './service.ts'

/** Where a primary tells clients of its edges. */
export const clientEdgesPath = '/service/edges'

/** An edge that clients are told of: its administrator has confirmed that its URL is an edge's. */
export interface ClientEdge {
  readonly id: string
  /** An origin. */
  readonly url: string
  readonly site: string | undefined
  readonly region: string | undefined
}

/** More are not read: nobody chooses among so many. */
const mostEdges = 10_000

/**
 * Reads what a primary answers there. An entry that is none is passed over, as one of a later version may be.
 * @throws RangeError when it is no list at all
 */
export function parseClientEdges(body: unknown): readonly ClientEdge[] {
  const edges = isRecord(body) ? body['edges'] : undefined
  if (!Array.isArray(edges)) throw new RangeError('it has no list of edges')
  return (edges as readonly unknown[]).slice(0, mostEdges).flatMap((entry) => {
    if (!isRecord(entry)) return []
    const { id, url, site, region } = entry
    if (typeof id !== 'string' || !isEdgeId(id)) return []
    if (typeof url !== 'string' || !isServiceUrl(url)) return []
    return [{ id, url, site: placeOf(site), region: placeOf(region) }]
  })
}

function placeOf(text: unknown): string | undefined {
  return typeof text === 'string' && isPlace(text) ? text : undefined
}

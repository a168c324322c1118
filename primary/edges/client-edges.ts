import type { ClientEdge } from '../../shared/discovery/client-edges.ts'
import { isPlace, isServiceUrl } from '../../shared/discovery/service.ts'
import { hostOf } from '../../shared/http/guard.ts'
import { matches, parsePattern } from '../../shared/match/doublestar.ts'
import type { Roster } from '../store/roster.ts'

export interface ClientEdgesDeps {
  readonly roster: Pick<Roster, 'urls'>
  /** Patterns of hosts; an edge whose URL has another one is not shown. */
  readonly hosts: readonly string[]
  /** Milliseconds, monotonic. */
  readonly now: () => number
}

/** The edges that clients are told of. */
export interface ClientEdges {
  list(): Promise<readonly ClientEdge[]>
}

/** Anybody may ask: the database is, once in so long. */
const keptMs = 2000

/**
 * Each edge says itself where clients reach it. A lost one could say anything, and clients would go there: what counts is
 * on a host that an administrator named.
 */
export function createClientEdges({ roster, hosts, now }: ClientEdgesDeps): ClientEdges {
  const patterns = hosts.map((host) => parsePattern(host.toLowerCase()))
  let kept: { readonly at: number; readonly edges: Promise<readonly ClientEdge[]> } | undefined

  const isConfirmed = (url: string): boolean =>
    isServiceUrl(url) && patterns.some((pattern) => matches(pattern, hostOf(new URL(url))))

  const read = async (): Promise<readonly ClientEdge[]> => {
    const edges = await roster.urls()
    const placeOf = (text: string) => (isPlace(text) ? text : undefined)
    return edges.flatMap(({ edgeId: id, url: said, site, region }) => {
      const url = URL.parse(said)?.origin ?? ''
      return isConfirmed(url) ? [{ id, url, site: placeOf(site), region: placeOf(region) }] : []
    })
  }

  return {
    async list() {
      if (patterns.length === 0) return []
      if (kept === undefined || now() - kept.at >= keptMs) {
        kept = { at: now(), edges: read() }
        kept.edges.catch(() => {
          kept = undefined
        })
      }
      return kept.edges
    },
  }
}

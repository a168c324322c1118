import {
  startNetwork,
  networkSite,
  type Network,
  type NetworkOptions,
} from '../test/kit/network.ts'
import { freePort } from '../test/kit/processes.ts'

/** Edges of one site. */
export const siteEdges = 4
/** The number of the edge of another site that is asked before the upstream: theirs begin at 0. */
const parent = siteEdges

/** A primary, the edges of a site, and the one that is nearer to the upstreams than they are. */
export async function startTree({
  edge: common,
  ...options
}: Omit<NetworkOptions, 'edges' | 'siteOf' | 'peersOf' | 'edgeOf'> & {
  /** More of the configuration of each edge. */
  readonly edge?: object
}): Promise<Network> {
  // Those stay when an edge starts again.
  const ports = await Promise.all(Array.from({ length: siteEdges + 1 }, freePort))
  return startNetwork({
    ...options,
    edges: siteEdges + 1,
    siteOf: (edge) => (edge === parent ? 'region' : networkSite),
    peersOf: (edge) => ({ port: ports[edge] ?? 0, children: edge === parent }),
    edgeOf: (edge) => ({
      ...common,
      ...(edge !== parent && { parent: { id: `edge-${parent + 1}` } }),
    }),
  })
}

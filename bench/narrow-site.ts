import type { Network } from '../test/kit/network.ts'

// A site of many edges with narrow uplinks, and a blob that all of them are to have.

const mib = 2 ** 20
export const blobBytes = 64 * mib
export const edges = 32
/** That the edges share. */
export const processes = 8
/** Of each uplink. */
export const bytesPerSecond = 4 * mib
/** What an uplink needs for the blob once, in seconds. */
export const uplinkSeconds = blobBytes / bytesPerSecond
/** For the names of cases. */
export const about = {
  blob: `${blobBytes / mib} MiB`,
  edges: `${edges} edges at ${bytesPerSecond / mib} MiB/s`,
} as const

/** Bodies that an edge received from there, in bytes. */
export async function receivedFrom(
  network: Network,
  edge: number,
  upstream: 'primary' | 'peers',
): Promise<number> {
  const name = 'outport_edge_upstream_bytes_total'
  return (await network.metric(edge, name, `upstream="${upstream}"`)) || 0
}

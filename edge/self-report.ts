import packageJson from '../package.json' with { type: 'json' }
import { atPortOf } from '../shared/config/origins.ts'
import type { Announced } from '../shared/discovery/registration.ts'
import type { EdgeReport } from '../shared/replication/lease.ts'
import type { CachedBlobs } from './cache/blobs.ts'
import type { EdgeOptions } from './config.ts'
import type { EdgeMetrics } from './metrics.ts'

/** What the edge says of itself in Consul. */
export function announcedOf(
  { id = '', external_url, consul }: EdgeOptions,
  urls: Readonly<Record<string, string>>,
): Announced {
  if (consul !== undefined && id === '')
    throw new Error(
      'edge.id is missing, which edge.consul needs: only an edge that its primary knows counts there',
    )
  const first = firstOf(urls)
  return {
    name: 'outport-edge',
    id,
    url: external_url === undefined ? first : atPortOf(external_url, first),
    version: packageJson.version,
    site: consul?.site,
    region: consul?.region,
  }
}

function firstOf(urls: Readonly<Record<string, string>>): string {
  const [first = ''] = Object.values(urls)
  return first
}

/** What the edge says of itself with each request for a lease. */
export function reportOf({
  edge,
  metrics,
  cached,
  urls,
}: {
  readonly edge: EdgeOptions
  readonly urls: Readonly<Record<string, string>>
  readonly metrics: EdgeMetrics
  readonly cached: CachedBlobs
}): Omit<EdgeReport, 'failures' | 'preheats' | 'lastError'> {
  const { hit, fill, bytes } = metrics.totals()
  return {
    version: packageJson.version,
    clock: Date.now(),
    cacheBytes: cached.total.bytes,
    cacheSizeBytes: cached.room.capacityBytes,
    hits: hit,
    misses: fill,
    servedBytes: bytes,
    // An address of its own is of no use to others.
    url: edge.external_url === undefined ? '' : atPortOf(edge.external_url, firstOf(urls)),
  }
}

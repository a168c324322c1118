import { Counter, Gauge, Histogram, type Registry } from 'prom-client'
import { registerGauges } from '../shared/observability/metrics.ts'
import type { CachedBlobs, RottenFound } from './cache/blobs.ts'
import type { DiskHealth } from './cache/disk-health.ts'
import type { EvictionObserver } from './cache/evict.ts'
import type { MemoryCache } from './cache/memory.ts'
import type { Fills } from '../shared/fill/fills.ts'
import type { UpstreamClient } from '../shared/upstream/fetch.ts'
import type { OfflineOutcome } from './access/offline.ts'
import type { PrefetchOutcome } from './mirror/prefetch.ts'
import type { StaleReason } from './mirror/tags.ts'

/** What the edge counts beside its HTTP servers. */
export interface EdgeMetrics {
  /** What was sent to clients since the start: blobs and manifests, and their bytes. */
  totals(): { readonly hit: number; readonly fill: number; readonly bytes: number }
  /** Bytes that went to clients: `hit` from this edge's disk or memory, `fill` while they arrived. */
  served(source: 'hit' | 'fill', bytes: number): void
  /** Bytes that went to other edges of the site. */
  servedPeer(bytes: number): void
  /** Bytes that came from an upstream. */
  received(upstream: string, bytes: number): void
  /** An upstream did not give what was asked. */
  upstreamError(upstream: string, code: string): void
  /** A tag was answered that its upstream had not confirmed. */
  staleTag(upstream: string, reason: StaleReason): void
  /** A reader that joined a fill which was already running. */
  coalesced(): void
  /** A log-in that the primary could not be asked about. */
  offlineLogIn(outcome: OfflineOutcome): void
  /** A piece of a blob was proved wrong. @param sender `several` when it cannot be told who sent it */
  wrongPiece(sender: string): void
  /** Something was to be fetched ahead. */
  prefetched(outcome: PrefetchOutcome): void
}

export interface EdgeMetricsDeps {
  readonly registry: Registry
  readonly fills: () => Fills['stats']
  readonly blobs: CachedBlobs
  readonly memory: MemoryCache
  readonly disk: DiskHealth
}

/** Back within a day: it should have stayed. */
const regrettedMs = 24 * 3600 * 1000

/** Registers what tells how well the evictor chooses. */
export function createEvictionMetrics(registry: Registry): EvictionObserver {
  const registers = [registry]
  const blobs = new Counter({
    name: 'outport_edge_evicted_blobs_total',
    help: 'Blobs and manifests that went to make room.',
    registers,
  })
  const bytes = new Counter({
    name: 'outport_edge_evicted_bytes_total',
    help: 'Bytes of what went to make room.',
    registers,
  })
  const idle = new Histogram({
    name: 'outport_edge_eviction_idle_seconds',
    help: 'How long ago what went had last been asked for.',
    buckets: [60, 600, 3600, 6 * 3600, 86_400, 7 * 86_400, 30 * 86_400, 90 * 86_400],
    registers,
  })
  const returned = new Counter({
    name: 'outport_edge_evicted_returned_total',
    help: 'Blobs and manifests that were fetched again within 24 hours after they went.',
    registers,
  })
  return {
    evicted(size, idleMs) {
      blobs.inc()
      bytes.inc(size)
      if (idleMs !== undefined) idle.observe(idleMs / 1000)
    },
    returned(afterMs) {
      if (afterMs <= regrettedMs) returned.inc()
    },
  }
}

/** Registers what tells of files that the disk did not keep as they were. */
export function createIntegrityMetrics(registry: Registry) {
  const registers = [registry]
  const rotten = new Counter({
    name: 'outport_edge_rotten_total',
    help: 'Held files that were not what their digest says, by how that was found; they were dropped.',
    labelNames: ['found'],
    registers,
  })
  // There from the start, so that the first one is an increase.
  for (const found of ['read', 'scrub'] as const) rotten.inc({ found }, 0)
  const scrubbed = new Counter({
    name: 'outport_edge_scrubbed_bytes_total',
    help: 'Bytes of held files that were read only to see whether they are right.',
    registers,
  })
  return {
    rotten: (found: RottenFound) => rotten.inc({ found }),
    scrubbed: (bytes: number) => scrubbed.inc(bytes),
  }
}

/** Registers a counter of what was served, and gives its values: plain numbers, since every hit counts. */
function countBySource(
  registry: Registry,
  counter: { readonly name: string; readonly help: string },
): { hit: number; fill: number } {
  const values = { hit: 0, fill: 0 }
  new Counter({
    ...counter,
    labelNames: ['source'],
    registers: [registry],
    collect() {
      this.reset()
      for (const [source, value] of Object.entries(values)) this.inc({ source }, value)
    },
  })
  return values
}

/** Registers what is known of the upstreams now. */
export function registerUpstreams(registry: Registry, clients: readonly UpstreamClient[]): void {
  new Gauge({
    name: 'outport_edge_upstream_away',
    help: '1 while an upstream does not answer, so that requests to it fail at once.',
    labelNames: ['upstream', 'lane'],
    registers: [registry],
    collect() {
      for (const { entry, health } of clients)
        for (const lane of ['api', 'blobs'] as const)
          this.set({ upstream: entry.id, lane }, health.isAway[lane] ? 1 : 0)
    },
  })
  new Gauge({
    name: 'outport_edge_upstream_pulls_left',
    help: "What an upstream with a rate limit said last of the pulls that it still gives: Docker Hub's ratelimit-remaining.",
    labelNames: ['upstream'],
    registers: [registry],
    collect() {
      for (const { entry, health } of clients)
        if (health.rateLimit !== undefined)
          this.set({ upstream: entry.id }, health.rateLimit.remaining)
    },
  })
}

/** Registers what is known of the primary's log. */
export function registerLog(
  registry: Registry,
  log: {
    readonly isFresh: () => boolean
    readonly isConnected: () => boolean
    readonly seq: () => number
    readonly members: () => number
  },
): void {
  registerGauges(registry, [
    {
      name: 'outport_edge_log_fresh',
      help: '1 while all that the primary said is known here: its tags are answered without asking.',
      value: () => (log.isFresh() ? 1 : 0),
    },
    {
      name: 'outport_edge_log_connected',
      help: "1 while the primary's events come.",
      value: () => (log.isConnected() ? 1 : 0),
    },
    {
      name: 'outport_edge_log_seq',
      help: "The last of the primary's events that is recorded here.",
      value: log.seq,
    },
    {
      name: 'outport_edge_site_members',
      help: 'Edges of the site that give each other blobs, as the roster has them.',
      value: log.members,
    },
  ])
}

/** Registers whom this edge knows. */
export function registerAccounts(registry: Registry, known: () => number): void {
  registerGauges(registry, [
    {
      name: 'outport_edge_known_accounts',
      help: 'Accounts whose log-ins can be taken while the primary cannot be asked.',
      value: known,
    },
  ])
}

/** Registers what is known of the pulls that the primary is told of. */
export function createPullMetrics(
  registry: Registry,
  pulls: { readonly waiting: () => number },
): { readonly lost: (count: number) => void } {
  registerGauges(registry, [
    {
      name: 'outport_edge_pulls_waiting',
      help: "Pulls of the primary's content that it has not been told of yet.",
      value: pulls.waiting,
    },
  ])
  const lost = new Counter({
    name: 'outport_edge_pulls_lost_total',
    help: 'Pulls that the primary will not be told of: too many waited, or it does not know their repository.',
    registers: [registry],
  })
  return { lost: (count) => lost.inc(count) }
}

/** Registers the edge's metrics. Labels are bounded: upstream ids, error codes, sources. */
export function createEdgeMetrics({
  registry,
  fills,
  blobs,
  memory,
  disk,
}: EdgeMetricsDeps): EdgeMetrics {
  const registers = [registry]
  const served = countBySource(registry, {
    name: 'outport_edge_served_bytes_total',
    help: 'Body bytes sent to clients, by where they came from.',
  })
  const answers = countBySource(registry, {
    name: 'outport_edge_served_total',
    help: 'Blobs and manifests sent to clients, by where they came from: hit ÷ all is the hit ratio by object.',
  })
  const peerBytes = new Counter({
    name: 'outport_edge_peer_bytes_total',
    help: 'Body bytes sent to other edges of the site.',
    registers,
  })
  const received = new Counter({
    name: 'outport_edge_upstream_bytes_total',
    help: 'Body bytes received from upstreams.',
    labelNames: ['upstream'],
    registers,
  })
  const wrongPieces = new Counter({
    name: 'outport_edge_wrong_pieces_total',
    help: 'Pieces of large blobs that were proved wrong and fetched again, by who sent them.',
    labelNames: ['upstream'],
    registers,
  })
  // A counter's first value is no increase to Prometheus.
  for (const upstream of ['peers', 'several']) wrongPieces.inc({ upstream }, 0)
  const errors = new Counter({
    name: 'outport_edge_upstream_errors_total',
    help: 'Requests that an upstream did not answer with what was asked, and those that were not sent since it is away.',
    labelNames: ['upstream', 'code'],
    registers,
  })
  const stale = new Counter({
    name: 'outport_edge_stale_tags_total',
    help: 'Tags answered that their upstream had not confirmed: away, slow, or to save its rate limit.',
    labelNames: ['upstream', 'reason'],
    registers,
  })
  const coalesced = new Counter({
    name: 'outport_edge_coalesced_readers_total',
    help: 'Readers that joined a fill which was already running.',
    registers,
  })
  const prefetched = new Counter({
    name: 'outport_edge_prefetched_total',
    help: 'Manifests and blobs that were to be fetched ahead: held now, failed, or dropped because too many waited or the disk fails.',
    labelNames: ['outcome'],
    registers,
  })
  for (const outcome of ['held', 'failed', 'dropped'] as const) prefetched.inc({ outcome }, 0)
  const offline = new Counter({
    name: 'outport_edge_offline_logins_total',
    help: 'Log-ins that the primary could not be asked about: taken by what is known of them here, or refused.',
    labelNames: ['outcome'],
    registers,
  })
  for (const outcome of ['taken', 'refused'] as const) offline.inc({ outcome }, 0)
  registerGauges(registry, [
    {
      name: 'outport_edge_fills_running',
      help: 'Blobs that are being fetched.',
      value: () => fills().running,
    },
    {
      name: 'outport_edge_fill_readers',
      help: 'Readers of blobs that are being fetched.',
      value: () => fills().readers,
    },
    {
      name: 'outport_edge_upstream_requests_running',
      help: 'Requests for blobs open at upstreams.',
      value: () => fills().requests,
    },
    {
      name: 'outport_edge_cache_bytes',
      help: 'Bytes of the blobs and manifests on disk.',
      value: () => blobs.total.bytes,
    },
    {
      name: 'outport_edge_cache_blobs',
      help: 'Blobs and manifests on disk.',
      value: () => blobs.total.count,
    },
    {
      name: 'outport_edge_cache_capacity_bytes',
      help: 'Bytes that the cache may take on its disk.',
      value: () => blobs.room.capacityBytes,
    },
    {
      name: 'outport_edge_cache_reserved_bytes',
      help: 'Bytes of blobs that are on their way to the disk.',
      value: () => blobs.room.reservedBytes,
    },
    {
      name: 'outport_edge_cache_pinned_bytes',
      help: 'Bytes held of what is pinned; above 80 % of the capacity some of it goes too.',
      value: () => blobs.room.pinnedBytes,
    },
    {
      name: 'outport_edge_cache_failing',
      help: '1 since a blob found no room or the disk failed, until one is stored well after that.',
      value: () => (disk.isFailing() ? 1 : 0),
    },
    {
      name: 'outport_edge_memory_bytes',
      help: 'Bytes of content held in memory.',
      value: () => memory.bytes,
    },
  ])
  return {
    totals: () => ({ ...answers, bytes: served.hit + served.fill }),
    served: (source, bytes) => {
      served[source] += bytes
      // A HEAD, a 304 and an aborted answer brought nobody anything.
      if (bytes > 0) answers[source]++
    },
    servedPeer: (bytes) => peerBytes.inc(bytes),
    received: (upstream, bytes) => received.inc({ upstream }, bytes),
    wrongPiece: (upstream) => wrongPieces.inc({ upstream }),
    upstreamError: (upstream, code) => errors.inc({ upstream, code }),
    staleTag: (upstream, reason) => stale.inc({ upstream, reason }),
    coalesced: () => coalesced.inc(),
    offlineLogIn: (outcome) => offline.inc({ outcome }),
    prefetched: (outcome) => prefetched.inc({ outcome }),
  }
}

import { join } from 'node:path'
import packageJson from '../package.json' with { type: 'json' }
import { edgeAudience, createTokenVerifier, tokenIssuer } from '../shared/auth/token.ts'
import { atPortOf } from '../shared/config/server-options.ts'
import { announce, type Announced } from '../shared/discovery/registration.ts'
import { readSecretFile } from '../shared/files/text-file.ts'
import type { FillOutcome } from '../shared/fill/fill-options.ts'
import { createFills, type Fills } from '../shared/fill/fills.ts'
import { createMetricsServer } from '../shared/http/metrics-server.ts'
import { createBlobSender } from '../shared/http/send-blob.ts'
import type { HttpServer } from '../shared/http/server.ts'
import type { Logger } from '../shared/observability/log.ts'
import type { Running, StartDeps } from '../shared/observability/program.ts'
import { isDigest } from '../shared/oci/digest.ts'
import type { EdgeReport } from '../shared/replication/lease.ts'
import { createMetrics, type Metrics } from '../shared/observability/metrics.ts'
import type { Registries } from '../shared/upstream/registries.ts'
import { bufferBytes, createBufferPool } from '../shared/stream/buffers.ts'
import { createHasher, type Hasher } from '../shared/stream/hasher.ts'
import { createPrimaryKeys } from './access/keys.ts'
import { createRevocations } from './access/revocations.ts'
import { createTokenRelay } from './access/token-relay.ts'
import type { CachedBlobs } from './cache/blobs.ts'
import { createDiskHealth, type DiskHealth } from './cache/disk-health.ts'
import { openCache, type Cache } from './cache/open.ts'
import { createMemoryCache } from './cache/memory.ts'
import { ownerOf } from './cache/shares.ts'
import type { EdgeConfig, EdgeListenerOptions, EdgeOptions, UpstreamOptions } from './config.ts'
import {
  createEdgeMetrics,
  createEvictionMetrics,
  createIntegrityMetrics,
  registerLog,
  registerUpstreams,
  type EdgeMetrics,
} from './metrics.ts'
import { createBlobs } from './mirror/blobs.ts'
import { createLists } from './mirror/lists.ts'
import { namesOf } from './mirror/names.ts'
import { createManifests, type ManifestsDeps } from './mirror/manifests.ts'
import { createPins } from './mirror/pins.ts'
import { createPrefetch } from './mirror/prefetch.ts'
import { createRepeats } from './mirror/repeats.ts'
import { createPeerAccess } from './peers/access.ts'
import { createPeers } from './peers/peers.ts'
import { createPeerServer } from './peers/server.ts'
import { openPrimaryLog } from './replication/primary-log.ts'
import { createEdgeServer } from './server.ts'
import { createSources, type Sources } from './sources/sources.ts'
import {
  createAsk,
  createClients,
  primaryOf,
  proxiesOf,
  proxyChoiceOf,
  readUpstreamFiles,
} from './upstreams/clients.ts'
import { createMirrors } from './upstreams/mirrors.ts'
import { createTable, narrow, type UpstreamFiles } from './upstreams/table.ts'

/** Files of the cache that are kept open without a reader. */
const openFiles = 512
/** Blobs that are asked for at one other edge of the site at once. */
const peerRequests = 16
/** Proved tokens that are remembered, at about 1 KiB each. */
const rememberedTokens = 10_000

/**
 * Starts an edge. Its upstreams need not be there: it serves what it holds.
 * @throws what says why it cannot start: a port that is taken, a folder that is not writable
 */
export async function startEdge(
  config: EdgeConfig,
  { log, processMetrics = true, signal = new AbortController().signal }: StartDeps,
): Promise<Running> {
  const { edge } = config
  const closers: (() => Promise<unknown> | void)[] = []
  const closeAll = async () => {
    for (const close of closers.reverse()) await close()
  }
  const metrics = createMetrics('edge', { processMetrics })
  const disk = createDiskHealth(log)
  const hasher = createHasher({ workerFromBytes: 8 * bufferBytes })
  closers.push(() => hasher.close())
  const integrity = createIntegrityMetrics(metrics.registry)
  try {
    const cache = await openCache({
      folder: join(config.data, 'edge'),
      openFiles,
      size: edge.cache.size,
      eviction: createEvictionMetrics(metrics.registry),
      shares: edge.cache.shares.map(({ upstream, project, percent }) => ({
        owner: ownerOf({ upstream, project }),
        part: percent / 100,
      })),
      onDiskFailed: disk.failed,
      onStored: disk.worked,
      hasher,
      onRotten: (digest, found) => {
        integrity.rotten(found)
        log.error(
          { digest, found },
          'a held file was not what its digest says: it is fetched again',
        )
      },
      proofMs: edge.cache.proof_ttl,
      scrub: { bytesPerSecond: edge.cache.scrub, onRead: integrity.scrubbed },
      onDamaged: (err) =>
        log.warn({ err }, 'the index of the cache is damaged: it is made again from the disk'),
    })
    closers.push(() => cache.close())
    signal.throwIfAborted()
    return await startParts({
      edge,
      data: config.data,
      log,
      metrics,
      signal,
      cache,
      disk,
      hasher,
      closers,
      closeAll,
    })
  } catch (error) {
    await closeAll()
    throw error
  }
}

interface Parts extends Required<Omit<StartDeps, 'processMetrics'>> {
  readonly edge: EdgeOptions
  readonly data: string
  readonly metrics: Metrics
  readonly cache: Cache
  readonly disk: DiskHealth
  readonly hasher: Hasher
  readonly closers: (() => Promise<unknown> | void)[]
  readonly closeAll: () => Promise<void>
}

async function startParts({
  edge,
  data,
  log,
  metrics: { registry, http: httpMetrics },
  signal,
  cache,
  disk,
  hasher,
  closers,
  closeAll,
}: Parts): Promise<Running> {
  const { index, blobs: cached } = cache
  const files = await readUpstreamFiles(edge.upstreams)
  const filesOf = ({ id }: UpstreamOptions): UpstreamFiles =>
    files.get(id) ?? { ca: undefined, password: undefined, clientCertificate: undefined }
  const registries = createTable(edge.upstreams, filesOf)
  const ports: number[] = []

  const memory = createMemoryCache(edge.cache.memory, edge.cache.memory_blob)
  const pool = createBufferPool({ bytes: edge.cache.fill_buffers })
  const fillsRef: { current?: Fills } = {}
  const metrics = createEdgeMetrics({
    registry,
    fills: () => fillsRef.current?.stats ?? { running: 0, readers: 0, requests: 0 },
    blobs: cached,
    memory,
    disk,
  })
  const clients = createClients(registries, { edge, ownPorts: () => ports, metrics })
  closers.push(() => clients.close())
  const proxies = Object.values(proxiesOf(edge.outbound)).map((proxy) => proxy?.origin)
  for (const url of new Set(proxies))
    if (url !== undefined) log.info({ url }, 'upstreams are reached through a proxy')
  registerUpstreams(registry, clients.all)
  const client = clients.of
  const primaryLog = await openPrimaryLog({
    folder: join(data, 'edge'),
    upstream: primaryOf(edge).id,
    log,
  })
  closers.push(() => primaryLog.close())
  const optionsOf = new Map(edge.upstreams.map((upstream) => [upstream.id, upstream]))
  const accessOf = (upstream: string) => optionsOf.get(upstream)?.access
  const peers = createPeers({
    edgeId: edge.id ?? '',
    upstream: primaryOf(edge).id,
    statements: primaryLog.statements,
    isOpen: (upstream) => accessOf(upstream) === 'open',
    parent: edge.parent,
    identity: () => primaryLog.identity(),
    waitMs: edge.peer_wait,
    chooseProxy: proxyChoiceOf(edge),
    timeouts: { connectTimeoutMs: edge.fill.connect },
    onBytes: (count) => metrics.received('peers', count),
  })
  closers.push(() => peers.close())
  registerLog(registry, {
    isFresh: () => primaryLog.freshness.isFresh(),
    isConnected: () => primaryLog.isConnected(),
    members: () => peers.members,
    seq: () => primaryLog.statements.cursor?.seq ?? 0,
  })
  const sources = createSources(client, {
    mirrorsOf: createMirrors(edge.upstreams),
    peersOf: peers.of,
    parentsOf: peers.above,
    namedPeers: peers.named,
    sharersOf: peers.sharers,
    edgeId: edge.id ?? '',
  })
  const fills = createFills({
    pool,
    hasher,
    limitOf: (source) =>
      peers.isPeer(source) ? peerRequests : (registries.resolve(source)?.maxBlobRequests ?? 1),
    maxFills: edge.fill.concurrent,
    options: fillOptions(edge),
    observer: observeFills(metrics, { log, disk, blobs: cached, sources }),
  })
  fillsRef.current = fills
  closers.push(() => fills.close())

  const { ask, post, close: closeAsk } = createAsk(edge, filesOf(primaryOf(edge)))
  closers.push(closeAsk)
  const secret =
    edge.credential_file === undefined ? undefined : await readSecretFile(edge.credential_file)
  const identity =
    edge.id === undefined || secret === undefined ? undefined : { id: edge.id, secret }
  const audience = edgeAudience(edge.id ?? '')
  const keys = createPrimaryKeys({ ask, index, now: Date.now })
  const relay = createTokenRelay({ ask, edge: identity })
  const { isRevoked } = createRevocations(primaryLog.statements)
  const verifier = createTokenVerifier({
    keys: (kid) => keys.get(kid),
    issuer: tokenIssuer,
    audience,
    isRevoked,
    cacheEntries: rememberedTokens,
  })
  /** What is passed through has listeners of its own, which have nothing else. */
  const registriesOf = ({ passthrough }: EdgeListenerOptions): Registries =>
    narrow(registries, ({ id }) =>
      passthrough === undefined ? accessOf(id) !== 'passthrough' : id === passthrough,
    )
  const rules = rulesOf(edge.upstreams)
  const pins = createPins({
    pins: edge.cache.pins,
    roots: () => primaryLog.roots(),
    index,
    blobs: cached,
    onDiskFailed: disk.failed,
  })
  await pins.mark()
  const manifests = createManifests({
    index,
    blobs: cached,
    memory,
    client,
    sources,
    rules,
    stated: primaryLog.stated,
    onStale: (upstream, reason) => metrics.staleTag(upstream, reason),
    onTagMoved: (origin) => pins.changed(origin),
    onFetched: (origin, digest) => {
      pins.changed(origin)
      prefetch.arrived(origin, digest)
    },
    now: Date.now,
    onDiskFailed: disk.failed,
  })
  const blobs = createBlobs({
    blobs: cached,
    memory,
    fills,
    client,
    sources,
  })
  const prefetchModes = new Map(edge.upstreams.map(({ id, prefetch }) => [id, prefetch]))
  const prefetch = createPrefetch({
    modeOf: (upstream) => prefetchModes.get(upstream) ?? 'off',
    index,
    manifests,
    blobs,
    mayStore: () => !disk.isFailing(),
    onDone: (outcome) => metrics.prefetched(outcome),
    onDiskFailed: disk.failed,
    now: Date.now,
  })
  closers.push(() => prefetch.close())
  const lists = createLists({
    client,
    index,
    blobs: cached,
    maxStaleMs: (upstream) => rules(upstream).maxStaleMs,
    now: Date.now,
  })
  const sender = createBlobSender({ maxBufferBytes: edge.cache.transfer_buffers })
  const repeats = createRepeats()

  if (identity !== undefined && edge.follow) {
    await primaryLog.bring({
      edgeId: identity.id,
      manifest: async (origin, digest) => {
        const manifest = await manifests.get(origin, digest)
        if (manifest === undefined) throw new Error('the primary does not have its manifest')
        return namesOf(manifest.bytes)
      },
      blob: (origin, { digest, size }, isSharer) =>
        blobs.prefetch(origin, digest, {}, { size, isSharer }),
      isHeld: (digest) => cached.size(digest) !== undefined,
      pin: () => pins.mark(),
      onHeld: ({ projectId, repositoryId }) => {
        const repository = primaryLog.statements.repositoryName(projectId, repositoryId)
        log.info({ repository }, 'what a rule brings is here')
      },
    })
  }

  const servers: HttpServer[] = []
  const urls: Record<string, string> = {}
  for (const listener of edge.listeners) {
    signal.throwIfAborted()
    const started = await createEdgeServer({
      listener,
      http: {
        log,
        httpMetrics,
        trustedProxies: edge.trusted_proxies,
        timeouts: edge.timeouts,
        limits: edge.limits,
      },
      mirror: {
        registries: registriesOf(listener),
        manifests,
        blobs,
        lists,
        prefetch,
        sender,
        repeats,
        onServed: (source, bytes) => metrics.served(source, bytes),
      },
      tokens: { relay, registries: registriesOf(listener) },
      client,
      access: {
        verifier,
        relay,
        isRevoked,
        isOpen: (upstream) => accessOf(upstream) === 'open',
        decisions: edge.cache.decisions,
        decisionTtlMs: edge.cache.decision_ttl,
      },
      service: audience,
      externalUrl: edge.external_url,
      pushUrl: edge.push_url ?? primaryOf(edge).url,
    })
    servers.push(started.server)
    closers.push(() => started.server.drain(0))
    const url = await started.listen()
    ports.push(Number(url.port))
    urls[listener.name] = url.origin
    log.info({ listener: listener.name, url: url.origin }, 'listening')
  }
  const peerServer =
    edge.peers === undefined
      ? undefined
      : await createPeerServer(edge.peers, {
          http: { log, httpMetrics, timeouts: edge.timeouts, limits: edge.limits },
          mirror: {
            registries: narrow(registries, ({ id }) => accessOf(id) !== 'passthrough'),
            manifests,
            blobs,
            lists,
            // It is that edge's to know what its clients ask for next.
            prefetch: { served: () => undefined },
            sender,
            repeats,
            onServed: (_source, bytes) => metrics.servedPeer(bytes),
          },
          access: createPeerAccess({
            edgeId: edge.id ?? '',
            takesChildren: edge.peers.children,
            upstream: primaryOf(edge).id,
            statements: primaryLog.statements,
            isOpen: (upstream) => accessOf(upstream) === 'open',
          }),
          upstream: primaryOf(edge).id,
        })
  if (peerServer !== undefined) {
    servers.push(peerServer.server)
    closers.push(() => peerServer.server.drain(0))
    ports.push(Number(peerServer.listening.port))
    log.info({ listener: 'peers', url: peerServer.url }, 'listening')
  }
  if (identity !== undefined && edge.follow) {
    primaryLog.follow({
      edge: identity,
      ask,
      post,
      dial: { chooseProxy: proxyChoiceOf(edge), connectTimeoutMs: edge.fill.connect },
      progress: () => {
        const { failures, ...progress } = primaryLog.progress()
        return {
          ...progress,
          ...(peerServer && { peerUrl: peerServer.url }),
          report: { ...reportOf({ edge, metrics, cached }), failures },
        }
      },
      onRoster: () => peers.changed(),
      onIdentity: ({ key, certificate, ca }) =>
        peerServer?.server.setMutual({ key, cert: certificate, ca }),
    })
  }
  const operator = await createMetricsServer({
    ...edge.metrics,
    registry,
    // An upstream that is away is a metric, not a reason to send nobody here.
    readiness: async () => [{ name: 'cache', ok: true }],
    log,
  })
  closers.push(() => operator.close())
  const registration = await announce(edge.consul, {
    announced: announcedOf(edge, urls),
    log,
  })
  closers.push(() => registration.close())
  return {
    urls,
    metrics: operator.url.origin,
    async stop(deadlineMs) {
      // The servers first and together; what they still send may need everything else.
      await Promise.all([
        registration.close(),
        ...servers.map((server) => server.drain(deadlineMs)),
      ])
      await closeAll()
    },
  }
}

/** What the edge says of itself in Consul. */
function announcedOf(
  { id = '', external_url, consul }: EdgeOptions,
  urls: Readonly<Record<string, string>>,
): Announced {
  if (consul !== undefined && id === '')
    throw new Error(
      'edge.id is missing, which edge.consul needs: only an edge that its primary knows counts there',
    )
  const [first = ''] = Object.values(urls)
  return {
    name: 'outport-edge',
    id,
    url: external_url === undefined ? first : atPortOf(external_url, first),
    version: packageJson.version,
    site: consul?.site,
    region: consul?.region,
  }
}

/** What the edge says of itself with each request for a lease. */
function reportOf({
  edge,
  metrics,
  cached,
}: {
  readonly edge: EdgeOptions
  readonly metrics: EdgeMetrics
  readonly cached: CachedBlobs
}): Omit<EdgeReport, 'failures'> {
  const { hit, fill, bytes } = metrics.totals()
  return {
    version: packageJson.version,
    clock: Date.now(),
    cacheBytes: cached.total.bytes,
    cacheSizeBytes: cached.room.capacityBytes,
    hits: hit,
    misses: fill,
    servedBytes: bytes,
    url: edge.external_url ?? '',
    lastError: '',
  }
}

/** How the tags and manifests of each upstream are answered. */
function rulesOf(upstreams: readonly UpstreamOptions[]): ManifestsDeps['rules'] {
  const rules = new Map(
    upstreams.map(({ id, access, tag_ttl, tag_wait, max_stale, negative_ttl, rate_budget }) => [
      id,
      {
        mayRefresh: access !== 'passthrough',
        ttlMs: tag_ttl,
        waitMs: tag_wait,
        maxStaleMs: max_stale ?? Infinity,
        negativeTtlMs: negative_ttl,
        rateBudget: rate_budget,
      },
    ]),
  )
  return (upstream) => {
    const found = rules.get(upstream)
    if (found === undefined) throw new Error(`there is no upstream ${upstream}`)
    return found
  }
}

function fillOptions({ fill }: EdgeOptions) {
  return {
    withheldBytes: fill.withheld,
    distantBytes: 2 * fill.segment,
    saveEveryBytes: fill.segment,
    openTimeoutMs: fill.open_wait,
    headersTimeoutMs: fill.no_progress,
    stallMs: fill.no_progress,
    tailBypassMs: fill.tail_wait,
    unowned: { ms: fill.unowned },
  }
}

function observeFills(
  metrics: EdgeMetrics,
  {
    log,
    disk,
    blobs,
    sources,
  }: {
    readonly log: Logger
    readonly disk: DiskHealth
    readonly blobs: CachedBlobs
    readonly sources: Sources
  },
) {
  return {
    joined: () => metrics.coalesced(),
    sourceLied: (source: string, digest: string) => {
      sources.lied(source)
      log.error({ upstream: source, digest }, 'an upstream sent other bytes than the digest says')
    },
    diskFailed: disk.failed,
    ended: ({ kind, digest, size, receivedBytes, ms, error }: FillOutcome) => {
      if (kind === 'stored' && size !== undefined && isDigest(digest))
        blobs.fetched(digest, { bytes: size, ms })
      log.info(
        { digest, bytes: size, receivedBytes, ms: Math.round(ms), reason: kind, err: error },
        'fill done',
      )
    },
  }
}

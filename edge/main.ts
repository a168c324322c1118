import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { ScryptCost } from '../shared/auth/passwords.ts'
import { announce } from '../shared/discovery/registration.ts'
import { readSecretFile } from '../shared/files/text-file.ts'
import { createFills, type Fills } from '../shared/fill/fills.ts'
import { createMetricsServer } from '../shared/http/metrics-server.ts'
import { isReady, lookAt } from '../shared/http/readiness.ts'
import { createBlobSender } from '../shared/http/send-blob.ts'
import type { HttpServer } from '../shared/http/server.ts'
import type { Running, StartDeps } from '../shared/observability/program.ts'
import { maxReportedPulls, reportsPulls, reportsPullsHeader } from '../shared/replication/pulls.ts'
import { createMetrics, type Metrics } from '../shared/observability/metrics.ts'
import { createHedge } from '../shared/site/hedge.ts'
import type { Registries } from '../shared/upstream/registries.ts'
import { bufferBytes, createBufferPool } from '../shared/stream/buffers.ts'
import { createHasher, type Hasher } from '../shared/stream/hasher.ts'
import { openAccess } from './access/access.ts'
import { createDiskHealth, type DiskHealth } from './cache/disk-health.ts'
import { openCache, type Cache } from './cache/open.ts'
import { createMemoryCache } from './cache/memory.ts'
import { openPullLog } from './cache/pull-log.ts'
import { ownerOf } from './cache/shares.ts'
import type { EdgeConfig, EdgeListenerOptions, EdgeOptions, UpstreamOptions } from './config.ts'
import {
  createEdgeMetrics,
  createEvictionMetrics,
  createIntegrityMetrics,
  createPullMetrics,
  registerAccounts,
  registerLog,
  registerUpstreams,
} from './metrics.ts'
import { createBlobs } from './mirror/blobs.ts'
import { createLists } from './mirror/lists.ts'
import { namesOf } from './mirror/names.ts'
import { createManifests } from './mirror/manifests.ts'
import { createPins } from './mirror/pins.ts'
import { createPieceLists } from './mirror/piece-lists.ts'
import { createPrefetch } from './mirror/prefetch.ts'
import { createPrune } from './mirror/prune.ts'
import { createRepeats } from './mirror/repeats.ts'
import { createPeerAccess } from './peers/access.ts'
import { createPeers } from './peers/peers.ts'
import { proxiesOf, proxyChoiceOf } from './upstreams/outbound.ts'
import { createEdgeReadiness } from './readiness.ts'
import { announcedOf, reportOf } from './self-report.ts'
import { createLeaving, type Leaving } from './replication/leaving.ts'
import { createPeerServer } from './peers/server.ts'
import { watchSite } from './peers/site.ts'
import { openPrimaryLog } from './replication/primary-log.ts'
import { createPullReports } from './replication/pull-reports.ts'
import { createTrouble, type Trouble } from './replication/trouble.ts'
import { fillOptions, observeFills } from './fill-rules.ts'
import { createEdgeServer } from './server.ts'
import { rulesOf } from './tag-rules.ts'
import { createSources } from './sources/sources.ts'
import { createAsk, createClients, primaryOf, readUpstreamFiles } from './upstreams/clients.ts'
import { createMirrors } from './upstreams/mirrors.ts'
import { createTable, narrow, type UpstreamFiles } from './upstreams/table.ts'

/** Files of the cache that are kept open without a reader. */
const openFiles = 512
/** Blobs that are asked for at one other edge of the site at once. */
const peerRequests = 16
/** Milliseconds that a large blob waits for the list of its pieces, before it is proved whole. */
const pieceListMs = 5000
/** Manifests and tags whose pulls may wait for a primary that is away, at about 1 KiB each. */
const waitingPulls = 20_000

/** What an edge is started with. */
export interface EdgeDeps extends StartDeps {
  /** What it costs to try a password: as much as people's need if left out. */
  readonly passwordCost?: ScryptCost
}

/**
 * Starts an edge. Its upstreams need not be there: it serves what it holds.
 * @throws what says why it cannot start: a port that is taken, a folder that is not writable
 */
export async function startEdge(
  config: EdgeConfig,
  { log, processMetrics = true, signal = new AbortController().signal, passwordCost }: EdgeDeps,
): Promise<Running> {
  const { edge } = config
  const closers: (() => Promise<unknown> | void)[] = []
  const closeAll = async () => {
    for (const close of closers.reverse()) await close()
  }
  const metrics = createMetrics('edge', { processMetrics })
  const trouble = createTrouble(Date.now)
  const disk = createDiskHealth(log, () => performance.now(), {
    onFailed: (err) => trouble.note('disk', err),
    onWell: () => trouble.over('disk'),
  })
  const hasher = createHasher({ workerFromBytes: 8 * bufferBytes })
  closers.push(() => hasher.close())
  const integrity = createIntegrityMetrics(metrics.registry)
  const pinLoss: PinLoss = {}
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
      onPinLost: () => pinLoss.told?.(),
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
      passwordCost,
      cache,
      pinLoss,
      disk,
      trouble,
      hasher,
      closers,
      closeAll,
    })
  } catch (error) {
    await closeAll()
    throw error
  }
}

/** Who is told when something went that was to stay. */
interface PinLoss {
  told?: () => void
}

interface Parts extends Required<Omit<StartDeps, 'processMetrics'>> {
  readonly edge: EdgeOptions
  readonly data: string
  readonly passwordCost: ScryptCost | undefined
  readonly metrics: Metrics
  readonly cache: Cache
  readonly pinLoss: PinLoss
  readonly disk: DiskHealth
  readonly trouble: Trouble
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
  passwordCost,
  cache,
  pinLoss,
  disk,
  trouble,
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
  const clients = createClients(registries, {
    edge,
    ownPorts: () => ports,
    metrics,
    primaryHeaders: () =>
      pulls?.isReporting() === true ? { [reportsPullsHeader]: reportsPulls } : {},
  })
  closers.push(() => clients.close())
  const proxies = Object.values(proxiesOf(edge.outbound)).map((proxy) => proxy?.origin)
  for (const url of new Set(proxies))
    if (url !== undefined) log.info({ url }, 'upstreams are reached through a proxy')
  registerUpstreams(registry, clients.all)
  const client = clients.of
  const primaryLog = await openPrimaryLog({
    folder: join(data, 'edge'),
    upstream: primaryOf(edge).id,
    unlistedMs: edge.cache.unlisted,
    trouble,
    log,
  })
  closers.push(() => primaryLog.close())
  const optionsOf = new Map(edge.upstreams.map((upstream) => [upstream.id, upstream]))
  const accessOf = (upstream: string) => optionsOf.get(upstream)?.access
  // An edge that does not follow the log knows of no others.
  const site = await watchSite(edge.follow ? edge.consul : undefined, {
    listed: () => peers.listed(),
    log,
  })
  closers.push(() => site.close())
  const peers = createPeers({
    healthy: site.healthy,
    edgeId: edge.id ?? '',
    upstream: primaryOf(edge).id,
    statements: primaryLog.statements,
    isOpen: (upstream) => accessOf(upstream) === 'open',
    parent: edge.parent,
    identity: () => primaryLog.identity(),
    waitMs: edge.peer_wait,
    chooseProxy: proxyChoiceOf(edge.outbound),
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
    hedge: createHedge({
      now: () => performance.now(),
      delay: (ms, stop) => delay(ms, undefined, { signal: stop }),
    }),
    parentsOf: peers.above,
    namedPeers: peers.named,
    homesOf: peers.homesOf,
    sharersOf: peers.sharers,
    edgeId: edge.id ?? '',
  })
  const pieceHasher = createHasher({ workerFromBytes: 8 * bufferBytes })
  closers.push(() => pieceHasher.close())
  const pieceLists = createPieceLists({
    listOf: ({ upstream, project }, digest) =>
      upstream === primaryOf(edge).id && project !== undefined
        ? primaryLog.statements.pieceList(project, digest)
        : undefined,
    hasher: pieceHasher,
    waitMs: pieceListMs,
    onUseless: (digest, err) =>
      log.debug({ digest, err }, 'a blob is proved whole: its list of pieces is not to be had'),
  })
  const fills = createFills({
    pool,
    hasher,
    limitOf: (source) =>
      peers.isPeer(source) ? peerRequests : (registries.resolve(source)?.maxBlobRequests ?? 1),
    maxFills: edge.fill.concurrent,
    options: fillOptions(edge),
    observer: observeFills(metrics, {
      log,
      disk,
      blobs: cached,
      sources,
      isPeer: peers.isPeer,
      pieceLists,
    }),
  })
  fillsRef.current = fills
  closers.push(() => fills.close())

  const { ask, post, close: closeAsk } = createAsk(edge, filesOf(primaryOf(edge)))
  closers.push(closeAsk)
  const secret =
    edge.credential_file === undefined ? undefined : await readSecretFile(edge.credential_file)
  const identity =
    edge.id === undefined || secret === undefined ? undefined : { id: edge.id, secret }
  const access = await openAccess({
    ask,
    edge: identity,
    edgeId: edge.id ?? '',
    index,
    statements: primaryLog.statements,
    graceMs: edge.offline_grace,
    passwordCost,
    waitMs: primaryOf(edge).tag_wait,
    onOffline: metrics.offlineLogIn,
  })
  closers.push(() => access.close())
  registerAccounts(registry, access.knownAccounts)
  const pullLog = await openPullLog({
    records: index.pulls,
    batchPulls: maxReportedPulls,
    mostWaiting: waitingPulls,
    onLost: (count) => pullMetrics.lost(count),
  })
  const pullMetrics = createPullMetrics(registry, { waiting: () => pullLog.waiting })
  const pulls =
    identity === undefined || !edge.follow
      ? undefined
      : createPullReports({
          pulls: pullLog,
          statements: primaryLog.statements,
          onLost: pullMetrics.lost,
          onDiskFailed: disk.failed,
          log,
          now: Date.now,
        })
  closers.push(() => pulls?.close())
  /** What is passed through has listeners of its own, which have nothing else. */
  const registriesOf = ({ passthrough }: EdgeListenerOptions): Registries =>
    narrow(registries, ({ id }) =>
      passthrough === undefined ? accessOf(id) !== 'passthrough' : id === passthrough,
    )
  const rules = rulesOf(edge.upstreams)
  const pins = createPins({
    pins: edge.cache.pins,
    roots: () => [
      ...primaryLog.roots(),
      ...primaryLog.statements.unlisted().filter((digest) => cached.size(digest) !== undefined),
    ],
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
  closers.push(() => manifests.close())
  const blobs = createBlobs({
    blobs: cached,
    memory,
    fills,
    client,
    sources,
    pieceLists,
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
      blob: (origin, { digest, size }, { isSharer, signal }) =>
        blobs.prefetch(origin, digest, { signal }, { size, isSharer }),
      isHeld: (digest) => cached.size(digest) !== undefined,
      heldParts: async (digest) => {
        const bytes = await cached.readAll(digest)
        return bytes && namesOf(bytes)
      },
      isPinned: (digest) => cached.isPinned(digest),
      room: () => cached.room,
      pin: () => pins.mark(),
      onHeld: ({ ruleId, projectId, repositoryId }) => {
        const repository = primaryLog.statements.repositoryName(projectId, repositoryId)
        if (ruleId > 0) log.info({ repository }, 'what a rule brings is here')
        else log.info({ repository, preheat: -ruleId }, 'what was to be preheated is here')
      },
      now: Date.now,
    })
    pinLoss.told = () => primaryLog.lost()
  }

  const leavingRef: { current?: Leaving } = {}
  const readiness = createEdgeReadiness({
    diskFailure: disk.refusal,
    logFailure: primaryLog.failure,
    isLeaving: () => leavingRef.current?.isLeaving === true,
  })
  const servers: HttpServer[] = []
  const { id: primaryId } = primaryOf(edge)
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
        readiness,
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
        onPulled: ({ upstream, project, repository }, digest, tag) => {
          if (upstream === primaryId) pulls?.count({ project, repository, digest, tag })
        },
      },
      tokens: { relay: access.relay, registries: registriesOf(listener) },
      client,
      access: {
        ...access,
        isOpen: (upstream) => accessOf(upstream) === 'open',
        decisions: edge.cache.decisions,
        decisionTtlMs: edge.cache.decision_ttl,
      },
      service: access.audience,
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
            // And who pulled it.
            onPulled: () => undefined,
          },
          access: createPeerAccess({
            edgeId: edge.id ?? '',
            takesChildren: edge.peers.children,
            upstream: primaryOf(edge).id,
            statements: primaryLog.statements,
            isFresh: () => primaryLog.freshness.isFresh(),
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
  const leaving = await createLeaving({
    isDraining: () => primaryLog.statements.edge(edge.id ?? '')?.draining === true,
    register: () =>
      announce(edge.consul, {
        announced: announcedOf(edge, urls),
        isHealthy: async () => isReady(await lookAt(readiness)),
        log,
      }),
    transfers: httpMetrics.running,
    onNews: () => primaryLog.report(),
    log,
  })
  leavingRef.current = leaving
  closers.push(() => leaving.close())
  const { prune: pruning } = edge.cache
  const prune =
    identity === undefined || !edge.follow || pruning.mode === 'off'
      ? undefined
      : createPrune({
          options: { ...pruning, mode: pruning.mode },
          upstream: primaryOf(edge).id,
          blobs: cached,
          isSettled: () => primaryLog.freshness.isFresh() && primaryLog.progress().isWhole,
          kept: () => pins.all(),
          log,
          now: Date.now,
        })
  closers.push(() => prune?.close())
  if (identity !== undefined && edge.follow) {
    primaryLog.follow({
      edge: identity,
      ask,
      post,
      dial: { chooseProxy: proxyChoiceOf(edge.outbound), connectTimeoutMs: edge.fill.connect },
      progress: () => {
        const { failures, preheats, heldSeq, waitingBytes } = primaryLog.progress()
        const pruned = prune?.report()
        return {
          heldSeq,
          waitingBytes,
          ...(peerServer && { peerUrl: peerServer.url }),
          report: {
            ...reportOf({ edge, metrics, cached, urls }),
            ...trouble.last(),
            transfers: httpMetrics.running(),
            draining: leaving.isLeaving,
            failures,
            preheats,
            ...(pruned && { prune: pruned }),
          },
        }
      },
      onLink: (link, over) => pulls?.sendOver(link, over),
      onTokenKeys: () => access.renewKeys(),
      onRoster: () => {
        peers.changed()
        leaving.look()
      },
      onIdentity: ({ key, certificate, ca }) =>
        peerServer?.server.setMutual({ key, cert: certificate, ca }),
    })
    prune?.start()
  }
  const operator = await createMetricsServer({
    ...edge.metrics,
    registry,
    readiness,
    log,
  })
  closers.push(() => operator.close())
  return {
    urls,
    metrics: operator.url.origin,
    async stop(deadlineMs) {
      const begun = performance.now()
      // Nobody is to be sent here when nobody is let in any more.
      await Promise.race([leaving.close(), delay(deadlineMs, undefined, { ref: false })])
      const leftMs = Math.max(0, deadlineMs - (performance.now() - begun))
      // The servers together; what they still send may need everything else.
      await Promise.all(servers.map((server) => server.drain(leftMs)))
      await closeAll()
    },
  }
}

import { randomUUID } from 'node:crypto'
import { hostname } from 'node:os'
import { join } from 'node:path'
import packageJson from '../package.json' with { type: 'json' }
import { createPasswords, type ScryptCost } from '../shared/auth/passwords.ts'
import { atPortOf, isLoopback } from '../shared/config/origins.ts'
import { announce } from '../shared/discovery/registration.ts'
import { writeFileAtomic } from '../shared/files/atomic-write.ts'
import { readSmallFile } from '../shared/files/read-file.ts'
import { createMetricsServer } from '../shared/http/metrics-server.ts'
import type { ReadinessCheck } from '../shared/http/readiness.ts'
import { createBlobSender } from '../shared/http/send-blob.ts'
import type { HttpServer } from '../shared/http/server.ts'
import type { Logger } from '../shared/observability/log.ts'
import type { RosterEdge } from '../shared/replication/events.ts'
import type { Running, StartDeps } from '../shared/observability/program.ts'
import { createMetrics, type Metrics } from '../shared/observability/metrics.ts'
import type { Bootstrap } from './accounts/bootstrap.ts'
import type { PrimaryConfig, PrimaryOptions } from './config.ts'
import { openCurrentKeys, type CurrentKeys } from './events/current-keys.ts'
import { createFeeds } from './events/feed.ts'
import { createFollowedCache } from './events/followed-cache.ts'
import { startFollower, type Follower } from './events/follower.ts'
import { createLeases } from './events/lease.ts'
import { startHighWater, type HighWater } from './events/high-water.ts'
import { startRelay } from './events/relay.ts'
import { createPlaceCheck } from './events/shown-place.ts'
import { startTail } from './events/tail.ts'
import { createCleanup, type Cleanup } from './cleanup.ts'
import { createLaterJobs } from './jobs/jobs.ts'
import { checkHealth, checkLog } from './health.ts'
import { createTakeReport } from './internal/pull-reports.ts'
import { createOfflineRoot } from './keys/offline-root.ts'
import { createRotation } from './keys/rotation.ts'
import { createInternalServer } from './internal/server.ts'
import { createDatabaseMetrics, createPrimaryMetrics, createReportMetrics } from './metrics.ts'
import { createPrimaryServer } from './server.ts'
import { createServices, type Services } from './services.ts'
import type { BlobStore } from './store/blobs.ts'
import { migrate, openDatabase, type Database, type DatabaseAddress } from './store/database.ts'
import { stopLeftPostgres } from './store/embedded-postgres.ts'
import { createEdgeStandings } from './store/edge-standings.ts'
import { createEdges } from './store/edges.ts'
import { createEdgeStates } from './store/edge-states.ts'
import { createEvents } from './store/events.ts'
import type { Disk } from './store/disk.ts'
import { createFsBlobs } from './store/fs-blobs.ts'
import { createProjects } from './store/projects.ts'
import { createPullReports } from './store/pull-reports.ts'
import { keepPostgres } from './store/kept-postgres.ts'
import { openKeyFile } from './store/key-file.ts'
import { createKeyRotation } from './store/key-rotation.ts'
import { createPendingLists } from './store/pending-lists.ts'
import { createLogMarks } from './store/log-mark.ts'
import { createFeedStarts } from './store/feed-starts.ts'
import { listenForHeads } from './store/listen.ts'
import { agreeOnKeyFile, agreeOnStore } from './store/settings.ts'
import { createSnapshots } from './store/snapshots.ts'
import { createStreamSnapshots } from './store/snapshot-files.ts'

/** How often the event log is read; a notification comes before. */
const pollMs = 100
/** Caches are passed by after this long without a look at the log. */
const maxStaleMs = 1000
const postgresStopMs = 5000
/** How often the log's high-water mark is written. */
const markMs = 5000
/** How often feeds look for more where the follower, which looks for both, has not told of it. */
const tailPollMs = 1000
/** Of the log's end, framed for edges. */
const feedBytes = 32 * 2 ** 20
/** Files of blobs that are kept open without a reader. */
const openFiles = 512

/** What a primary is started with. */
export interface PrimaryDeps extends StartDeps {
  /** What blobs are written by: the machine's own disk if left out. */
  readonly disk?: Disk
  /** What it costs to try a password: as much as people's need if left out. */
  readonly passwordCost?: ScryptCost
}

/**
 * Starts a primary: records, bytes, services, servers, in this order; what was started is stopped again when
 * something fails.
 * @throws what explains in one line why it cannot start
 */
export async function startPrimary(
  config: PrimaryConfig,
  {
    log,
    processMetrics = true,
    signal = new AbortController().signal,
    disk,
    passwordCost,
  }: PrimaryDeps,
): Promise<Running> {
  const cleanup = createCleanup()
  try {
    return await start(config, {
      log,
      cleanup,
      signal,
      metrics: createMetrics('primary', { processMetrics }),
      disk,
      passwordCost,
    })
  } catch (error) {
    await cleanup
      .run()
      .catch((err: unknown) => log.error({ err }, 'a failed start could not be undone'))
    throw error
  }
}

/**
 * Ends what a primary that was killed left running; nothing when there is nothing. No primary may run on this
 * configuration.
 * @throws when something goes on running
 */
export async function stopLeftBy({ data, primary }: PrimaryConfig): Promise<void> {
  if (primary.database.url === undefined) {
    await stopLeftPostgres(postgresFolder(data), postgresStopMs)
  }
}

function postgresFolder(data: string): string {
  return join(data, 'postgres')
}

interface StartContext {
  readonly log: Logger
  readonly cleanup: Cleanup
  /** Aborted when the start is to be broken off: looked at between its steps, and within the long ones. */
  readonly signal: AbortSignal
  readonly metrics: Metrics
  readonly disk: Disk | undefined
  readonly passwordCost: ScryptCost | undefined
}

async function start(config: PrimaryConfig, context: StartContext): Promise<Running> {
  const { log, cleanup, metrics, signal, disk } = context
  const { primary: options, data } = config
  const database = await startRecords(config, context)
  const { records } = database
  const blobFolder = join(data, 'blobs')
  const { blobs, storeId } = await openBlobs(blobFolder, { database, cleanup, disk })
  const secrets = await openKeyFile(options.key_file)
  await agreeOnKeyFile(records, secrets, options.key_file)
  const keys = await openCurrentKeys(records, { secrets, issuer: storeId, log })
  // Before anything is numbered.
  const highWater = await startHighWater({
    marks: createLogMarks(records, blobs, { issuer: storeId, secrets }),
    log,
    everyMs: markMs,
    now: () => new Date(),
  })
  cleanup.add(() => highWater.stop())
  const { relay, follower } = await startEvents(database, {
    options,
    log,
    cleanup,
    keys,
    highWater,
  })
  follower.onChange((subjects) => {
    if (subjects === undefined || subjects.includes('keys')) keys.readAgain()
  })
  const jobs = createLaterJobs({ database, log })
  cleanup.add(() => jobs.stop())
  signal.throwIfAborted()
  const sender = createBlobSender({ maxBufferBytes: options.cache.transfer_buffers })
  const health = () => checkHealth({ database, blobs, follower, highWater })
  const keyRotation = createKeyRotation(records, { issuer: storeId, secrets })
  const offlineRoot = createOfflineRoot({
    store: keyRotation,
    lists: createPendingLists(records, { issuer: storeId, secrets }),
    keys,
    highWater,
  })
  const rotation = createRotation({
    store: keyRotation,
    keys,
    highWater,
    aheadMs: options.keys.ahead,
    retainMs: options.events.retain,
    log,
    now: Date.now,
  })
  cleanup.add(rotation.start())

  const internal = await startInternal({
    database,
    data,
    options,
    keys,
    follower,
    highWater,
    metrics,
    log,
    cleanup,
  })
  let externalUrl: string | undefined
  const services: Services = createServices({
    options,
    passwords: createPasswords({ cost: context.passwordCost }),
    version: packageJson.version,
    records,
    blobs,
    blobFolder,
    relay,
    follower,
    jobs,
    keys,
    rotation,
    offlineRoot,
    sender,
    metrics: createPrimaryMetrics({
      registry: metrics.registry,
      sender,
      uploadsRunning: () => services.registry.uploads.running(),
      isFollowing: () => follower.isCurrent(),
      isBehind: () => highWater.behind() !== undefined,
      waitsForRoot: () => keys.waitsForRoot(),
    }),
    log,
    externalUrl: () => externalUrl ?? '',
    internalUrl: () => internal.url.origin,
    primaryId: await primaryIdOf(data),
    health: async () =>
      [...(await health()), checkLog(highWater)].map(({ name, ok, reason }) => ({
        name,
        error: ok ? undefined : (reason ?? 'it does not answer'),
      })),
  })
  cleanup.add(() => services.registry.close())
  await services.registry.recover()
  signal.throwIfAborted()
  await bootstrap(services.bootstrap, options, log)
  signal.throwIfAborted()
  startSweeper(services, { options, log, cleanup, highWater })

  const servers = await createServers({ options, services, health, metrics, log, cleanup, relay })
  const urls: Record<string, string> = {}
  for (const [name, server] of servers) {
    const url = (await server.listen()).origin
    externalUrl ??=
      options.external_url === undefined
        ? warnedUrl(url, options, log)
        : atPortOf(options.external_url, url)
    urls[name] = url
  }
  jobs.begin()
  cleanup.add(services.startRules())
  cleanup.add(services.startPieceLists())
  const metricsServer = await createMetricsServer({
    ...options.metrics,
    registry: metrics.registry,
    readiness: health,
    log,
  })
  cleanup.add(() => metricsServer.close())
  const [primaryId = ''] = (await primaryIdOf(data)).split(' ')
  const registration = await announce(options.consul, {
    announced: {
      name: 'outport-primary',
      id: primaryId,
      url: externalUrl ?? '',
      version: packageJson.version,
    },
    isHealthy: async () => (await health()).every(({ ok }) => ok),
    log,
  })
  cleanup.add(() => registration.close())
  return {
    urls,
    metrics: metricsServer.url.origin,
    stop: createStop([internal.server, ...servers.map(([, server]) => server)], {
      cleanup,
      leave: () => registration.close(),
    }),
  }
}

/** Without a configured URL, tokens and links name the first listener: clients elsewhere must be able to reach that. */
function warnedUrl(url: string, { listeners }: PrimaryOptions, log: Logger): string {
  if (listeners.some(({ address }) => !isLoopback(address))) {
    log.warn(
      { url },
      'primary.external_url is not set: clients on other machines are sent to this URL to log in',
    )
  }
  return url
}

/** First the servers finish, and nobody is sent here any more; then everything below goes in the reverse order of its start. */
function createStop(
  servers: readonly HttpServer[],
  { cleanup, leave }: { readonly cleanup: Cleanup; readonly leave: () => Promise<void> },
): Running['stop'] {
  let stopping: Promise<void> | undefined
  return (deadlineMs) => {
    if (stopping !== undefined) {
      for (const { app } of servers) app.server.closeAllConnections()
      return stopping
    }
    stopping = Promise.all([leave(), ...servers.map((server) => server.drain(deadlineMs))]).then(
      () => cleanup.run(),
    )
    return stopping
  }
}

async function startRecords(
  { primary: options, data }: PrimaryConfig,
  { log, cleanup, metrics, signal }: StartContext,
): Promise<Database> {
  const { url, pool_size: poolSize, statement_timeout: statementTimeoutMs } = options.database
  const address: DatabaseAddress =
    url === undefined
      ? await startPostgres(postgresFolder(data), { options, log, cleanup, signal })
      : { url }
  const { queried } = createDatabaseMetrics(metrics.registry)
  const database = await openDatabase({
    address,
    poolSize,
    statementTimeoutMs,
    onQuery: queried,
    onIdleError: (err) => log.warn({ err }, 'an idle connection to the database broke'),
  })
  cleanup.add(() => database.close())
  signal.throwIfAborted()
  await migrate(database.records)
  signal.throwIfAborted()
  return database
}

interface PartContext {
  readonly options: PrimaryOptions
  readonly log: Logger
  readonly cleanup: Cleanup
}

async function startPostgres(
  folder: string,
  { options, log, cleanup, signal }: PartContext & { readonly signal: AbortSignal },
): Promise<DatabaseAddress> {
  const startTimeoutMs = options.database.start_timeout
  const server = await keepPostgres({ folder, startTimeoutMs, signal }, log)
  cleanup.add(() => server.stop(postgresStopMs))
  return server.address
}

async function openBlobs(
  root: string,
  {
    database,
    cleanup,
    disk,
  }: { readonly database: Database } & Pick<StartContext, 'cleanup' | 'disk'>,
): Promise<{ readonly blobs: BlobStore; readonly storeId: string }> {
  const blobs = await createFsBlobs({ root, openFiles, ...(disk && { disk }) })
  cleanup.add(async () => blobs.close())
  return { blobs, storeId: await agreeOnStore(database.records, blobs) }
}

async function startEvents(
  database: Database,
  {
    options,
    log,
    cleanup,
    keys,
    highWater,
  }: PartContext & { readonly keys: CurrentKeys; readonly highWater: HighWater },
) {
  const events = createEvents(database.records)
  const relay = startRelay({
    events,
    sign: (head) => keys.signHead(head),
    onHeld(known) {
      if (known === undefined) highWater.lookAgain()
      else
        highWater.shown(known, 'this primary').catch((err: unknown) => {
          log.error({ err }, 'the log could not be compared with what this primary knew of it')
        })
    },
    log,
    pollMs,
    retainMs: options.events.retain,
    now: () => new Date(),
  })
  cleanup.add(() => relay.stop())
  const follower = await startFollower({
    events,
    log,
    pollMs,
    maxStaleMs,
    now: () => performance.now(),
    listen: (wake) => listenForHeads(database, wake),
  })
  cleanup.add(() => follower.stop())
  return { relay, follower }
}

interface InternalContext extends PartContext {
  readonly database: Database
  readonly data: string
  readonly keys: CurrentKeys
  readonly follower: Follower
  readonly highWater: HighWater
  readonly metrics: Metrics
}

/** Where edges come: the log as a stream, leases, snapshots. */
async function startInternal({
  database,
  data,
  options,
  keys,
  follower,
  highWater,
  metrics,
  log,
  cleanup,
}: InternalContext): Promise<{ readonly server: HttpServer; readonly url: URL }> {
  const { records } = database
  const events = createEvents(records)
  const tail = await startTail({ events, log, pollMs: tailPollMs, keepBytes: feedBytes })
  cleanup.add(() => tail.stop())
  follower.onChange(() => tail.wake())
  const edges = createEdges(records)
  const standings = createEdgeStandings(records)
  const projects = createProjects(records)
  const signing = () => keys.logSigning()
  const isHeld = () => highWater.behind() !== undefined
  const leases = createLeases({
    events,
    states: createEdgeStates(records),
    projectIds: () => projects.ids(),
    setPeerUrl: (id, url) => edges.setPeerUrl(id, url, new Date()),
    checkPlace: createPlaceCheck({
      highWater,
      trust: () => keys.trust(),
      isFed: (id) => feeds.isFed(id),
      place: () => ({ epoch: tail.epoch, seq: tail.seq }),
    }),
    signing,
    log,
    now: Date.now,
  })
  cleanup.add(() => leases.close())
  const starts = createFeedStarts(records, database)
  const feeds = createFeeds({
    announce: (start) => {
      starts.announce(start).catch((err: unknown) => {
        log.warn({ err, edge: start.edgeId }, 'other primaries are not told whom this one feeds')
      })
    },
    tail,
    trust: () => keys.trust(),
    isHeld,
    log,
    onClone: (id, addresses) => {
      log.error({ edge: id, addresses }, 'two machines are this edge by turns: it is suspended')
      const deed = { actor: { username: '', address: addresses.join(' ') }, now: new Date() }
      const reason = `two machines were this edge by turns, from ${addresses.join(' and ')}: its folder was copied`
      standings.suspend(id, deed, { reason }).catch((err: unknown) => {
        log.error({ err, edge: id }, 'it could not be suspended')
      })
    },
    now: () => performance.now(),
  })
  cleanup.add(await starts.listen((start) => feeds.startedElsewhere(start)))
  highWater.onChange(() => feeds.endAll())
  keys.onRead(async () => {
    tail.forget()
    feeds.tellTrust()
  })
  const known = createFollowedCache<RosterEdge>({ follower, maxEntries: 20_000 })
  const internal = await createInternalServer({
    options,
    folder: join(data, 'internal'),
    routes: {
      feeds,
      leases,
      isHeld,
      snapshots: await createStreamSnapshots({
        folder: join(data, 'snapshots'),
        snapshots: createSnapshots(records),
        signing,
        place: () => ({ epoch: tail.epoch, seq: tail.seq }),
      }),
      takeReport: createTakeReport({
        reports: createPullReports(records),
        onApplied: createReportMetrics(metrics.registry),
        now: Date.now,
      }),
      findEdge: (id, publicKey) =>
        known.get(
          `${id} ${publicKey}`,
          () => [`edge:${id}`],
          () => edges.findByKey(id, publicKey),
        ),
    },
    keys,
    log,
    httpMetrics: metrics.http,
    timeouts: options.timeouts,
    limits: options.limits,
  })
  cleanup.add(() => internal.server.drain(0))
  return { server: internal.server, url: await internal.listen() }
}

/**
 * The same after a restart, so that this primary can take back what it held when it died. The host is part of it:
 * primaries on several may share one folder.
 */
async function primaryIdOf(data: string): Promise<string> {
  const path = join(data, 'primary-id')
  const known = (await readSmallFile(path))?.toString('utf8').trim()
  if (known !== undefined && known !== '') return `${known} ${hostname()}`
  const id = randomUUID()
  await writeFileAtomic(path, `${id}\n`, { mode: 0o600 })
  return `${id} ${hostname()}`
}

async function bootstrap(
  bootstrap: Bootstrap,
  options: PrimaryOptions,
  log: Logger,
): Promise<void> {
  const created = await bootstrap.ensureAdmin({
    password: () => {
      if (options.admin_password !== undefined) return options.admin_password
      throw new Error(
        'there is no account admin yet: set primary.admin_password (OUTPORT_ADMIN_PASSWORD) for its first start',
      )
    },
  })
  if (created) {
    await bootstrap.ensureProject('library', { public: true })
    log.info('the account admin and the project library were created')
  }
  for (const edge of options.edges) {
    const secret = (await readSmallFile(edge.credential_file))?.toString('utf8').trim() ?? ''
    if (secret === '') {
      throw new Error(
        `the credential file of the edge ${edge.id} is missing or empty: ${edge.credential_file}`,
      )
    }
    const { unknown, isRevoked } = await bootstrap.ensureEdge({
      id: edge.id,
      name: edge.name ?? edge.id,
      secret,
      scope: edge.scope,
      acceptPeople: edge.accept_people,
    })
    if (isRevoked)
      log.warn(
        { edge: edge.id },
        `an edge of the configuration was revoked, and stays so: take it out of primary.edges, or let it back by 'outport edges resume ${edge.id}'`,
      )
    if (unknown.length > 0)
      log.warn(
        { edge: edge.id, projects: unknown },
        'projects in the scope of an edge do not exist',
      )
  }
}

/** Removes uploads that nobody went on with, now and again. */
function startSweeper(
  services: Services,
  { options, log, cleanup, highWater }: PartContext & { readonly highWater: HighWater },
): void {
  let running: Promise<void> = Promise.resolve()
  const sweep = async () => {
    // A database that was restored does not know what was made of an upload since.
    if (highWater.behind() !== undefined) return
    try {
      const removed = await services.registry.uploads.sweep(options.uploads.max_age)
      if (removed > 0) log.info({ removed }, 'abandoned uploads were removed')
    } catch (err) {
      log.error({ err }, 'abandoned uploads could not be removed')
    }
  }
  const timer = setInterval(() => {
    running = running.then(sweep)
  }, options.uploads.sweep)
  cleanup.add(async () => {
    clearInterval(timer)
    await running
  })
}

interface ServerContext extends PartContext {
  readonly services: Services
  readonly health: () => Promise<readonly ReadinessCheck[]>
  readonly metrics: Metrics
  readonly relay: { wake(): void }
}

async function createServers(
  context: ServerContext,
): Promise<readonly (readonly [string, HttpServer])[]> {
  const { options, services, health, metrics, log, cleanup, relay } = context
  const servers: (readonly [string, HttpServer])[] = []
  for (const [index, listener] of options.listeners.entries()) {
    const name = index === 0 ? 'primary' : `primary-${index + 1}`
    if (listener.insecure_http === 'all') {
      log.warn(
        { listener: name },
        'passwords cross the network in clear on this listener: use it in a lab only',
      )
    }
    const server = await createPrimaryServer(name, listener, {
      rooms: services.rooms,
      version: packageJson.version,
      maxBodyBytes: options.limits.json_body,
      onChange: () => relay.wake(),
      log,
      httpMetrics: metrics.http,
      trustedProxies: options.trusted_proxies,
      timeouts: options.timeouts,
      limits: options.limits,
      readiness: health,
    })
    cleanup.add(() => server.drain(0))
    servers.push([name, server])
  }
  return servers
}

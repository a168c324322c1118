import { setTimeout as delay } from 'node:timers/promises'
import type { Passwords } from '../shared/auth/passwords.ts'
import {
  createTokenVerifier,
  primaryAudience,
  tokenIssuer,
  type TokenVerifier,
} from '../shared/auth/token.ts'
import type { Scope } from '../shared/auth/scope.ts'
import { readSmallFile } from '../shared/files/read-file.ts'
import type { BlobSender } from '../shared/http/send-blob.ts'
import type { Logger } from '../shared/observability/log.ts'
import { formatSignedTag } from '../shared/replication/signed-tag.ts'
import type { Account } from './accounts/account.ts'
import { createBootstrap, type Bootstrap } from './accounts/bootstrap.ts'
import { accountSubjects, createFindAccount, type FindAccount } from './accounts/find-account.ts'
import { createGuard } from './accounts/guard.ts'
import { createLogInLimit } from '../shared/auth/log-in-limit.ts'
import { createLogIns } from './accounts/log-ins.ts'
import { createRobotAccounts } from './accounts/robots.ts'
import { createUsers } from './accounts/users.ts'
import { createLabelService } from './catalog/labels.ts'
import type { PrimaryOptions } from './config.ts'
import { createClientEdges } from './edges/client-edges.ts'
import { createEnrolment } from './edges/enrolment.ts'
import { createInventory } from './edges/inventory.ts'
import type { OfflineRoot } from './keys/offline-root.ts'
import type { Rotation } from './keys/rotation.ts'
import type { CurrentKeys } from './events/current-keys.ts'
import { createFollowedCache } from './events/followed-cache.ts'
import type { Follower } from './events/follower.ts'
import type { Relay } from './events/relay.ts'
import type { Jobs } from './jobs/jobs.ts'
import type { PrimaryMetrics } from './metrics.ts'
import { createProjectService, visibilityOf } from './projects/projects.ts'
import { createRegistry, type Registry, type RegistryCaches } from './registry/registry.ts'
import { createPieceListJob } from './registry/piece-list-job.ts'
import { createExecutionService } from './replication/executions.ts'
import { startRuleFollower } from './replication/follow.ts'
import { createPreheatService } from './replication/preheats.ts'
import { createRuleReader } from './replication/rule-reader.ts'
import type { Rooms } from './server.ts'
import { createAccounts } from './store/accounts.ts'
import { createArtifacts } from './store/artifacts.ts'
import { createAudit } from './store/audit.ts'
import type { BlobStore } from './store/blobs.ts'
import { createCatalog } from './store/catalog.ts'
import type { Records } from './store/database.ts'
import { createEdgeStates } from './store/edge-states.ts'
import { createEdgeStandings } from './store/edge-standings.ts'
import { createEdges } from './store/edges.ts'
import { createEvents } from './store/events.ts'
import { createExecutions } from './store/executions.ts'
import { createJoinTokens } from './store/join-tokens.ts'
import { createLabels } from './store/labels.ts'
import { createManifests } from './store/manifests.ts'
import { createMembers } from './store/members.ts'
import { createPieceLists } from './store/piece-lists.ts'
import { createPreheats } from './store/preheats.ts'
import { createPolicies } from './store/policies.ts'
import { createProjects } from './store/projects.ts'
import { createRegistries } from './store/registries.ts'
import { createRobots } from './store/robots.ts'
import { createTags } from './store/tags.ts'
import { createRoster } from './store/roster.ts'
import { createSelections } from './store/selections.ts'
import { volumeOf } from './store/volumes.ts'
import type { HealthComponent } from './system/routes.ts'
import { createAuthenticate, type Authenticate } from './tokens/authenticate.ts'
import { challengeOf } from './tokens/grant.ts'
import { createIssue } from './tokens/issue.ts'
import { createRefresh, refreshAudience } from './tokens/refresh.ts'

/** What stands in tokens and challenges for this registry. */
const service = 'outport'

export interface ServiceDeps {
  readonly options: PrimaryOptions
  readonly passwords: Passwords
  readonly version: string
  readonly records: Records
  readonly blobs: BlobStore
  readonly blobFolder: string
  readonly follower: Follower
  readonly relay: Relay
  readonly jobs: Jobs
  readonly keys: Pick<CurrentKeys, 'jwt' | 'trust' | 'edgeCa' | 'logSigning'>
  readonly rotation: Rotation
  readonly offlineRoot: OfflineRoot
  readonly sender: BlobSender
  readonly metrics: Omit<PrimaryMetrics, 'queried'>
  readonly log: Logger
  /** What clients type; known once the first listener has its port. */
  readonly externalUrl: () => string
  /** Where edges come for events; known once that listener has its port. */
  readonly internalUrl: () => string
  readonly primaryId: string
  readonly health: () => Promise<readonly HealthComponent[]>
}

export interface Services {
  readonly rooms: Rooms
  readonly registry: Registry
  readonly bootstrap: Bootstrap
  /** Starts taking jobs and following the log; returns how to stop following. */
  readonly startRules: () => () => Promise<void>
  /** Begins to list the pieces of large blobs; returns how to stop. */
  readonly startPieceLists: () => () => Promise<void>
}

/** Puts the rooms together. */
export function createServices(deps: ServiceDeps): Services {
  const { options, records, passwords } = deps
  const stores = {
    accounts: createAccounts(records),
    robots: createRobots(records),
    edges: createEdges(records),
    joinTokens: createJoinTokens(records),
    projects: createProjects(records),
    members: createMembers(records),
    catalog: createCatalog(records),
    artifacts: createArtifacts(records),
    labels: createLabels(records),
    audit: createAudit(records),
    registries: createRegistries(records),
    policies: createPolicies(records),
    executions: createExecutions(records),
    selections: createSelections(records),
    roster: createRoster(records),
    preheats: createPreheats(records),
    tags: createTags(records),
    manifests: createManifests(records),
  }
  const { accounts, robots, edges, joinTokens, projects, members, catalog, labels, audit } = stores
  const now = Date.now
  const findAccount = createFindAccount(stores)
  const { failures, window: windowMs } = options.login_rate
  const rate = { failures, windowMs, now }
  const logIns = createLogIns({
    findAccount,
    recallAccount: rememberAccounts(deps),
    passwords,
    limit: createLogInLimit(rate),
    refusals: createLogInLimit(rate),
    appendAudit: audit.append,
    now,
    cacheEntries: options.cache.decisions,
  })
  const guard = createGuard({ logIns, projects, robots, labels })
  const pieceLists = createPieceListJob({
    records: createPieceLists(records),
    blobs: deps.blobs,
    from: options.piece_lists.from,
    primaryId: deps.primaryId,
    ask: () => deps.jobs.send('pieces.list', {}, 'all'),
    work: (run) => deps.jobs.work('pieces.list', run),
    onListed: () => deps.relay.wake(),
    log: deps.log,
  })
  const registry = createRegistryFor(deps, (bytes) => pieceLists.received(bytes))
  const signingKey = () => deps.keys.jwt().signing
  const verifierFor = (audience: string): TokenVerifier =>
    createTokenVerifier({
      keys: () => deps.keys.jwt().public,
      issuer: tokenIssuer,
      audience,
      cacheEntries: options.cache.decisions,
    })
  const { registries, policies, selections, roster } = stores
  const plannerOf = createRuleReader(deps.log)
  const ruled = { plannerOf, onListsWanted: () => pieceLists.wanted(), now }
  const executions = createExecutionService({ ...stores, ...ruled, jobs: deps.jobs })
  const preheats = createPreheatService({ ...stores, onFacts: () => deps.relay.wake(), now })
  return {
    registry,
    startRules: () => {
      // Once the queue is open; until then runs wait in it.
      executions.work().catch((err: unknown) => {
        deps.log.debug({ err }, 'no runs of rules are taken: the primary stops')
      })
      const { follower, relay, log } = deps
      const onFacts = () => relay.wake()
      const rules = { ...ruled, selections, executions, preheats, follower, onFacts, log }
      return startRuleFollower(rules).stop
    },
    startPieceLists: pieceLists.start,
    bootstrap: createBootstrap({ accounts, projects, edges, passwords, now }),
    rooms: {
      guard,
      registry: {
        ...registry,
        stateTag: stateTags(deps),
        authenticate: lazyAuthenticate(deps, { logIns, verifier: verifierFor(primaryAudience) }),
        sender: deps.sender,
        challenge: challengeFor(deps),
        drain: { maxBytes: options.limits.refused_body, maxMs: options.timeouts.refused_body },
        log: deps.log,
        onSent: (source, bytes) => deps.metrics.blobSent(source, bytes),
      },
      tokens: {
        issue: createIssue({
          logIns,
          findProjects: (names, userId) => projects.findForGrant(names, userId),
          rolesOf: (userId) => projects.rolesOf(userId),
          acceptsPeople: async (id) => (await edges.get(id))?.acceptsPeople ?? false,
          signingKey,
          lifetimeSeconds: Math.floor(options.tokens.lifetime / 1000),
          now,
        }),
        refresh: createRefresh({
          signingKey,
          verifier: verifierFor(refreshAudience),
          findAccount,
          now,
        }),
        logIns,
        keys: () => deps.keys.jwt().public,
        trust: () => deps.keys.trust(),
        internalUrl: deps.internalUrl,
      },
      accounts: {
        users: createUsers({ accounts, passwords, now }),
        robots: createRobotAccounts({ robots, projects, passwords, guard, now }),
        projects,
        guard,
      },
      projects: {
        projects,
        service: createProjectService({ projects, now }),
        guard,
        members,
        accounts,
        catalog,
        now,
      },
      catalog: {
        catalog,
        artifacts: stores.artifacts,
        labels,
        labelService: createLabelService({ labels, guard, now }),
        now,
      },
      audit: { audit, projects },
      edges: {
        edges,
        standings: createEdgeStandings(records),
        joinTokens,
        enrolment: createEnrolment({
          tokens: joinTokens,
          edges,
          passwords,
          keys: deps.keys,
          limit: createLogInLimit(rate),
          now,
        }),
        inventory: createInventory({
          states: createEdgeStates(records),
          events: createEvents(records),
          now,
        }),
        projects,
        robots,
        now,
      },
      keys: { rotation: deps.rotation, offlineRoot: deps.offlineRoot, now },
      clientEdges: createClientEdges({
        roster: stores.roster,
        hosts: options.client_edges,
        now: () => performance.now(),
      }),
      replication: {
        registries,
        policies,
        roster,
        executions,
        executionList: stores.executions,
        preheats,
        preheatList: stores.preheats,
        guard,
        projects,
        now,
      },
      system: {
        get externalUrl() {
          return deps.externalUrl()
        },
        version: deps.version,
        storageProvider: 'filesystem',
        health: deps.health,
        volumes: async () => [await volumeOf(deps.blobFolder)],
        caCertificate: async () =>
          options.ca_file === undefined ? undefined : readSmallFile(options.ca_file),
        projects,
        catalog,
        visibilityOf,
        now,
      },
    },
  }
}

/** Every Basic request of the registry looks its account up; an event about one drops it. */
function rememberAccounts({ options, follower }: ServiceDeps) {
  const cache = createFollowedCache<Account>({ follower, maxEntries: options.cache.decisions })
  return (name: string, find: FindAccount) => cache.get(name, accountSubjects, () => find(name))
}

function createRegistryFor(deps: ServiceDeps, onReceived: (bytes: number) => void): Registry {
  const { options, records, blobs, follower, relay, log } = deps
  const memory = Math.floor(options.cache.memory / 2)
  return createRegistry({
    records,
    blobs,
    caches: createCaches(deps, memory),
    invalidate(subjects) {
      follower.invalidate(subjects)
      relay.wake()
    },
    challenge: challengeFor(deps),
    primaryId: deps.primaryId,
    uploadLimits: {
      concurrent: options.uploads.concurrent,
      concurrentPerAccount: options.uploads.concurrent_per_account,
      openPerAccount: options.uploads.open_per_account,
    },
    manifestMaxBytes: options.limits.manifest,
    sparse: options.sparse_manifests,
    smallBlobsBytes: memory,
    onReceived(bytes) {
      deps.metrics.blobReceived(bytes)
      onReceived(bytes)
    },
    onCountError: (err) => log.error({ err }, 'pulls could not be counted; they will be'),
  })
}

/** What a manifest costs in memory beside its content: heads, keys, subjects. */
const manifestOverheadBytes = 2048

function createCaches({ options, follower }: ServiceDeps, memory: number): RegistryCaches {
  const maxEntries = options.cache.decisions
  return {
    decisions: createFollowedCache({ follower, maxEntries }),
    links: createFollowedCache({ follower, maxEntries }),
    tags: createFollowedCache({ follower, maxEntries }),
    manifests: createFollowedCache({
      follower,
      maxEntries,
      bytes: {
        max: memory,
        of: ({ stored }) => stored.content.length + manifestOverheadBytes,
      },
    }),
  }
}

/** Says, signed, where a tag points, and when that was so. */
function stateTags({ records, keys }: ServiceDeps): Rooms['registry']['stateTag'] {
  const tags = createTags(records)
  return async (repository, tag) => {
    const state = await afterBacklog(() => tags.stateOf(repository, tag))
    if (state === undefined) return undefined
    const { id: repositoryId, projectId, name } = repository
    const statement = formatSignedTag(
      { projectId, repositoryId, repository: name, tag, ...state },
      keys.logSigning(),
    )
    return { digest: state.digest, statement }
  }
}

/** A backlog is numbered in moments; whoever asks waits for no longer than that. */
const backlogTries = 40
const backlogMs = 25

async function afterBacklog<State>(
  look: () => Promise<State | 'waits' | undefined>,
): Promise<State | undefined> {
  for (let tries = 0; tries < backlogTries; tries++) {
    const state = await look()
    if (state !== 'waits') return state
    await delay(backlogMs)
  }
  return undefined
}

function challengeFor({ externalUrl }: ServiceDeps) {
  return (scopes: readonly Scope[], error?: 'insufficient_scope') =>
    challengeOf({
      externalUrl: externalUrl(),
      service,
      scopes,
      ...(error !== undefined && { error }),
    })
}

/** The realm is known once the first listener has its port, which no request comes before. */
function lazyAuthenticate(
  { externalUrl }: ServiceDeps,
  deps: Omit<Parameters<typeof createAuthenticate>[0], 'externalUrl' | 'service'>,
): Authenticate {
  let made: Authenticate | undefined
  return (request) => {
    made ??= createAuthenticate({ ...deps, externalUrl: externalUrl(), service })
    return made(request)
  }
}

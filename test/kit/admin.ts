import { generateKeyPairSync, randomBytes } from 'node:crypto'
import type { TestContext } from 'node:test'
import type { JWK } from 'jose'
import { createBootstrap } from '../../primary/accounts/bootstrap.ts'
import { createFindAccount } from '../../primary/accounts/find-account.ts'
import { createGuard } from '../../primary/accounts/guard.ts'
import { createLogInLimit } from '../../shared/auth/log-in-limit.ts'
import { createLogIns } from '../../primary/accounts/log-ins.ts'
import { createRobotAccounts } from '../../primary/accounts/robots.ts'
import { createUsers } from '../../primary/accounts/users.ts'
import { createLabelService } from '../../primary/catalog/labels.ts'
import { createEnrolment } from '../../primary/edges/enrolment.ts'
import { createInventory } from '../../primary/edges/inventory.ts'
import { openCurrentKeys, type CurrentKeys } from '../../primary/events/current-keys.ts'
import { createOfflineRoot } from '../../primary/keys/offline-root.ts'
import { createRotation } from '../../primary/keys/rotation.ts'
import { createProjectService, visibilityOf } from '../../primary/projects/projects.ts'
import { createExecutionService } from '../../primary/replication/executions.ts'
import { createPreheatService } from '../../primary/replication/preheats.ts'
import { addRooms, type Rooms } from '../../primary/server.ts'
import { createAccounts } from '../../primary/store/accounts.ts'
import { createArtifacts } from '../../primary/store/artifacts.ts'
import { createAudit } from '../../primary/store/audit.ts'
import { createCatalog } from '../../primary/store/catalog.ts'
import type { Records } from '../../primary/store/database.ts'
import { createEdgeStates } from '../../primary/store/edge-states.ts'
import { createEdgeStandings } from '../../primary/store/edge-standings.ts'
import { createEdges } from '../../primary/store/edges.ts'
import { createEvents } from '../../primary/store/events.ts'
import { createExecutions } from '../../primary/store/executions.ts'
import { createJoinTokens } from '../../primary/store/join-tokens.ts'
import { createKeyRotation } from '../../primary/store/key-rotation.ts'
import { createLabels } from '../../primary/store/labels.ts'
import { createLogMarks } from '../../primary/store/log-mark.ts'
import { createManifests } from '../../primary/store/manifests.ts'
import { createMembers } from '../../primary/store/members.ts'
import { createPendingLists } from '../../primary/store/pending-lists.ts'
import { createPolicies } from '../../primary/store/policies.ts'
import { createPreheats } from '../../primary/store/preheats.ts'
import { createProjects } from '../../primary/store/projects.ts'
import { createRegistries } from '../../primary/store/registries.ts'
import { createRobots } from '../../primary/store/robots.ts'
import { createRoster } from '../../primary/store/roster.ts'
import { createSelections } from '../../primary/store/selections.ts'
import { createTags } from '../../primary/store/tags.ts'
import { createAuthenticate } from '../../primary/tokens/authenticate.ts'
import { createIssue } from '../../primary/tokens/issue.ts'
import { createRefresh, refreshAudience } from '../../primary/tokens/refresh.ts'
import { formatBasic } from '../../shared/auth/basic.ts'
import { createPasswords } from '../../shared/auth/passwords.ts'
import {
  createTokenVerifier,
  primaryAudience,
  tokenIssuer,
  type PublicKeys,
  type SigningKey,
} from '../../shared/auth/token.ts'
import { createLogger } from '../../shared/observability/log.ts'
import { createSecrets, type Secrets } from '../../shared/trust/secrets.ts'
import { startHttpServer, type TestServer } from './http-server.ts'
import { createTestDatabase } from './postgres.ts'

export const adminPassword = 'Admin1234'

/** A key of our own for tokens, with its JWKS. */
export function createTestKey(kid = 'test'): { signing: SigningKey; jwks: PublicKeys } {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' })
  const jwk = { ...(publicKey.export({ format: 'jwk' }) as JWK), kid, alg: 'ES256', use: 'sig' }
  return { signing: { kid, privateKey }, jwks: { keys: [jwk] } }
}

/** An answer of the admin API. */
export interface AdminAnswer {
  readonly status: number
  readonly headers: Headers
  readonly body: unknown
  /** The id at the end of `Location`. */
  readonly id: number
}

export interface AdminCall {
  readonly method?: string
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
}

/** A primary without a registry: accounts, tokens and the admin API over a real database. */
export async function startAdmin(
  t: TestContext,
  options: { readonly failures?: number; readonly now?: () => number } = {},
) {
  const { records } = await createTestDatabase(t)
  const now = options.now ?? Date.now
  const accounts = createAccounts(records)
  const projects = createProjects(records)
  const robots = createRobots(records)
  const edges = createEdges(records)
  const standings = createEdgeStandings(records)
  const audit = createAudit(records)
  const members = createMembers(records)
  const catalog = createCatalog(records)
  const artifacts = createArtifacts(records)
  const labels = createLabels(records)
  const passwords = createPasswords({ cost: { logN: 8, blockSize: 8, parallelism: 1 } })
  const findAccount = createFindAccount({ accounts, robots, edges })
  const rate = { failures: options.failures ?? 1000, windowMs: 60_000, now }
  const logIns = createLogIns({
    findAccount,
    passwords,
    limit: createLogInLimit(rate),
    refusals: createLogInLimit(rate),
    appendAudit: audit.append,
    now,
  })
  const key = createTestKey()
  const externalUrl = 'https://registry.example'
  const keys = () => key.jwks
  const verifierFor = (audience: string) =>
    createTokenVerifier({ keys, issuer: tokenIssuer, audience, cacheEntries: 100, now })
  const signingKey = () => key.signing
  const issue = createIssue({
    logIns,
    findProjects: projects.findForGrant,
    rolesOf: (userId) => projects.rolesOf(userId),
    acceptsPeople: async (id) => (await edges.get(id))?.acceptsPeople ?? false,
    signingKey,
    lifetimeSeconds: 300,
    now,
  })
  const refresh = createRefresh({
    signingKey,
    verifier: verifierFor(refreshAudience),
    findAccount,
    now,
  })
  const authenticate = createAuthenticate({
    logIns,
    verifier: verifierFor(primaryAudience),
    externalUrl,
    service: 'outport',
  })
  const joinTokens = createJoinTokens(records)
  const registries = createRegistries(records)
  const policies = createPolicies(records)
  const executionList = createExecutions(records)
  const roster = createRoster(records)
  const preheats = createPreheats(records)
  const logKeys = lazyKeys(records)
  const bootstrap = createBootstrap({ accounts, projects, edges, passwords, now })
  await bootstrap.ensureAdmin({ password: () => adminPassword })

  const guard = createGuard({ logIns, projects, robots, labels })
  const rooms: Rooms = {
    guard,
    clientEdges: { list: () => Promise.resolve([]) },
    registry: noRegistry,
    tokens: { issue, refresh, logIns, keys, trust: logKeys.trust, internalUrl: () => '' },
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
      artifacts,
      labels,
      labelService: createLabelService({ labels, guard, now }),
      now,
    },
    audit: { audit, projects },
    edges: {
      edges,
      standings,
      joinTokens,
      enrolment: createEnrolment({
        tokens: joinTokens,
        edges,
        passwords,
        keys: logKeys,
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
    keys: { ...createTestRotation(records, logKeys), now },
    replication: {
      registries,
      policies,
      roster,
      executions: createExecutionService({
        registries,
        policies,
        executions: executionList,
        selections: createSelections(records),
        roster,
        // Runs wait: nobody takes jobs here.
        jobs: { send: () => Promise.resolve(), work: () => Promise.resolve() },
        plannerOf: () => undefined,
        onListsWanted: () => undefined,
        now,
      }),
      executionList,
      preheats: createPreheatService({
        preheats,
        catalog,
        tags: createTags(records),
        manifests: createManifests(records),
        registries,
        roster,
        onFacts: () => undefined,
        now,
      }),
      preheatList: preheats,
      guard,
      projects,
      now,
    },
    system: {
      externalUrl,
      version: '0.1.0',
      storageProvider: 'filesystem',
      health: () => Promise.resolve([{ name: 'core' }, { name: 'database' }]),
      volumes: () => Promise.resolve([{ total: 100, free: 40 }]),
      caCertificate: () => Promise.resolve(undefined),
      projects,
      catalog,
      visibilityOf,
      now,
    },
  }
  const routes: string[] = []
  const server = await startHttpServer(t, {
    routes: (app) => {
      app.addHook('onRoute', ({ method, url }) => {
        routes.push(...[method].flat().map((verb) => `${verb} ${url}`))
      })
      addRooms(app, { rooms, version: '0.1.0', maxBodyBytes: 65_536 })
    },
  })
  const call = createCaller(server)
  return {
    records,
    accounts,
    projects,
    robots,
    edges,
    standings,
    audit,
    members,
    catalog,
    artifacts,
    labels,
    passwords,
    bootstrap,
    authenticate,
    key,
    server,
    /** Every route that the server has: `GET /api/v2.0/projects`. */
    routes,
    call,
    /** Calls as the first account. */
    asAdmin: (path: string, admin: AdminCall = {}) =>
      call(path, { ...admin, as: `admin:${adminPassword}` }),
  }
}

/** The routes are there, and lead nowhere. */
const noRegistry = new Proxy(
  {},
  { get: () => () => Promise.reject(new Error('this primary has no registry')) },
) as Rooms['registry']

/** The keys of a log that nobody signs here: made when an edge is to join. */
function lazyKeys(
  records: Records,
): Pick<CurrentKeys, 'trust' | 'edgeCa'> & { readonly secrets: Secrets } {
  const secrets = createSecrets(randomBytes(32))
  let opened: CurrentKeys | undefined
  return {
    secrets,
    async edgeCa() {
      opened ??= await openCurrentKeys(records, {
        secrets,
        issuer: 'test',
        log: createLogger({ level: 'error', write: () => undefined }),
      })
      return opened.edgeCa()
    },
    trust() {
      if (opened === undefined) throw new Error('this primary signs no log')
      return opened.trust()
    },
  }
}

/** Of a log that is never behind. */
function createTestRotation(
  records: Records,
  { secrets, edgeCa }: Pick<ReturnType<typeof lazyKeys>, 'secrets' | 'edgeCa'>,
) {
  const store = { readRecord: async () => undefined, writeRecord: async () => true }
  const trust = { issuer: 'test', secrets }
  const marks = createLogMarks(records, store, trust)
  const keyRotation = createKeyRotation(records, trust)
  const offlineRoot = createOfflineRoot({
    store: keyRotation,
    lists: createPendingLists(records, trust),
    keys: { refresh: () => Promise.resolve(), edgeCa },
    highWater: marks,
  })
  const rotation = createRotation({
    store: keyRotation,
    keys: { refresh: () => Promise.resolve() },
    highWater: {
      behind: () => undefined,
      state: marks.state,
      accept: (options, deed) => marks.accept(options, deed),
    },
    aheadMs: 60_000,
    retainMs: 60_000,
    log: createLogger({ level: 'error', write: () => undefined }),
    now: Date.now,
  })
  return { rotation, offlineRoot }
}

export type Admin = Awaited<ReturnType<typeof startAdmin>>

function createCaller(server: TestServer) {
  return async (
    path: string,
    { method = 'GET', body, headers = {}, as }: AdminCall & { readonly as?: string } = {},
  ): Promise<AdminAnswer> => {
    const colon = as?.indexOf(':') ?? 0
    const basic =
      as === undefined
        ? {}
        : {
            Authorization: formatBasic({
              username: as.slice(0, colon),
              password: as.slice(colon + 1),
            }),
          }
    const response = await fetch(new URL(path, server.url), {
      method,
      headers: {
        ...(body === undefined ? {} : { 'Content-Type': 'application/json' }),
        ...basic,
        ...headers,
      },
      ...(body === undefined
        ? {}
        : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
    })
    const text = await response.text()
    const isJson = response.headers.get('content-type')?.startsWith('application/json') ?? false
    const location = response.headers.get('location') ?? ''
    return {
      status: response.status,
      headers: response.headers,
      body: isJson && text !== '' ? (JSON.parse(text) as unknown) : text,
      id: Number(location.slice(location.lastIndexOf('/') + 1)),
    }
  }
}

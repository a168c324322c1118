import type { Static } from 'typebox'
import { ApiError } from '../../shared/api/errors.ts'
import { listQuery, text, timestamp } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import { Type } from '../../shared/schema/type.ts'
import { apiPrefix, type AdminApi } from '../accounts/admin-api.ts'
import type { Admitted } from '../accounts/guard.ts'
import type { Deed } from '../store/audit.ts'
import type { EdgeStandings } from '../store/edge-standings.ts'
import { edgeFields, type Edge, type Edges } from '../store/edges.ts'
import type { JoinToken, JoinTokens } from '../store/join-tokens.ts'
import type { Projects } from '../store/projects.ts'
import type { Robots } from '../store/robots.ts'
import type { Enrolment } from './enrolment.ts'
import { exposureOf } from './exposure.ts'
import type { EdgeAtWork, Inventory } from './inventory.ts'
import { noSuchEdge, standingRoutes } from './standing-routes.ts'
import { edgeConditions, type EdgeStatus } from './status.ts'

export interface EdgeRouteDeps {
  readonly edges: Edges
  readonly standings: EdgeStandings
  readonly joinTokens: Pick<JoinTokens, 'list' | 'remove'>
  readonly enrolment: Enrolment
  readonly inventory: Inventory
  readonly projects: Pick<Projects, 'findForGrant' | 'ids' | 'namesOf'>
  readonly robots: Pick<Robots, 'all'>
  /** Epoch ms. */
  readonly now: () => number
}

const tag = 'edge'
const byId = Type.Object({ edge_id: text(64) })
/** Seconds. */
const longestToken = 900

const scopeModel = Type.Union([
  Type.Literal('*', { description: 'All projects, those to come included.' }),
  Type.Array(text(255), { maxItems: 1000, description: "Projects' names." }),
])
// As Kubernetes has them, whose tools people select nodes by.
const labelsModel = Type.Record(
  Type.String({ pattern: '^[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,252}[A-Za-z0-9])?$' }),
  Type.String({ pattern: '^(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$' }),
  { maxProperties: 64, additionalProperties: false },
)
const name = Type.String({
  pattern: '^[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$',
  description: 'Letters and digits, with dots, dashes and underscores between; at most 63.',
})
const place = Type.String({ pattern: '^(?:[a-z0-9](?:[a-z0-9._-]{0,61}[a-z0-9])?)?$' })

const placeFields = {
  site: Type.Optional(place),
  region: Type.Optional(place),
  labels: Type.Optional(labelsModel),
  accept_people: Type.Optional(
    Type.Boolean({ description: 'Whether people may log in through it with their passwords.' }),
  ),
}

const shownPlace = {
  id: Type.String(),
  name: Type.String(),
  site: Type.String(),
  region: Type.String(),
  labels: Type.Record(Type.String(), Type.String()),
}
const shownFields = {
  ...shownPlace,
  scope: Type.Union([Type.Literal('*'), Type.Array(Type.String())]),
  accept_people: Type.Boolean(),
}

const count = Type.Integer({ minimum: 0 })
const statusModel = Type.Object({
  version: Type.String(),
  last_seen: timestamp,
  lag_events: Type.Integer({
    minimum: 0,
    description: 'Events of the log that it has not recorded.',
  }),
  lag_seconds: Type.Integer({ minimum: 0, description: 'Since the first of them.' }),
  held_lag_events: Type.Integer({
    minimum: 0,
    description: 'Events up to which it does not hold yet what rules bring.',
  }),
  waiting_bytes: Type.Integer({ minimum: 0, description: 'Of what rules bring, still to come.' }),
  cache_bytes: count,
  cache_size_bytes: count,
  hit_ratio: Type.Optional(
    Type.Number({
      minimum: 0,
      maximum: 1,
      description: 'Since it started; not there before it served anything.',
    }),
  ),
  served_bytes: count,
  clock_skew_ms: Type.Integer({ description: 'How far its clock is ahead.' }),
  transfers: Type.Optional(
    Type.Integer({
      minimum: 0,
      description: 'Requests that it was answering; older edges do not say.',
    }),
  ),
  last_error: Type.String({ description: 'The last thing that went wrong; empty: nothing did.' }),
  last_error_at: Type.Optional(timestamp),
  failures: Type.Integer({
    minimum: 0,
    description: 'Manifests that rules selected and that it could not get.',
  }),
  prune: Type.Optional(
    Type.Object(
      {
        outcome: Type.String({
          description:
            'Of its last look. nothing: nothing would go. shown: a dry run. refused: it would be more than its limit. done: it went.',
        }),
        at: timestamp,
        blobs: Type.Integer({ minimum: 0, description: 'What would go, and is still there.' }),
        bytes: count,
        digests: Type.Array(Type.String(), { description: 'The first of these.' }),
        removed: Type.Optional(
          Type.Object(
            { at: timestamp, blobs: count, bytes: count },
            { description: 'What it removed last; not there: nothing since it started.' },
          ),
        ),
      },
      {
        description:
          'What nothing keeps at the edge, by its own clock; not there: edge.cache.prune is off there, or it has not looked yet since it started.',
      },
    ),
  ),
})

const edgeModel = Type.Object({
  ...shownFields,
  state: Type.Union(
    edgeConditions.map((state) => Type.Literal(state)),
    {
      description:
        'joining: not heard of yet. degraded: it says what is wrong, its clock is off, or it lags. away: not heard of for three minutes. draining: it leaves. drained: it leaves, and sends nothing more.',
    },
  ),
  reason: Type.Optional(
    Type.String({ description: 'Why it is suspended, where no administrator did it.' }),
  ),
  status: Type.Optional(statusModel),
  enrolled: Type.Boolean({ description: 'Whether it joined by a token; else it is configured.' }),
  creation_time: timestamp,
  update_time: timestamp,
})

const exposureModel = Type.Object({
  projects: Type.Array(Type.String()),
  robots: Type.Array(
    Type.Object({
      id: Type.Integer(),
      name: Type.String(),
      project: Type.Optional(Type.String({ description: 'Not there: it is of the system.' })),
    }),
  ),
  accept_people: Type.Boolean({ description: 'Whether people may log in through it.' }),
})

const tokenModel = Type.Object({
  ...shownFields,
  expires_at: timestamp,
  edge_id: Type.Optional(Type.String({ description: 'The edge that it made.' })),
})

const createdTokenModel = Type.Object({
  id: Type.String(),
  token: Type.String({ description: 'Shown this once.' }),
  expires_at: timestamp,
})

const joinModel = Type.Object({
  token: text(128, { description: 'The id and the secret of a join token: `id.secret`.' }),
  name,
  publicKey: text(2048, { description: 'RSA, SPKI, PEM.' }),
  proof: text(1024, { description: 'By the private half; base64.' }),
})

const renewModel = Type.Object({
  id: text(64),
  secret: text(512),
  publicKey: text(2048, { description: 'RSA, SPKI, PEM.' }),
  proof: text(1024, { description: 'By the private half; base64.' }),
})

const keyModel = Type.Object({ id: Type.String(), jwk: Type.Record(Type.String(), Type.Any()) })
const renewedFields = {
  edge: Type.Object(shownPlace),
  certificate: Type.String(),
  ca: Type.String(),
  root: keyModel,
  trust: Type.Object({
    payloadType: Type.String(),
    payload: Type.String(),
    signatures: Type.Array(Type.Object({ keyid: Type.String(), sig: Type.String() })),
  }),
}
const renewedModel = Type.Object(renewedFields)
const joinedModel = Type.Object({
  ...renewedFields,
  secret: Type.String({ description: 'Shown this once.' }),
})

/** Edges: who they are, where, and how one becomes one. */
export function edgeRoutes(api: AdminApi, deps: EdgeRouteDeps): void {
  tokenRoutes(api, deps)
  const { edges, projects } = deps

  /** Names in place of ids; a project that is gone is in no scope. */
  const show = async (edge: Edge) => {
    const names = await projects.namesOf(edge.scope === '*' ? [] : edge.scope)
    return showEdge(edge, { names, atWork: (await deps.inventory.of([edge])).get(edge.id) })
  }
  const showAll = async (shown: readonly Edge[]) => {
    const names = await projects.namesOf(shown.flatMap(({ scope }) => (scope === '*' ? [] : scope)))
    const atWork = await deps.inventory.of(shown)
    return shown.map((edge) => showEdge(edge, { names, atWork: atWork.get(edge.id) }))
  }
  const answerWith = async (edge: Edge | undefined) => {
    if (edge === undefined) throw noSuchEdge()
    return { status: 200, body: await show(edge) } as const
  }

  api.route({
    method: 'GET',
    path: '/edges',
    tag,
    summary: 'List the edges',
    permission: { of: 'system', permission: 'edge:list' },
    query: listQuery,
    responses: { 200: Type.Array(edgeModel) },
    handle: async ({ query, url }) => {
      const listing = parseListing(query, edgeFields)
      const { rows, total } = await edges.list(listing)
      return listAnswer(await showAll(rows), { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'POST',
    path: '/edges/join',
    tag,
    summary: 'Become an edge by a join token',
    permission: { of: 'nobody' },
    body: joinModel,
    responses: { 201: joinedModel },
    handle: async ({ body, address }) => ({
      status: 201,
      headers: { 'Cache-Control': 'no-store' },
      body: await deps.enrolment.join(body, address),
    }),
  })

  api.route({
    method: 'POST',
    path: '/edges/renew',
    tag,
    summary: 'Get the next certificate of an edge, by its secret and its key',
    permission: { of: 'nobody' },
    body: renewModel,
    responses: { 201: renewedModel },
    handle: async ({ body, address }) => ({
      status: 201,
      headers: { 'Cache-Control': 'no-store' },
      body: await deps.enrolment.renew(body, address),
    }),
  })

  api.route({
    method: 'GET',
    path: '/edges/:edge_id',
    tag,
    summary: 'Get an edge',
    permission: { of: 'system', permission: 'edge:read' },
    params: byId,
    responses: { 200: edgeModel },
    handle: async ({ params }) => answerWith(await edges.get(params.edge_id)),
  })

  api.route({
    method: 'GET',
    path: '/edges/:edge_id/exposure',
    tag,
    summary:
      'What whoever has the machine of an edge may have read, and whose secrets it may have seen',
    permission: { of: 'system', permission: 'edge:read' },
    params: byId,
    responses: { 200: exposureModel },
    handle: async ({ params }) => {
      const edge = await edges.get(params.edge_id)
      if (edge === undefined) throw noSuchEdge()
      const { projects, robots, acceptsPeople } = await exposureOf(edge, deps)
      const shown = robots.map(({ project, ...robot }) => ({
        ...robot,
        ...(project !== undefined && { project }),
      }))
      return { status: 200, body: { projects, robots: shown, accept_people: acceptsPeople } }
    },
  })

  api.route({
    method: 'PUT',
    path: '/edges/:edge_id',
    tag,
    summary: 'Change what an edge is called, where it is and what it may read',
    permission: { of: 'system', permission: 'edge:update' },
    params: byId,
    body: Type.Object({
      name: Type.Optional(name),
      scope: Type.Optional(scopeModel),
      ...placeFields,
    }),
    responses: { 200: edgeModel },
    handle: async ({ params, body, admitted }) => {
      const { name, scope, site, region, labels, accept_people: acceptsPeople } = body
      const changes = {
        ...(name !== undefined && { name }),
        ...(scope !== undefined && { scope: await idsOf(projects, scope) }),
        ...(site !== undefined && { site }),
        ...(region !== undefined && { region }),
        ...(labels !== undefined && { labels }),
        ...(acceptsPeople !== undefined && { acceptsPeople }),
      }
      return answerWith(await edges.change(params.edge_id, changes, deedOf(deps, admitted)))
    },
  })

  standingRoutes(api, {
    standings: deps.standings,
    deedOf: (admitted) => deedOf(deps, admitted),
    model: edgeModel,
    answerWith,
  })
}

/** Tokens by which edges join. */
function tokenRoutes(api: AdminApi, deps: EdgeRouteDeps): void {
  const { joinTokens, enrolment, projects } = deps

  api.route({
    method: 'GET',
    path: '/edges/tokens',
    tag,
    summary: 'List the join tokens of the last day',
    permission: { of: 'system', permission: 'join-token:list' },
    responses: { 200: Type.Array(tokenModel) },
    handle: async () => {
      const tokens = await joinTokens.list()
      const ids = tokens.flatMap(({ scope }) => (scope === '*' ? [] : scope))
      const names = await projects.namesOf(ids)
      return { status: 200, body: tokens.map((token) => showToken(token, names)) }
    },
  })

  api.route({
    method: 'POST',
    path: '/edges/tokens',
    tag,
    summary: 'Make a token by which one machine becomes an edge, once',
    permission: { of: 'system', permission: 'join-token:create' },
    body: Type.Object({
      name,
      scope: scopeModel,
      ...placeFields,
      expires_in: Type.Optional(
        Type.Integer({
          minimum: 1,
          maximum: longestToken,
          description: 'Seconds; 900 if left out.',
        }),
      ),
    }),
    responses: { 201: createdTokenModel },
    handle: async ({ body, admitted }) => {
      const { id, token, expiresAt } = await enrolment.createToken(
        {
          name: body.name,
          scope: await idsOf(projects, body.scope),
          site: body.site ?? '',
          region: body.region ?? '',
          labels: body.labels ?? {},
          acceptsPeople: body.accept_people ?? false,
          lifetimeMs: (body.expires_in ?? longestToken) * 1000,
        },
        deedOf(deps, admitted),
      )
      return {
        status: 201,
        headers: { Location: `${apiPrefix}/edges/tokens/${id}`, 'Cache-Control': 'no-store' },
        body: { id, token, expires_at: expiresAt.toISOString() },
      }
    },
  })

  api.route({
    method: 'DELETE',
    path: '/edges/tokens/:token_id',
    tag,
    summary: 'Take a join token back; the edge that it made stays',
    permission: { of: 'system', permission: 'join-token:delete' },
    params: Type.Object({ token_id: text(64) }),
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      if (!(await joinTokens.remove(params.token_id, deedOf(deps, admitted))))
        throw new ApiError('NOT_FOUND', 'there is no such join token')
      return { status: 200 }
    },
  })
}

function deedOf({ now }: Pick<EdgeRouteDeps, 'now'>, { actor }: Admitted): Deed {
  return { actor, now: new Date(now()) }
}

/** @throws ApiError BAD_REQUEST for a project that is not there */
async function idsOf(
  projects: EdgeRouteDeps['projects'],
  scope: Static<typeof scopeModel>,
): Promise<'*' | readonly number[]> {
  if (scope === '*') return scope
  const found = await projects.findForGrant(scope, undefined)
  const names = new Set(found.map((project) => project.name))
  const missing = scope.find((asked) => !names.has(asked))
  if (missing !== undefined)
    throw new ApiError('BAD_REQUEST', `the scope names ${missing}, and there is no such project`)
  return found.map(({ id }) => id).sort((one, other) => one - other)
}

type Names = ReadonlyMap<number, string>

function showScope(scope: '*' | readonly number[], names: Names): '*' | readonly string[] {
  if (scope === '*') return scope
  return scope.flatMap((id) => names.get(id) ?? []).sort()
}

function showEdge(
  edge: Edge,
  { names, atWork }: { readonly names: Names; readonly atWork: EdgeAtWork | undefined },
) {
  const { condition = 'joining', status } = atWork ?? {}
  return {
    id: edge.id,
    name: edge.name,
    site: edge.site,
    region: edge.region,
    labels: edge.labels,
    scope: showScope(edge.scope, names),
    accept_people: edge.acceptsPeople,
    state: condition,
    ...(edge.reason !== '' && { reason: edge.reason }),
    ...(status !== undefined && { status: showStatus(status) }),
    enrolled: edge.enrolled,
    creation_time: edge.createdAt.toISOString(),
    update_time: edge.updatedAt.toISOString(),
  }
}

function showStatus(status: EdgeStatus) {
  return {
    version: status.version,
    last_seen: status.lastSeen.toISOString(),
    lag_events: status.lagEvents,
    lag_seconds: status.lagSeconds,
    held_lag_events: status.heldLagEvents,
    waiting_bytes: status.waitingBytes,
    cache_bytes: status.cacheBytes,
    cache_size_bytes: status.cacheSizeBytes,
    ...(status.hitRatio !== undefined && { hit_ratio: status.hitRatio }),
    served_bytes: status.servedBytes,
    clock_skew_ms: status.clockSkewMs,
    ...(status.transfers !== undefined && { transfers: status.transfers }),
    last_error: status.lastError,
    ...(status.lastErrorAt !== undefined && { last_error_at: status.lastErrorAt.toISOString() }),
    failures: status.failures,
    ...(status.prune !== undefined && { prune: showPrune(status.prune) }),
  }
}

function showPrune(prune: NonNullable<EdgeStatus['prune']>) {
  const { outcome, at, blobs, bytes, digests, removed } = prune
  const time = (ms: number) => new Date(ms).toISOString()
  return {
    outcome,
    at: time(at),
    blobs,
    bytes,
    digests: [...digests],
    ...(removed && { removed: { ...removed, at: time(removed.at) } }),
  }
}

function showToken(token: JoinToken, names: Names) {
  return {
    id: token.id,
    name: token.name,
    site: token.site,
    region: token.region,
    labels: token.labels,
    scope: showScope(token.scope, names),
    accept_people: token.acceptsPeople,
    expires_at: token.expiresAt.toISOString(),
    ...(token.edgeId !== undefined && { edge_id: token.edgeId }),
  }
}

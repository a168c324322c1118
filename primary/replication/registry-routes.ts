import { ApiError } from '../../shared/api/errors.ts'
import { listParameters, pageParameters, text, timestamp } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import { parsePage } from '../../shared/api/paging.ts'
import type { EdgeSelector } from '../../shared/replication/events.ts'
import { Type } from '../../shared/schema/type.ts'
import { apiPrefix, type AdminApi } from '../accounts/admin-api.ts'
import { parseId, type Admitted } from '../accounts/guard.ts'
import type { Projects } from '../store/projects.ts'
import { registryFields, type Registries, type Registry } from '../store/registries.ts'
import type { Roster, RosterMember } from '../store/roster.ts'
import { checkSelector, edgeGroupType, membersOf } from './edge-group.ts'
import {
  infoOf,
  localRegistry,
  readSelector,
  registryModel,
  selectorModel,
  showRegistry,
} from './registry-model.ts'

export interface RegistryRouteDeps {
  readonly registries: Registries
  readonly roster: Roster
  readonly projects: Pick<Projects, 'namesOf'>
  /** Epoch ms. */
  readonly now: () => number
}

const tag = 'registry'
const byId = Type.Object({ id: text(20) })
/** An edge is heard of three times in its lease of a minute. Milliseconds. */
const silentAfterMs = 120_000

const credentialBody = Type.Optional(
  Type.Union([
    Type.Null(),
    Type.Object({
      type: Type.Optional(text(32)),
      access_key: Type.Optional(text(4096)),
      access_secret: Type.Optional(text(4096)),
    }),
  ]),
)

const registryBody = Type.Object({
  name: Type.String({ minLength: 1, maxLength: 255, pattern: '^[^\\u0000]*$' }),
  type: text(64, { description: `\`${edgeGroupType}\`` }),
  url: Type.Optional(text(1024, { description: 'Empty: edges come to their primary.' })),
  description: Type.Optional(text(1024)),
  insecure: Type.Optional(Type.Boolean()),
  credential: credentialBody,
  selector: Type.Optional(selectorModel),
})

/** What is left out stays as it is. [harbor api/v2.0/swagger.yaml, RegistryUpdate] */
const registryUpdate = Type.Object({
  name: Type.Optional(registryBody.properties.name),
  url: registryBody.properties.url,
  description: registryBody.properties.description,
  insecure: registryBody.properties.insecure,
  access_key: Type.Optional(text(4096)),
  access_secret: Type.Optional(text(4096)),
  selector: Type.Optional(selectorModel),
})

const pingBody = Type.Object({
  id: Type.Optional(Type.Integer()),
  type: Type.Optional(text(64)),
  url: Type.Optional(text(1024)),
  selector: Type.Optional(selectorModel),
})

const infoModel = Type.Object({
  type: Type.String(),
  description: Type.String(),
  supported_resource_filters: Type.Array(
    Type.Object({
      type: Type.String(),
      style: Type.String(),
      values: Type.Optional(Type.Array(Type.String())),
    }),
  ),
  supported_triggers: Type.Array(Type.String()),
  supported_copy_by_chunk: Type.Boolean(),
})

const memberModel = Type.Object({
  id: Type.String(),
  name: Type.String(),
  site: Type.String(),
  region: Type.String(),
  labels: Type.Record(Type.String(), Type.String()),
  scope: Type.Union([Type.Literal('*'), Type.Array(Type.String())]),
  state: Type.Union([Type.Literal('ready'), Type.Literal('suspended')]),
  seen_at: Type.Optional(timestamp),
})

/** Destinations of replication rules: `/registries`. [harbor api/v2.0/swagger.yaml, registry] */
export function registryRoutes(api: AdminApi, deps: RegistryRouteDeps): void {
  const { registries, roster, projects, now } = deps
  const deedOf = ({ actor }: Admitted) => ({ actor, now: new Date(now()) })

  /** @throws ApiError NOT_FOUND */
  async function find(params: { readonly id: string }): Promise<Registry> {
    const id = parseId(params.id)
    const registry = id === undefined ? undefined : await registries.get(id)
    if (registry === undefined) throw noSuchRegistry()
    return registry
  }

  async function show(some: readonly Registry[]) {
    const edges = some.length === 0 ? [] : await roster.list()
    return some.map((registry) =>
      showRegistry(registry, { healthy: isHealthy(membersOf(registry.selector, edges), now()) }),
    )
  }

  api.route({
    method: 'GET',
    path: '/registries',
    tag,
    summary: 'List the destinations of replication rules',
    permission: { of: 'system', permission: 'registry:list' },
    query: Type.Object({ ...listParameters, name: Type.Optional(text(255)) }),
    responses: { 200: Type.Array(registryModel) },
    handle: async ({ query, url }) => {
      const listing = parseListing(query, registryFields)
      const filters = [...listing.filters, ...nameFilter(query.name)]
      const { rows, total } = await registries.list({ ...listing, filters })
      return listAnswer(await show(rows), { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'POST',
    path: '/registries',
    tag,
    summary: 'Create a destination: a group of edges',
    permission: { of: 'system', permission: 'registry:create' },
    body: registryBody,
    responses: { 201: undefined },
    handle: async ({ body, admitted }) => {
      const { name, type, url = '', description = '', insecure = false, credential } = body
      requireKnownType(type)
      refuseCredential(credential ?? {})
      const selector = requireSelector(body.selector)
      const registry = { name, type, url, description, insecure, selector }
      const id = await registries.create(registry, deedOf(admitted))
      return { status: 201, headers: { Location: `${apiPrefix}/registries/${id}` } }
    },
  })

  api.route({
    method: 'POST',
    path: '/registries/ping',
    tag,
    summary: 'Check a destination, or what is to become one',
    permission: { of: 'system', permission: 'registry:read' },
    body: pingBody,
    responses: { 200: undefined },
    handle: async ({ body }) => {
      if (body.id !== undefined && body.id !== 0) await find({ id: String(body.id) })
      if (body.id === undefined) {
        requireKnownType(body.type ?? '')
        requireSelector(body.selector)
      }
      return { status: 200 }
    },
  })

  api.route({
    method: 'GET',
    path: '/registries/:id',
    tag,
    summary: 'Get a destination',
    permission: { of: 'system', permission: 'registry:read' },
    params: byId,
    responses: { 200: registryModel },
    handle: async ({ params }) => ({ status: 200, body: (await show([await find(params)]))[0] }),
  })

  api.route({
    method: 'PUT',
    path: '/registries/:id',
    tag,
    summary: 'Change a destination: its rules go where it then leads',
    permission: { of: 'system', permission: 'registry:update' },
    params: byId,
    body: registryUpdate,
    responses: { 200: undefined },
    handle: async ({ params, body, admitted }) => {
      const registry = await find(params)
      refuseCredential(body)
      const changed = {
        name: body.name ?? registry.name,
        url: body.url ?? registry.url,
        description: body.description ?? registry.description,
        insecure: body.insecure ?? registry.insecure,
        selector: body.selector === undefined ? registry.selector : requireSelector(body.selector),
      }
      if (!(await registries.update(registry.id, changed, deedOf(admitted)))) throw noSuchRegistry()
      return { status: 200 }
    },
  })

  api.route({
    method: 'DELETE',
    path: '/registries/:id',
    tag,
    summary: 'Delete a destination that no rule has',
    permission: { of: 'system', permission: 'registry:delete' },
    params: byId,
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      const { id } = await find(params)
      if (!(await registries.remove(id, deedOf(admitted)))) throw noSuchRegistry()
      return { status: 200 }
    },
  })

  api.route({
    method: 'GET',
    path: '/registries/:id/info',
    tag,
    summary: 'What rules can do with a destination (0: with this registry)',
    permission: { of: 'system', permission: 'registry:read' },
    params: byId,
    responses: { 200: infoModel },
    handle: async ({ params }) => ({
      status: 200,
      body: infoOf(params.id === '0' ? localRegistry : await find(params)),
    }),
  })

  api.route({
    method: 'GET',
    path: '/registries/:id/edges',
    tag,
    summary: 'List the edges that a group selects now',
    permission: { of: 'system', permission: 'registry:read' },
    params: byId,
    query: Type.Object(pageParameters),
    responses: { 200: Type.Array(memberModel) },
    handle: async ({ params, query, url }) => {
      const page = parsePage(query)
      const members = membersOf((await find(params)).selector, await roster.list())
      const shown = members.slice(page.offset, page.offset + page.size)
      const names = await projects.namesOf(
        shown.flatMap(({ scope }) => (scope === '*' ? [] : scope)),
      )
      return listAnswer(
        shown.map((edge) => showMember(edge, names)),
        { url, page, total: members.length },
      )
    },
  })
}

/** A part of the name, in any case. */
function nameFilter(name: string | undefined) {
  return name ? [{ kind: 'fuzzy', column: 'name', value: name } as const] : []
}

/** @throws ApiError BAD_REQUEST */
function requireKnownType(type: string): void {
  if (type === edgeGroupType) return
  throw new ApiError('BAD_REQUEST', `type must be ${edgeGroupType}: no other type is there yet`)
}

/** @throws ApiError BAD_REQUEST */
function requireSelector(given: Parameters<typeof readSelector>[0] | undefined): EdgeSelector {
  if (given === undefined) {
    throw new ApiError(
      'BAD_REQUEST',
      'selector must say which edges: {"sites":["berlin"]}, or {} for all of them',
    )
  }
  const selector = readSelector(given)
  checkSelector(selector)
  return selector
}

/** Edges log in to their primary, never the other way round. @throws ApiError BAD_REQUEST */
function refuseCredential(given: {
  readonly access_key?: string
  readonly access_secret?: string
}): void {
  if (!given.access_key && !given.access_secret) return
  throw new ApiError('BAD_REQUEST', 'a group of edges has no credential: leave it out')
}

/** A group without edges is not ill. */
function isHealthy(members: readonly RosterMember[], now: number): boolean {
  const isHeard = ({ state }: RosterMember) =>
    state !== undefined && now - state.seenAt.getTime() < silentAfterMs
  return members.length === 0 || members.some(isHeard)
}

function showMember(edge: RosterMember, names: ReadonlyMap<number, string>) {
  const { edgeId: id, name, site, region, labels, scope, suspended, state } = edge
  return {
    id,
    name,
    site,
    region,
    labels,
    scope: scope === '*' ? scope : scope.flatMap((project) => names.get(project) ?? []),
    state: suspended ? 'suspended' : 'ready',
    ...(state !== undefined && { seen_at: state.seenAt.toISOString() }),
  }
}

function noSuchRegistry(): ApiError {
  return new ApiError('NOT_FOUND', 'there is no such registry')
}

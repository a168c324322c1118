import type { Static } from 'typebox'
import { ApiError } from '../../shared/api/errors.ts'
import { listParameters, text, timestamp } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import { Type } from '../../shared/schema/type.ts'
import { apiPrefix, type AdminApi } from '../accounts/admin-api.ts'
import { parseId, type Admitted } from '../accounts/guard.ts'
import { policyFields, type Policies, type Policy, type PolicyText } from '../store/policies.ts'
import type { Registries, Registry } from '../store/registries.ts'
import { edgeGroupType } from './edge-group.ts'
import type { ExecutionService } from './executions.ts'
import { parseFilters, type FilterModel } from './filters.ts'
import { localRegistry, registryModel, showRegistry } from './registry-model.ts'

export interface PolicyRouteDeps {
  readonly policies: Policies
  readonly registries: Pick<Registries, 'getAll'>
  readonly executions: Pick<ExecutionService, 'endOf' | 'settle'>
  /** Epoch ms. */
  readonly now: () => number
}

const tag = 'replication'
const byId = Type.Object({ id: text(20) })

const filterModel = Type.Object({
  type: text(32),
  value: Type.Optional(
    Type.Union([text(1024), Type.Number(), Type.Array(text(255), { maxItems: 100 })]),
  ),
  decoration: Type.Optional(text(32, { description: '`matches`, or `excludes`' })),
})

const end = Type.Optional(
  Type.Union([Type.Null(), Type.Object({ id: Type.Optional(Type.Integer()) })]),
)

const policyBody = Type.Object({
  name: Type.String({
    maxLength: 256,
    pattern: '^[a-z0-9]+(?:[._-][a-z0-9]+)*$',
    description: 'Lower-case letters and digits, with dots, dashes and underscores between.',
  }),
  description: Type.Optional(text(1024)),
  src_registry: end,
  dest_registry: end,
  dest_namespace: Type.Optional(text(255, { description: 'Empty: images keep their names.' })),
  dest_namespace_replace_count: Type.Optional(Type.Integer({ minimum: -1, maximum: 127 })),
  filters: Type.Optional(Type.Union([Type.Null(), Type.Array(filterModel, { maxItems: 20 })])),
  trigger: Type.Optional(Type.Union([Type.Null(), Type.Object({ type: Type.Optional(text(32)) })])),
  deletion: Type.Optional(Type.Boolean()),
  replicate_deletion: Type.Optional(Type.Boolean({ description: 'The newer name of deletion.' })),
  override: Type.Optional(Type.Boolean()),
  enabled: Type.Optional(Type.Boolean({ description: 'false if left out, as in Harbor.' })),
  speed: Type.Optional(Type.Integer({ description: '0 or less: no limit, the only possibility.' })),
  copy_by_chunk: Type.Optional(Type.Boolean({ description: 'Edges always do.' })),
  single_active_replication: Type.Optional(Type.Boolean()),
  serve: Type.Optional(
    Type.Union([Type.Literal('latest'), Type.Literal('complete')], {
      description: 'When edges answer a tag anew: once its manifest is there, or all its blobs.',
    }),
  ),
})

const policyModel = Type.Object({
  id: Type.Integer(),
  name: Type.String(),
  description: Type.String(),
  src_registry: registryModel,
  dest_registry: registryModel,
  dest_namespace: Type.String(),
  dest_namespace_replace_count: Type.Integer(),
  filters: Type.Array(
    Type.Object({
      type: Type.String(),
      value: Type.Optional(Type.Any()),
      decoration: Type.Optional(Type.String()),
    }),
  ),
  trigger: Type.Object({
    type: Type.String(),
    trigger_settings: Type.Object({ cron: Type.String() }),
  }),
  deletion: Type.Boolean(),
  replicate_deletion: Type.Boolean(),
  override: Type.Boolean(),
  enabled: Type.Boolean(),
  speed: Type.Integer(),
  copy_by_chunk: Type.Boolean(),
  single_active_replication: Type.Boolean(),
  serve: Type.String(),
  creation_time: timestamp,
  update_time: timestamp,
})

const adapters = { [edgeGroupType]: { endpoint_pattern: null, credential_pattern: null } }

/** Replication rules: `/replication/policies`. [harbor api/v2.0/swagger.yaml, replication] */
export function policyRoutes(api: AdminApi, deps: PolicyRouteDeps): void {
  const { policies, registries, executions, now } = deps
  const deedOf = ({ actor }: Admitted) => ({ actor, now: new Date(now()) })

  /** @throws ApiError NOT_FOUND */
  async function find(params: { readonly id: string }): Promise<Policy> {
    const id = parseId(params.id)
    const policy = id === undefined ? undefined : await policies.get(id)
    if (policy === undefined) throw noSuchRule()
    return policy
  }

  async function show(some: readonly Policy[]) {
    const known = await registries.getAll([...new Set(some.map(({ registryId }) => registryId))])
    return some.map((policy) => showPolicy(policy, known.get(policy.registryId)))
  }

  api.route({
    method: 'GET',
    path: '/replication/policies',
    tag,
    summary: 'List the replication rules',
    permission: { of: 'system', permission: 'replication-policy:list' },
    query: Type.Object({ ...listParameters, name: Type.Optional(text(256)) }),
    responses: { 200: Type.Array(policyModel) },
    handle: async ({ query, url }) => {
      const listing = parseListing(query, policyFields)
      const filters = [...listing.filters, ...nameFilter(query.name)]
      const { rows, total } = await policies.list({ ...listing, filters })
      return listAnswer(await show(rows), { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'POST',
    path: '/replication/policies',
    tag,
    summary: 'Create a replication rule',
    permission: { of: 'system', permission: 'replication-policy:create' },
    body: policyBody,
    responses: { 201: undefined },
    handle: async ({ body, admitted }) => {
      const id = await policies.create(readPolicyBody(body), deedOf(admitted))
      return { status: 201, headers: { Location: `${apiPrefix}/replication/policies/${id}` } }
    },
  })

  api.route({
    method: 'GET',
    path: '/replication/policies/:id',
    tag,
    summary: 'Get a replication rule',
    permission: { of: 'system', permission: 'replication-policy:read' },
    params: byId,
    responses: { 200: policyModel },
    handle: async ({ params }) => ({ status: 200, body: (await show([await find(params)]))[0] }),
  })

  api.route({
    method: 'PUT',
    path: '/replication/policies/:id',
    tag,
    summary: 'Change a replication rule, the whole of it',
    permission: { of: 'system', permission: 'replication-policy:update' },
    params: byId,
    body: policyBody,
    responses: { 200: undefined },
    handle: async ({ params, body, admitted }) => {
      const { id } = await find(params)
      const policy = readPolicyBody(body)
      if (!(await policies.update(id, policy, deedOf(admitted)))) throw noSuchRule()
      if (!policy.enabled) await executions.endOf(id)
      return { status: 200 }
    },
  })

  api.route({
    method: 'DELETE',
    path: '/replication/policies/:id',
    tag,
    summary: 'Delete a replication rule of which no execution runs',
    permission: { of: 'system', permission: 'replication-policy:delete' },
    params: byId,
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      const { id } = await find(params)
      await executions.settle(id)
      if (!(await policies.remove(id, deedOf(admitted)))) throw noSuchRule()
      return { status: 200 }
    },
  })

  api.route({
    method: 'GET',
    path: '/replication/adapters',
    tag,
    summary: 'List the types of destinations',
    permission: { of: 'system', permission: 'replication-adapter:list' },
    responses: { 200: Type.Array(Type.String()) },
    handle: () => ({ status: 200, body: Object.keys(adapters) }),
  })

  api.route({
    method: 'GET',
    path: '/replication/adapterinfos',
    tag,
    summary: 'What each type of destination wants to know',
    permission: { of: 'system', permission: 'replication-adapter:list' },
    responses: { 200: Type.Record(Type.String(), Type.Any()) },
    handle: () => ({ status: 200, body: adapters }),
  })
}

/** A part of the name, in any case. */
function nameFilter(name: string | undefined) {
  return name ? [{ kind: 'fuzzy', column: 'name', value: name } as const] : []
}

/**
 * A rule as a request has it. What this version does not have is refused, never silently dropped.
 * @throws ApiError BAD_REQUEST
 */
function readPolicyBody(body: Static<typeof policyBody>): PolicyText {
  refuseImpossible(body)
  const filters: readonly FilterModel[] = (body.filters ?? []).map(
    ({ type, value, decoration }) => ({
      type,
      ...(value !== undefined && { value }),
      ...(decoration !== undefined && { decoration }),
    }),
  )
  const { platforms } = parseFilters(filters)
  const trigger = readTrigger(body.trigger?.type ?? 'manual')
  const singleActive = body.single_active_replication ?? false
  if (singleActive && trigger === 'event_based') {
    throw new ApiError(
      'BAD_REQUEST',
      'single_active_replication must be false for the trigger event_based',
    )
  }
  return {
    name: body.name,
    description: body.description ?? '',
    registryId: body.dest_registry?.id ?? 0,
    filters,
    platforms,
    trigger,
    deletion: body.deletion ?? body.replicate_deletion ?? false,
    override: body.override ?? false,
    enabled: body.enabled ?? false,
    serve: body.serve ?? 'latest',
    copyByChunk: body.copy_by_chunk ?? false,
    singleActive,
    namespaceReplaceCount: body.dest_namespace_replace_count ?? -1,
  }
}

/** @throws ApiError BAD_REQUEST */
function refuseImpossible(body: Static<typeof policyBody>): void {
  const { src_registry: source, dest_registry: destination } = body
  if ((source?.id ?? 0) !== 0) {
    throw new ApiError(
      'BAD_REQUEST',
      'src_registry must be left out: rules bring what this registry has to edges, and do not fetch from others yet',
    )
  }
  if ((destination?.id ?? 0) === 0) {
    throw new ApiError(
      'BAD_REQUEST',
      `dest_registry must name a registry of the type ${edgeGroupType}: {"id":1}`,
    )
  }
  if (body.dest_namespace) {
    throw new ApiError(
      'BAD_REQUEST',
      'dest_namespace must be empty: at an edge images keep their names',
    )
  }
  if ((body.speed ?? 0) > 0) {
    throw new ApiError('BAD_REQUEST', 'speed must be 0: rules have no limit of bandwidth yet')
  }
}

/** @throws ApiError BAD_REQUEST */
function readTrigger(type: string): PolicyText['trigger'] {
  if (type === 'manual' || type === 'event_based') return type
  throw new ApiError('BAD_REQUEST', 'trigger.type must be manual or event_based')
}

function showPolicy(policy: Policy, registry: Registry | undefined) {
  return {
    id: policy.id,
    name: policy.name,
    description: policy.description,
    src_registry: localRegistry,
    dest_registry:
      registry === undefined ? localRegistry : showRegistry(registry, { healthy: true }),
    dest_namespace: '',
    dest_namespace_replace_count: policy.namespaceReplaceCount,
    filters: policy.filters,
    trigger: { type: policy.trigger, trigger_settings: { cron: '' } },
    deletion: policy.deletion,
    replicate_deletion: policy.deletion,
    override: policy.override,
    enabled: policy.enabled,
    speed: 0,
    copy_by_chunk: policy.copyByChunk,
    single_active_replication: policy.singleActive,
    serve: policy.serve,
    creation_time: policy.createdAt.toISOString(),
    update_time: policy.updatedAt.toISOString(),
  }
}

function noSuchRule(): ApiError {
  return new ApiError('NOT_FOUND', 'there is no such rule')
}

import { never, text, timestamp } from '../../shared/api/fields.ts'
import type { EdgeSelector } from '../../shared/replication/events.ts'
import { Type } from '../../shared/schema/type.ts'
import type { Registry } from '../store/registries.ts'
import { edgeGroupType } from './edge-group.ts'

const patterns = Type.Array(text(255), {
  maxItems: 100,
  description: 'Patterns as of doublestar: `*`, `?`, `{a,b}`; one must match.',
})

/** Which edges a group is. A key that is not known would select more than was meant: it is refused. */
export const selectorModel = Type.Object(
  {
    names: Type.Optional(patterns),
    sites: Type.Optional(patterns),
    regions: Type.Optional(patterns),
    labels: Type.Optional(
      Type.Record(text(255), text(255), {
        maxProperties: 64,
        additionalProperties: false,
        description: 'All of these must be there, each with a value that its pattern matches.',
      }),
    ),
  },
  { additionalProperties: false },
)

const credentialModel = Type.Union([
  Type.Null(),
  Type.Object({ type: Type.String(), access_key: Type.String(), access_secret: Type.String() }),
])

/** A registry as the API shows it. [harbor api/v2.0/swagger.yaml, Registry] */
export const registryModel = Type.Object({
  id: Type.Integer(),
  name: Type.String(),
  type: Type.String(),
  url: Type.String(),
  description: Type.String(),
  insecure: Type.Boolean(),
  credential: credentialModel,
  status: Type.String({
    description: '`healthy`, or `unhealthy` when none of its edges is heard.',
  }),
  selector: Type.Optional(selectorModel),
  creation_time: timestamp,
  update_time: timestamp,
})

/** This primary, as the source of every rule. */
export const localRegistry = {
  id: 0,
  name: 'Local',
  type: 'harbor',
  url: '',
  description: '',
  insecure: false,
  credential: null,
  status: 'healthy',
  creation_time: never,
  update_time: never,
}

/** A registry in the form of `registryModel`. */
export function showRegistry(registry: Registry, { healthy }: { readonly healthy: boolean }) {
  const { id, name, type, url, description, insecure, selector } = registry
  return {
    id,
    name,
    type,
    url,
    description,
    insecure,
    credential: null,
    status: healthy ? 'healthy' : 'unhealthy',
    selector,
    creation_time: registry.createdAt.toISOString(),
    update_time: registry.updatedAt.toISOString(),
  }
}

/** What rules can do with a destination of this type. [harbor api/v2.0/swagger.yaml, RegistryInfo] */
export function infoOf({
  type,
  description,
}: {
  readonly type: string
  readonly description: string
}) {
  return {
    type,
    description,
    supported_resource_filters: [
      { type: 'name', style: 'input' },
      { type: 'tag', style: 'input' },
      { type: 'label', style: 'input' },
      { type: 'resource', style: 'radio', values: ['image', 'chart', 'artifact'] },
      ...(type === edgeGroupType
        ? ['name_regex', 'tag_regex', 'semver', 'newest', 'platform'].map((filter) => ({
            type: filter,
            style: 'input',
          }))
        : []),
    ],
    supported_triggers: ['manual', 'event_based'],
    supported_copy_by_chunk: true,
  }
}

/** A selector of a request's body. */
export function readSelector(given: {
  readonly names?: readonly string[]
  readonly sites?: readonly string[]
  readonly regions?: readonly string[]
  readonly labels?: Readonly<Record<string, string>>
}): EdgeSelector {
  const { names, sites, regions, labels } = given
  return {
    ...(names !== undefined && { names }),
    ...(sites !== undefined && { sites }),
    ...(regions !== undefined && { regions }),
    ...(labels !== undefined && { labels }),
  }
}

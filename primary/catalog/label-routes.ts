import type { Static } from 'typebox'
import { listParameters, text } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import type { Filter } from '../../shared/api/query.ts'
import { Type } from '../../shared/schema/type.ts'
import { apiPrefix, type AdminApi } from '../accounts/admin-api.ts'
import { requireLabel } from '../accounts/guard.ts'
import { labelFields, type LabelText } from '../store/labels.ts'
import { labelModel, showLabel } from './label-model.ts'
import type { LabelService } from './labels.ts'

export interface LabelRouteDeps {
  readonly labelService: LabelService
}

const tag = 'label'
const byId = Type.Object({ label_id: Type.String() })

const textModel = Type.Object({
  name: text(1024),
  description: Type.Optional(text(8192)),
  color: Type.Optional(text(32, { description: '`#61717D`' })),
})
const scopeFields = {
  scope: Type.Optional(text(16, { description: '`g` global, `p` of a project' })),
  project_id: Type.Optional(Type.Integer({ description: 'The project of scope `p`.' })),
}

/** Labels: `/labels`. [harbor api/v2.0/swagger.yaml, label] */
export function labelRoutes(api: AdminApi, { labelService }: LabelRouteDeps): void {
  api.route({
    method: 'GET',
    path: '/labels',
    tag,
    summary: 'List the global labels (scope=g), or those of a project (scope=p&project_id=7)',
    permission: { of: 'anybody' },
    query: Type.Object({ ...listParameters, ...scopeFields, name: Type.Optional(text(1024)) }),
    responses: { 200: Type.Array(labelModel) },
    handle: async ({ query, url, admitted }) => {
      const listing = parseListing(query, labelFields)
      const filters = [...listing.filters, ...nameFilters(query.name)]
      const asked = { ...listing, filters }
      const { rows, total } = await labelService.list(readScope(query), asked, admitted)
      return listAnswer(rows.map(showLabel), { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'POST',
    path: '/labels',
    tag,
    summary: 'Create a global label, or one of a project',
    permission: { of: 'named', permission: 'label:create' },
    body: Type.Object({ ...textModel.properties, ...scopeFields }),
    responses: { 201: undefined },
    handle: async ({ body, admitted }) => {
      const id = await labelService.create(readScope(body), readText(body), admitted)
      return { status: 201, headers: { Location: `${apiPrefix}/labels/${id}` } }
    },
  })

  api.route({
    method: 'GET',
    path: '/labels/:label_id',
    tag,
    summary: 'Get a label',
    permission: { of: 'label', permission: 'label:read' },
    params: byId,
    responses: { 200: labelModel },
    handle: ({ admitted }) => ({ status: 200, body: showLabel(requireLabel(admitted)) }),
  })

  api.route({
    method: 'PUT',
    path: '/labels/:label_id',
    tag,
    summary: "Change a label's name, description and colour",
    permission: { of: 'label', permission: 'label:update' },
    params: byId,
    body: textModel,
    responses: { 200: undefined },
    handle: async ({ body, admitted }) => {
      await labelService.update(readText(body), admitted)
      return { status: 200 }
    },
  })

  api.route({
    method: 'DELETE',
    path: '/labels/:label_id',
    tag,
    summary: 'Delete a label, wherever it is attached',
    permission: { of: 'label', permission: 'label:delete' },
    params: byId,
    responses: { 200: undefined },
    handle: async ({ admitted }) => {
      await labelService.remove(admitted)
      return { status: 200 }
    },
  })
}

function readScope(given: { readonly scope?: string; readonly project_id?: number }) {
  return { scope: given.scope, projectId: given.project_id }
}

function readText(body: Static<typeof textModel>): LabelText {
  return { name: body.name, description: body.description ?? '', color: body.color ?? '' }
}

/** A part of the name, in any case. */
function nameFilters(name: string | undefined): readonly Filter[] {
  return name ? [{ kind: 'fuzzy', column: 'l.name', value: name }] : []
}

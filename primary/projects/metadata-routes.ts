import { ApiError } from '../../shared/api/errors.ts'
import { text } from '../../shared/api/fields.ts'
import { Type } from '../../shared/schema/type.ts'
import type { AdminApi } from '../accounts/admin-api.ts'
import { requireProject } from '../accounts/guard.ts'
import type { ProjectService } from './projects.ts'

const tag = 'projectMetadata'
const byNameOrId = Type.Object({ project_name_or_id: Type.String() })
const byMetaName = Type.Object({ project_name_or_id: Type.String(), meta_name: Type.String() })
const settings = Type.Record(Type.String(), text(64))

/** A project's settings, one by one. [harbor api/v2.0/swagger.yaml, projectMetadata] */
export function metadataRoutes(
  api: AdminApi,
  { service }: { readonly service: ProjectService },
): void {
  // Harbor's paths end with a slash; clients leave it out as well.
  for (const path of [
    '/projects/:project_name_or_id/metadatas/',
    '/projects/:project_name_or_id/metadatas',
  ]) {
    api.route({
      method: 'GET',
      path,
      tag,
      summary: "Get a project's settings",
      permission: { of: 'project', permission: 'metadata:read' },
      params: byNameOrId,
      responses: { 200: Type.Record(Type.String(), Type.String()) },
      handle: ({ admitted }) => ({ status: 200, body: requireProject(admitted).metadata }),
    })

    api.route({
      method: 'POST',
      path,
      tag,
      summary: 'Add one setting to a project',
      permission: { of: 'project', permission: 'metadata:create' },
      params: byNameOrId,
      body: settings,
      responses: { 200: undefined },
      handle: async ({ body, admitted }) => {
        const [setting, ...more] = Object.entries(body)
        if (setting === undefined || more.length > 0) {
          throw new ApiError('BAD_REQUEST', 'send exactly one setting: {"auto_scan":"true"}')
        }
        const [name, value] = setting
        await service.setMetadata(name, value, { admitted, expect: 'absent' })
        return { status: 200 }
      },
    })
  }

  api.route({
    method: 'GET',
    path: '/projects/:project_name_or_id/metadatas/:meta_name',
    tag,
    summary: 'Get one setting of a project',
    permission: { of: 'project', permission: 'metadata:read' },
    params: byMetaName,
    responses: { 200: Type.Record(Type.String(), Type.String()) },
    handle: ({ params, admitted }) => {
      const { metadata } = requireProject(admitted)
      const name = params.meta_name
      const value = Object.hasOwn(metadata, name) ? metadata[name] : undefined
      if (value === undefined) throw new ApiError('NOT_FOUND', 'the project has no such setting')
      return { status: 200, body: { [name]: value } }
    },
  })

  api.route({
    method: 'PUT',
    path: '/projects/:project_name_or_id/metadatas/:meta_name',
    tag,
    summary: 'Change one setting of a project',
    permission: { of: 'project', permission: 'metadata:update' },
    params: byMetaName,
    body: settings,
    responses: { 200: undefined },
    handle: async ({ params, body, admitted }) => {
      const name = params.meta_name
      const value = Object.hasOwn(body, name) ? body[name] : undefined
      if (value === undefined) {
        throw new ApiError('BAD_REQUEST', 'send the setting that the path names: {"name":"value"}')
      }
      await service.setMetadata(name, value, { admitted, expect: 'present' })
      return { status: 200 }
    },
  })

  api.route({
    method: 'DELETE',
    path: '/projects/:project_name_or_id/metadatas/:meta_name',
    tag,
    summary: 'Remove one setting of a project',
    permission: { of: 'project', permission: 'metadata:delete' },
    params: byMetaName,
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      await service.setMetadata(params.meta_name, undefined, { admitted, expect: 'present' })
      return { status: 200 }
    },
  })
}

import { listQuery, timestamp } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import { Type } from '../../shared/schema/type.ts'
import type { AdminApi } from '../accounts/admin-api.ts'
import { requireProject, type Admitted } from '../accounts/guard.ts'
import { isAllowedInProject, isAllowedInSystem, roles } from '../accounts/permissions.ts'
import { auditFields, type Audit, type AuditListing, type AuditRow } from '../store/audit.ts'
import type { Projects } from '../store/projects.ts'
import { eventTypes } from './event-types.ts'

export interface AuditRouteDeps {
  readonly audit: Audit
  readonly projects: Pick<Projects, 'idsOfRole' | 'find'>
}

const tag = 'auditlog'
const byProject = Type.Object({ project_name: Type.String() })

const logModel = Type.Object({
  id: Type.Integer(),
  username: Type.String(),
  resource: Type.String(),
  resource_type: Type.String(),
  operation: Type.String(),
  op_time: timestamp,
})

const extModel = Type.Object({
  id: Type.Integer(),
  username: Type.String(),
  resource: Type.String(),
  resource_type: Type.String(),
  operation: Type.String(),
  operation_description: Type.String(),
  operation_result: Type.Boolean(),
  op_time: timestamp,
})

/** The audit log: `/audit-logs` is Harbor's older form, `/auditlog-exts` the newer. */
export function auditRoutes(api: AdminApi, { audit, projects }: AuditRouteDeps): void {
  /** Who may not see all sees the logs of the projects whose logs they may. [harbor handler/auditlog.go] */
  async function visibleProjects({ facts }: Admitted): Promise<AuditListing['projects']> {
    if (isAllowedInSystem(facts, 'audit-log:list')) return 'all'
    if (facts.kind === 'user') return projects.idsOfRole(facts.id, roles.projectAdmin)
    if (facts.kind !== 'robot') return []
    const ids = [facts.projectId, ...facts.permissions.map(({ projectId }) => projectId)]
    const known = [...new Set(ids)].filter((id) => id !== undefined)
    const found = await Promise.all(known.map((id) => projects.find({ id }, undefined)))
    return found.flatMap((project) =>
      project !== undefined &&
      isAllowedInProject(facts, project, { roleId: undefined, permission: 'log:list' })
        ? [project.id]
        : [],
    )
  }

  const places = [
    { path: '/audit-logs', model: logModel, show: showLog },
    { path: '/auditlog-exts', model: extModel, show: showExt },
  ]
  for (const { path, model, show } of places) {
    api.route({
      method: 'GET',
      path,
      tag,
      summary: 'List what was done, newest first',
      permission: { of: 'account' },
      query: listQuery,
      responses: { 200: Type.Array(model) },
      handle: async ({ query, url, admitted }) => {
        const listing = parseListing(query, auditFields)
        const { rows, total } = await audit.list({
          ...listing,
          projects: await visibleProjects(admitted),
        })
        return listAnswer(rows.map(show), { url, page: listing.page, total })
      },
    })
  }

  const projectPlaces = [
    { path: '/projects/:project_name/logs', model: logModel, show: showLog },
    { path: '/projects/:project_name/auditlog-exts', model: extModel, show: showExt },
  ]
  for (const { path, model, show } of projectPlaces) {
    api.route({
      method: 'GET',
      path,
      tag,
      summary: 'List what was done in a project, newest first',
      permission: { of: 'project', permission: 'log:list' },
      params: byProject,
      query: listQuery,
      responses: { 200: Type.Array(model) },
      handle: async ({ query, url, admitted }) => {
        const listing = parseListing(query, auditFields)
        const { rows, total } = await audit.list({
          ...listing,
          projects: [requireProject(admitted).id],
        })
        return listAnswer(rows.map(show), { url, page: listing.page, total })
      },
    })
  }

  api.route({
    method: 'GET',
    path: '/auditlog-exts/events',
    tag,
    summary: 'List the kinds of deeds that are written down',
    permission: { of: 'account' },
    responses: { 200: Type.Array(Type.Object({ event_type: Type.String() })) },
    handle: () => ({
      status: 200,
      body: eventTypes.map((event_type) => ({ event_type })),
    }),
  })
}

function showLog(row: AuditRow) {
  return {
    id: row.id,
    username: row.username,
    resource: row.resource,
    resource_type: row.resourceType,
    operation: row.operation,
    op_time: row.at.toISOString(),
  }
}

function showExt(row: AuditRow) {
  return {
    ...showLog(row),
    operation_description: row.description,
    operation_result: row.succeeded,
  }
}

import type { Static } from 'typebox'
import { ApiError } from '../../shared/api/errors.ts'
import { listQuery, text, timestamp } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import type { Fields, Filter } from '../../shared/api/query.ts'
import { Type } from '../../shared/schema/type.ts'
import type { ProjectKey } from '../store/projects.ts'
import { robotFields, type Robot } from '../store/robots.ts'
import { apiPrefix, type AdminApi } from './admin-api.ts'
import type { RobotPermission } from './caller.ts'
import { projectWithId, requireRobot, type Guard } from './guard.ts'
import { levelOf, type RobotRequest, type Robots } from './robots.ts'

export interface RobotRouteDeps {
  readonly robots: Robots
  readonly guard: Pick<Guard, 'requireOwner'>
}

const tag = 'robot'
const byId = Type.Object({ robot_id: Type.String() })

const permissionModel = Type.Object({
  kind: Type.Union([Type.Literal('system'), Type.Literal('project')]),
  namespace: text(255, { description: "A project's name, `*` for all, `/` for the system." }),
  access: Type.Array(
    Type.Object({
      resource: text(64),
      action: text(64),
      effect: Type.Optional(
        Type.Union([Type.Literal('allow'), Type.Literal('deny'), Type.Literal('')]),
      ),
    }),
    { maxItems: 300 },
  ),
})

const requestFields = {
  name: text(255),
  description: Type.Optional(text(1024)),
  level: text(16, { description: '`system` or `project`' }),
  duration: Type.Optional(Type.Integer({ description: 'Days; -1 for ever, 0 for 30.' })),
  disable: Type.Optional(Type.Boolean()),
  permissions: Type.Array(permissionModel, { maxItems: 300 }),
}
const requestModel = Type.Object(requestFields)

const robotModel = Type.Object({
  id: Type.Integer(),
  name: Type.String(),
  description: Type.String(),
  level: Type.String(),
  duration: Type.Integer(),
  disable: Type.Boolean(),
  editable: Type.Boolean(),
  expires_at: Type.Integer({ description: 'Epoch seconds, or -1.' }),
  permissions: Type.Array(permissionModel),
  creator_type: Type.String(),
  creator_ref: Type.Integer(),
  creation_time: timestamp,
  update_time: timestamp,
})

const createdModel = Type.Object({
  id: Type.Integer(),
  name: Type.String(),
  secret: Type.String({ description: 'Shown this once.' }),
  creation_time: timestamp,
  expires_at: Type.Integer(),
})

/** Only in `q`, where they choose whose robots are listed. */
const ownerFields: Fields = {
  Level: { column: 'level', type: 'text' },
  ProjectID: { column: 'owner', type: 'integer' },
}

/** Robot accounts: `/robots`. [harbor api/v2.0/swagger.yaml, robot] */
export function robotRoutes(api: AdminApi, { robots, guard }: RobotRouteDeps): void {
  api.route({
    method: 'GET',
    path: '/robots',
    tag,
    summary: 'List the robots of the system, or of a project (q=Level=project,ProjectID=7)',
    permission: { of: 'named', permission: 'robot:list' },
    query: listQuery,
    responses: { 200: Type.Array(robotModel) },
    handle: async ({ query, url, admitted }) => {
      const listing = parseListing(query, robotFields, ownerFields)
      const { owner, filters } = splitOwner(listing.filters)
      const project = await guard.requireOwner(admitted, 'robot:list', owner)
      const { rows, total } = await robots.list({ ...listing, filters, projectId: project?.id })
      return listAnswer(rows.map(showRobot), { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'POST',
    path: '/robots',
    tag,
    summary: 'Create a robot of the system or of a project',
    permission: { of: 'named', permission: 'robot:create' },
    body: Type.Object({ ...requestFields, secret: Type.Optional(text(256)) }),
    responses: { 201: createdModel },
    handle: async ({ body, admitted }) => {
      const given = body.secret === '' ? undefined : body.secret
      const { robot, secret } = await robots.create(
        { ...readRequest(body), secret: given },
        admitted,
      )
      return {
        status: 201,
        headers: { Location: `${apiPrefix}/robots/${robot.id}`, 'Cache-Control': 'no-store' },
        body: {
          id: robot.id,
          name: robot.name,
          secret,
          creation_time: robot.createdAt.toISOString(),
          expires_at: expiryOf(robot),
        },
      }
    },
  })

  api.route({
    method: 'GET',
    path: '/robots/:robot_id',
    tag,
    summary: 'Get a robot',
    permission: { of: 'robot', permission: 'robot:read' },
    params: byId,
    responses: { 200: robotModel },
    handle: ({ admitted }) => ({ status: 200, body: showRobot(requireRobot(admitted)) }),
  })

  api.route({
    method: 'PUT',
    path: '/robots/:robot_id',
    tag,
    summary: "Change a robot's rights, life and state",
    permission: { of: 'robot', permission: 'robot:update' },
    params: byId,
    body: requestModel,
    responses: { 200: undefined },
    handle: async ({ body, admitted }) => {
      await robots.update(readRequest(body), admitted)
      return { status: 200 }
    },
  })

  api.route({
    method: 'PATCH',
    path: '/robots/:robot_id',
    tag,
    summary: 'Give a robot another secret; an empty one has it made here',
    permission: { of: 'robot', permission: 'robot:update' },
    params: byId,
    body: Type.Object({ secret: Type.Optional(text(256)) }),
    responses: { 200: Type.Object({ secret: Type.String() }) },
    handle: async ({ body, admitted }) => ({
      status: 200,
      headers: { 'Cache-Control': 'no-store' },
      body: { secret: await robots.setSecret(body.secret ?? '', admitted) },
    }),
  })

  api.route({
    method: 'DELETE',
    path: '/robots/:robot_id',
    tag,
    summary: 'Delete a robot',
    permission: { of: 'robot', permission: 'robot:delete' },
    params: byId,
    responses: { 200: undefined },
    handle: async ({ admitted }) => {
      await robots.remove(admitted)
      return { status: 200 }
    },
  })
}

function readRequest(body: Static<typeof requestModel>): RobotRequest {
  return {
    name: body.name,
    description: body.description ?? '',
    level: body.level,
    duration: body.duration,
    disable: body.disable ?? false,
    permissions: body.permissions.map(readPermission),
  }
}

/** Only what we know: a request must not bring a project's id along. */
function readPermission(given: Static<typeof permissionModel>): RobotPermission {
  const access = given.access.map(({ resource, action, effect }) =>
    effect === undefined ? { resource, action } : { resource, action, effect },
  )
  return { kind: given.kind, namespace: given.namespace, access }
}

/** Takes `Level` and `ProjectID` out of the filters. @throws ApiError BAD_REQUEST */
function splitOwner(filters: readonly Filter[]): {
  readonly owner: ProjectKey | 'system'
  readonly filters: readonly Filter[]
} {
  const level = valueOf(filters, 'level') ?? 'system'
  const id = valueOf(filters, 'owner')
  const rest = filters.filter(({ column }) => column !== 'level' && column !== 'owner')
  if (level === 'system') return { owner: 'system', filters: rest }
  if (level !== 'project') throw new ApiError('BAD_REQUEST', 'Level must be system or project')
  if (id !== undefined) return { owner: projectWithId(id), filters: rest }
  throw new ApiError('BAD_REQUEST', 'Level=project needs a ProjectID: q=Level=project,ProjectID=7')
}

function valueOf(filters: readonly Filter[], column: string) {
  const filter = filters.find((candidate) => candidate.column === column)
  if (filter !== undefined && filter.kind !== 'exact') {
    throw new ApiError('BAD_REQUEST', 'Level and ProjectID are matched exactly')
  }
  return filter?.value
}

function expiryOf({ expiresAt }: Robot): number {
  return expiresAt === undefined ? -1 : Math.floor(expiresAt.getTime() / 1000)
}

function showRobot(robot: Robot) {
  return {
    id: robot.id,
    name: robot.name,
    description: robot.description,
    level: levelOf(robot),
    duration: robot.durationDays,
    disable: robot.disabled,
    editable: true,
    expires_at: expiryOf(robot),
    permissions: robot.permissions.map(({ kind, namespace, access }) => ({
      kind,
      namespace,
      access,
    })),
    creator_type: robot.creator.kind,
    creator_ref: robot.creator.id ?? 0,
    creation_time: robot.createdAt.toISOString(),
    update_time: robot.updatedAt.toISOString(),
  }
}

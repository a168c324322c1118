import type { Static } from 'typebox'
import { ApiError } from '../../shared/api/errors.ts'
import { listParameters, pageParameters, text, timestamp } from '../../shared/api/fields.ts'
import { listAnswer, parseListing } from '../../shared/api/listing.ts'
import { Type } from '../../shared/schema/type.ts'
import { userFields, type User, type UserProfile } from '../store/accounts.ts'
import type { Projects } from '../store/projects.ts'
import { apiPrefix, type AdminApi } from './admin-api.ts'
import { parseId, type Admitted } from './guard.ts'
import {
  isAllowedInProject,
  isAllowedInSystem,
  projectPermissions,
  systemRobotPermissions,
  type Permission,
} from './permissions.ts'
import type { Users } from './users.ts'

export interface UserRouteDeps {
  readonly users: Users
  readonly projects: Pick<Projects, 'find'>
}

const tag = 'user'
const byId = Type.Object({ user_id: Type.String() })

const userModel = Type.Object({
  user_id: Type.Integer(),
  username: Type.String(),
  email: Type.String(),
  realname: Type.String(),
  comment: Type.String(),
  sysadmin_flag: Type.Boolean(),
  admin_role_in_auth: Type.Boolean(),
  creation_time: timestamp,
  update_time: timestamp,
})

const profileFields = {
  email: text(255),
  realname: text(255),
  comment: Type.Optional(text(255)),
}
const profileModel = Type.Object(profileFields)

/** People: `/users`. [harbor api/v2.0/swagger.yaml, user] */
export function userRoutes(api: AdminApi, { users, projects }: UserRouteDeps): void {
  api.route({
    method: 'GET',
    path: '/users',
    tag,
    summary: 'List the users',
    permission: { of: 'system', permission: 'user:list' },
    query: Type.Object({
      ...listParameters,
      username: Type.Optional(text(255)),
      email: Type.Optional(text(255)),
    }),
    responses: { 200: Type.Array(userModel) },
    handle: async ({ query, url }) => {
      const listing = parseListing(query, userFields)
      const fuzzy = (['username', 'email'] as const).flatMap((column) => {
        const value = query[column]
        return value === undefined || value === ''
          ? []
          : [{ kind: 'fuzzy' as const, column, value }]
      })
      const filters = [...listing.filters, ...fuzzy]
      const { rows, total } = await users.list({ ...listing, filters })
      return listAnswer(rows.map(showUser), { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'POST',
    path: '/users',
    tag,
    summary: 'Create a user',
    permission: { of: 'system', permission: 'user:create' },
    body: Type.Object({ username: text(255), password: text(256), ...profileFields }),
    responses: { 201: undefined },
    handle: async ({ body, admitted }) => {
      const { username, password } = body
      const id = await users.create({ username, password, ...readProfile(body) }, admitted)
      return { status: 201, headers: { Location: `${apiPrefix}/users/${id}` } }
    },
  })

  api.route({
    method: 'GET',
    path: '/users/current',
    tag,
    summary: 'Get the user who asks',
    permission: { of: 'account' },
    responses: { 200: userModel },
    handle: async ({ admitted }) => {
      if (admitted.facts.kind !== 'user') {
        throw new ApiError('PRECONDITION', 'only a person is a user; this is a robot account')
      }
      return { status: 200, body: showUser(await users.get(admitted.facts.id)) }
    },
  })

  api.route({
    method: 'GET',
    path: '/users/current/permissions',
    tag,
    summary: 'List what the caller may do, in a project (scope=/project/7) or in the system',
    permission: { of: 'account' },
    query: Type.Object({
      scope: Type.Optional(text(255)),
      relative: Type.Optional(Type.Boolean()),
    }),
    responses: {
      200: Type.Array(Type.Object({ resource: Type.String(), action: Type.String() })),
    },
    handle: async ({ query, admitted }) => {
      const scope = query.scope ?? ''
      const held = await permissionsIn(scope, { admitted, projects })
      const base = query.relative === true ? '' : scope
      const body = held.map((permission) => {
        const [resource = '', action = ''] = permission.split(':')
        // In its own scope the project has no name. [harbor src/common/rbac/const.go ResourceSelf]
        const isScope = resource === 'project' && scope !== '/system'
        return { resource: [base, isScope ? '' : resource].filter(Boolean).join('/'), action }
      })
      return { status: 200, body }
    },
  })

  api.route({
    method: 'GET',
    path: '/users/search',
    tag,
    summary: 'Find users by a part of the name',
    permission: { of: 'account' },
    query: Type.Object({ ...pageParameters, username: text(255) }),
    responses: {
      200: Type.Array(Type.Object({ user_id: Type.Integer(), username: Type.String() })),
    },
    handle: async ({ query, url }) => {
      const listing = parseListing(query, userFields)
      const { username: value } = query
      const filters = value === '' ? [] : [{ kind: 'fuzzy' as const, column: 'username', value }]
      const { rows, total } = await users.list({ ...listing, filters })
      const found = rows.map(({ id, username }) => ({ user_id: id, username }))
      return listAnswer(found, { url, page: listing.page, total })
    },
  })

  api.route({
    method: 'GET',
    path: '/users/:user_id',
    tag,
    summary: 'Get a user',
    permission: { of: 'user', permission: 'user:read' },
    params: byId,
    responses: { 200: userModel },
    handle: async ({ params }) => ({
      status: 200,
      body: showUser(await users.get(parseId(params.user_id))),
    }),
  })

  api.route({
    method: 'PUT',
    path: '/users/:user_id',
    tag,
    summary: "Change a user's profile",
    permission: { of: 'user', permission: 'user:update' },
    params: byId,
    body: profileModel,
    responses: { 200: undefined },
    handle: async ({ params, body, admitted }) => {
      await users.setProfile(parseId(params.user_id), readProfile(body), admitted)
      return { status: 200 }
    },
  })

  api.route({
    method: 'DELETE',
    path: '/users/:user_id',
    tag,
    summary: 'Delete a user',
    permission: { of: 'system', permission: 'user:delete' },
    params: byId,
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      await users.remove(parseId(params.user_id), admitted)
      return { status: 200 }
    },
  })

  api.route({
    method: 'PUT',
    path: '/users/:user_id/sysadmin',
    tag,
    summary: 'Make a user a system administrator, or one no more',
    permission: { of: 'system', permission: 'user:update' },
    params: byId,
    body: Type.Object({ sysadmin_flag: Type.Boolean() }),
    responses: { 200: undefined },
    handle: async ({ params, body, admitted }) => {
      await users.setSysadmin(parseId(params.user_id), body.sysadmin_flag, admitted)
      return { status: 200 }
    },
  })

  api.route({
    method: 'PUT',
    path: '/users/:user_id/password',
    tag,
    summary: "Change a user's password; one's own needs the old one",
    permission: { of: 'user', permission: 'user:update' },
    params: byId,
    body: Type.Object({ old_password: Type.Optional(text(256)), new_password: text(256) }),
    responses: { 200: undefined },
    handle: async ({ params, body, admitted }) => {
      const change = { oldPassword: body.old_password, newPassword: body.new_password }
      await users.setPassword(parseId(params.user_id), change, admitted)
      return { status: 200 }
    },
  })

  api.route({
    method: 'PUT',
    path: '/users/:user_id/cli_secret',
    tag,
    summary: 'Set the secret that stands for the password of an OIDC user',
    permission: { of: 'user', permission: 'user:update' },
    params: byId,
    body: Type.Object({ secret: Type.Optional(text(256)) }),
    responses: { 200: undefined },
    handle: () => {
      throw new ApiError('PRECONDITION', 'unable to update CLI secret under authmode: db_auth')
    },
  })
}

/** Field by field: a body may hold more than its schema names. */
function readProfile({ email, realname, comment }: Static<typeof profileModel>): UserProfile {
  return { email, realname, comment: comment ?? '' }
}

function showUser(user: User) {
  return {
    user_id: user.id,
    username: user.username,
    email: user.email,
    realname: user.realname,
    comment: user.comment,
    sysadmin_flag: user.sysadmin,
    admin_role_in_auth: false,
    creation_time: user.createdAt.toISOString(),
    update_time: user.updatedAt.toISOString(),
  }
}

async function permissionsIn(
  scope: string,
  { admitted, projects }: { readonly admitted: Admitted } & Pick<UserRouteDeps, 'projects'>,
): Promise<readonly Permission[]> {
  const { facts } = admitted
  if (scope === '/system') {
    return [...systemRobotPermissions].filter((permission) => isAllowedInSystem(facts, permission))
  }
  const id = parseId(/^\/project\/([0-9]+)$/.exec(scope)?.[1])
  const userId = facts.kind === 'user' ? facts.id : undefined
  const project = id === undefined ? undefined : await projects.find({ id }, userId)
  if (project === undefined) return []
  const { roleId } = project
  return [...projectPermissions].filter((permission) =>
    isAllowedInProject(facts, project, { roleId, permission }),
  )
}

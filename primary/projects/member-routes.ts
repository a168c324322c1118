import { ApiError } from '../../shared/api/errors.ts'
import { pageParameters, text } from '../../shared/api/fields.ts'
import { listAnswer } from '../../shared/api/listing.ts'
import { parsePage } from '../../shared/api/paging.ts'
import { Type } from '../../shared/schema/type.ts'
import { apiPrefix, type AdminApi } from '../accounts/admin-api.ts'
import { parseId, requireProject, type Admitted } from '../accounts/guard.ts'
import { roleNames } from '../accounts/permissions.ts'
import type { Accounts, User } from '../store/accounts.ts'
import type { Member, Members } from '../store/members.ts'

export interface MemberRouteDeps {
  readonly members: Members
  readonly accounts: Pick<Accounts, 'get' | 'findByName'>
  /** Epoch ms. */
  readonly now: () => number
}

const tag = 'member'
const byNameOrId = Type.Object({ project_name_or_id: Type.String() })
const byMember = Type.Object({ project_name_or_id: Type.String(), mid: Type.String() })

const memberModel = Type.Object({
  id: Type.Integer(),
  project_id: Type.Integer(),
  entity_name: Type.String(),
  role_name: Type.String(),
  role_id: Type.Integer(),
  entity_id: Type.Integer(),
  entity_type: Type.String(),
})

const requestModel = Type.Object({
  role_id: Type.Integer({
    description: '1 project admin, 2 developer, 3 guest, 4 maintainer, 5 limited guest',
  }),
  member_user: Type.Optional(
    Type.Object({ user_id: Type.Optional(Type.Integer()), username: Type.Optional(text(255)) }),
  ),
  member_group: Type.Optional(Type.Object({})),
})

/** Who has which role in a project. [harbor api/v2.0/swagger.yaml, member] */
export function memberRoutes(api: AdminApi, { members, accounts, now }: MemberRouteDeps): void {
  const deedOf = (admitted: Admitted) => ({
    project: requireProject(admitted),
    actor: admitted.actor,
    now: new Date(now()),
  })

  /** @throws ApiError BAD_REQUEST, NOT_FOUND */
  async function findUser(given: {
    readonly user_id?: number
    readonly username?: string
  }): Promise<User> {
    const { user_id: id = 0, username = '' } = given
    if (id <= 0 && username === '') {
      throw new ApiError('BAD_REQUEST', 'member_user must have a user_id or a username')
    }
    const known = id > 0 ? parseId(String(id)) : undefined
    const user =
      id > 0
        ? known === undefined
          ? undefined
          : await accounts.get(known)
        : await accounts.findByName(username)
    if (user === undefined) throw new ApiError('NOT_FOUND', 'there is no such user')
    return user
  }

  api.route({
    method: 'GET',
    path: '/projects/:project_name_or_id/members',
    tag,
    summary: "List a project's members",
    permission: { of: 'project', permission: 'member:list' },
    params: byNameOrId,
    query: Type.Object({ ...pageParameters, entityname: Type.Optional(text(255)) }),
    responses: { 200: Type.Array(memberModel) },
    handle: async ({ query, url, admitted }) => {
      const page = parsePage(query)
      const projectId = requireProject(admitted).id
      const name = query.entityname === '' ? undefined : query.entityname
      const { rows, total } = await members.list({ projectId, name, page })
      return listAnswer(rows.map(showMember), { url, page, total })
    },
  })

  api.route({
    method: 'POST',
    path: '/projects/:project_name_or_id/members',
    tag,
    summary: 'Give a user a role in a project',
    permission: { of: 'project', permission: 'member:create' },
    params: byNameOrId,
    body: requestModel,
    responses: { 201: undefined },
    handle: async ({ body, admitted }) => {
      checkRole(body.role_id)
      if (body.member_user === undefined) {
        throw new ApiError(
          'BAD_REQUEST',
          'member_user must name a user: this version has no groups yet',
        )
      }
      const user = await findUser(body.member_user)
      const deed = deedOf(admitted)
      const id = await members.create(user, body.role_id, deed)
      const location = `${apiPrefix}/projects/${deed.project.id}/members/${id}`
      return { status: 201, headers: { Location: location } }
    },
  })

  api.route({
    method: 'GET',
    path: '/projects/:project_name_or_id/members/:mid',
    tag,
    summary: 'Get a member of a project',
    permission: { of: 'project', permission: 'member:read' },
    params: byMember,
    responses: { 200: memberModel },
    handle: async ({ params, admitted }) => {
      const id = parseId(params.mid)
      const member = id && (await members.get(requireProject(admitted).id, id))
      if (!member) throw absent()
      return { status: 200, body: showMember(member) }
    },
  })

  api.route({
    method: 'PUT',
    path: '/projects/:project_name_or_id/members/:mid',
    tag,
    summary: "Change a member's role",
    permission: { of: 'project', permission: 'member:update' },
    params: byMember,
    body: Type.Object({ role_id: Type.Integer() }),
    responses: { 200: undefined },
    handle: async ({ params, body, admitted }) => {
      checkRole(body.role_id)
      const id = parseId(params.mid)
      if (!id || !(await members.setRole(id, body.role_id, deedOf(admitted)))) throw absent()
      return { status: 200 }
    },
  })

  api.route({
    method: 'DELETE',
    path: '/projects/:project_name_or_id/members/:mid',
    tag,
    summary: "Take a member's role away",
    permission: { of: 'project', permission: 'member:delete' },
    params: byMember,
    responses: { 200: undefined },
    handle: async ({ params, admitted }) => {
      const id = parseId(params.mid)
      if (!id || !(await members.remove(id, deedOf(admitted)))) throw absent()
      return { status: 200 }
    },
  })
}

function checkRole(roleId: number): void {
  if (roleNames[roleId] === undefined) {
    throw new ApiError(
      'BAD_REQUEST',
      'role_id must be 1 (project admin), 2 (developer), 3 (guest), 4 (maintainer) or 5 (limited guest)',
    )
  }
}

function absent(): ApiError {
  return new ApiError('NOT_FOUND', 'the project has no such member')
}

function showMember(member: Member) {
  return {
    id: member.id,
    project_id: member.projectId,
    entity_name: member.username,
    role_name: roleNames[member.roleId] ?? '',
    role_id: member.roleId,
    entity_id: member.userId,
    entity_type: 'u',
  }
}

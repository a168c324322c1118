import type { ProjectSet } from '../../shared/auth/project-set.ts'
import type { CallerFacts, ProjectFacts, RobotPermission } from './caller.ts'

/** Harbor's project roles, by their ids. [harbor src/common/const.go] */
export const roles = {
  projectAdmin: 1,
  developer: 2,
  guest: 3,
  maintainer: 4,
  limitedGuest: 5,
} as const

/** The roles' names as the API shows them, by id. */
export const roleNames: Readonly<Record<number, string>> = {
  1: 'projectAdmin',
  2: 'developer',
  3: 'guest',
  4: 'maintainer',
  5: 'limitedGuest',
}

/** `resource:action`, in Harbor's words; `project` is the project itself. */
export type Permission = `${string}:${string}`

// Harbor's table as its code has it, which gives logs to project admins alone and the list of robots to
// guests, where its documentation says otherwise. [harbor src/common/rbac/project/rbac_role.go]
const projectAdmin = permissions({
  project: 'read update delete',
  member: 'create read update delete list',
  metadata: 'create read update delete',
  log: 'list',
  label: 'create read update delete list',
  quota: 'read',
  repository: 'create read update delete list pull push',
  'tag-retention': 'create read update delete list operate',
  'immutable-tag': 'create update delete list',
  configuration: 'read update',
  robot: 'create read update delete list',
  'notification-policy': 'create update delete list read',
  scan: 'create read stop',
  sbom: 'create stop read',
  scanner: 'read create',
  artifact: 'create read delete list',
  'artifact-addition': 'read',
  tag: 'list create delete',
  accessory: 'list',
  'artifact-label': 'create delete',
  'preheat-policy': 'create read update delete list',
  'export-cve': 'create read list',
})

const maintainer = permissions({
  project: 'read',
  member: 'read list',
  metadata: 'read',
  label: 'create read update delete list',
  quota: 'read',
  repository: 'create read update delete list pull push',
  'tag-retention': 'create read update delete list operate',
  'immutable-tag': 'create update delete list',
  configuration: 'read',
  robot: 'read list',
  'notification-policy': 'list read',
  scan: 'create read stop',
  sbom: 'create stop read',
  scanner: 'read',
  artifact: 'create read delete list',
  'artifact-addition': 'read',
  tag: 'list create delete',
  accessory: 'list',
  'artifact-label': 'create delete',
  'export-cve': 'create read list',
})

const developer = permissions({
  project: 'read',
  member: 'read list',
  label: 'read list',
  quota: 'read',
  repository: 'create read update list pull push',
  'tag-retention': 'create read update delete list operate',
  configuration: 'read',
  robot: 'read list',
  scan: 'read',
  sbom: 'read',
  scanner: 'read',
  artifact: 'create read list',
  'artifact-addition': 'read',
  tag: 'list create',
  accessory: 'list',
  'artifact-label': 'create delete',
  'export-cve': 'create read list',
})

const guest = permissions({
  project: 'read',
  member: 'read list',
  label: 'read list',
  quota: 'read',
  repository: 'read list pull',
  configuration: 'read',
  robot: 'read list',
  scan: 'read',
  sbom: 'read',
  scanner: 'read',
  artifact: 'read list',
  'artifact-addition': 'read',
  tag: 'list',
  accessory: 'list',
})

const limitedGuest = permissions({
  project: 'read',
  quota: 'read',
  repository: 'read list pull',
  configuration: 'read',
  scan: 'read',
  sbom: 'read',
  scanner: 'read',
  artifact: 'read list',
  'artifact-addition': 'read',
  tag: 'list',
  accessory: 'list',
})

/** What anybody may do in a public project. [harbor src/common/rbac/project/util.go] */
const publicProject = permissions({
  project: 'read',
  label: 'read list',
  repository: 'read list pull',
  configuration: 'read',
  scan: 'read',
  sbom: 'read',
  scanner: 'read',
  artifact: 'read list',
  'artifact-addition': 'read',
  tag: 'list',
  accessory: 'list',
})

const nothing: ReadonlySet<Permission> = new Set()

const byRole: Readonly<Record<number, ReadonlySet<Permission>>> = {
  [roles.projectAdmin]: projectAdmin,
  [roles.maintainer]: maintainer,
  [roles.developer]: developer,
  [roles.guest]: guest,
  [roles.limitedGuest]: limitedGuest,
}

/** What a robot may be given in a project. [harbor src/common/rbac/const.go PoliciesMap, NolimitProvider] */
export const projectRobotPermissions = permissions({
  project: 'read update delete',
  metadata: 'create read update delete list',
  log: 'list',
  member: 'create read update delete list',
  robot: 'create read update delete list',
  repository: 'read update delete list pull push',
  artifact: 'create read delete list',
  'artifact-addition': 'read',
  'artifact-label': 'create delete',
  tag: 'create delete list',
  accessory: 'list',
  scan: 'create read stop',
  sbom: 'create read stop',
  scanner: 'create read',
  label: 'create read update delete list',
  quota: 'read',
  configuration: 'read update',
  'tag-retention': 'create read update delete list operate',
  'immutable-tag': 'create update delete list',
  'notification-policy': 'create read update delete list',
  'preheat-policy': 'create read update delete list',
  'export-cve': 'create read list',
})

/** All that can be done in a project: what roles have, and what robots may be given. */
export const projectPermissions: ReadonlySet<Permission> = new Set(
  [...Object.values(byRole), projectRobotPermissions].flatMap((some) => [...some]),
)

/** What a system robot may be given besides. [harbor src/common/rbac/const.go PoliciesMap, NolimitProvider] */
export const systemRobotPermissions = permissions({
  'audit-log': 'list',
  catalog: 'read',
  'garbage-collection': 'create read update list stop',
  'jobservice-monitor': 'list stop',
  label: 'create read update delete list',
  'ldap-user': 'create list',
  'preheat-instance': 'create read update delete list',
  project: 'create list',
  'purge-audit': 'create read update list stop',
  quota: 'read update list',
  registry: 'create read update delete list',
  replication: 'create read list',
  'replication-adapter': 'list',
  'replication-policy': 'create read update delete list',
  robot: 'create read update delete list',
  'scan-all': 'create read update stop',
  scanner: 'create read update delete list',
  'security-hub': 'read list',
  'system-volumes': 'read',
  user: 'create read update delete list',
  'user-group': 'create read update delete list',
})

/**
 * Whether the caller may do that in that project, by the records as they are now.
 * Robots and edges are bound to projects by id. An edge only pulls, and only in its own scope: what is
 * public to people is not in it for that.
 */
export function isAllowedInProject(
  caller: CallerFacts | undefined,
  project: ProjectFacts,
  { roleId, permission }: { roleId: number | undefined; permission: Permission },
): boolean {
  if (caller === undefined) return false
  if (caller.kind === 'edge') return permission === 'repository:pull' && isInScope(caller, project)
  if (caller.kind === 'user' && caller.admin) return true
  if (project.public && publicProject.has(permission)) return true
  if (caller.kind === 'user' && roleId !== undefined) return permissionsOf(roleId).has(permission)
  if (caller.kind === 'robot') {
    const own = caller.projectId === undefined || caller.projectId === project.id
    return own && robotHas(caller.permissions, permission, project.id)
  }
  return false
}

/** Whether the caller may do that in every project, those to come included. */
export function isAllowedInEveryProject(
  caller: CallerFacts | undefined,
  permission: Permission,
): boolean {
  if (caller?.kind === 'user') return caller.admin
  if (caller?.kind !== 'robot' || caller.projectId !== undefined) return false
  return robotHas(caller.permissions, permission, 'every project')
}

/** Whether the caller may do that to the installation: system administrators, and robots that were given it. */
export function isAllowedInSystem(
  caller: CallerFacts | undefined,
  permission: Permission,
): boolean {
  if (caller?.kind === 'user') return caller.admin
  // Only a robot that belongs to no project can hold a right over the system.
  if (caller?.kind !== 'robot' || caller.projectId !== undefined) return false
  return robotHas(caller.permissions, permission, 'system')
}

/** What a role may do; nothing when the id is not one of the five. */
function permissionsOf(roleId: number): ReadonlySet<Permission> {
  return byRole[roleId] ?? nothing
}

type RobotFacts = Extract<CallerFacts, { readonly kind: 'robot' }>

/**
 * In which projects a robot has a right, without what it may do because a project is public.
 * @param options.everywhere a right over the system gives it in every project, unless it is denied there
 */
export function robotProjects(
  robot: RobotFacts,
  permission: Permission,
  { everywhere }: { readonly everywhere: boolean },
): ProjectSet {
  const ids = [...new Set(robot.permissions.flatMap(({ projectId }) => projectId ?? []))]
  const has = (id: number) =>
    isAllowedInProject(robot, { id, name: '', public: false }, { roleId: undefined, permission })
  const isDenied = (id: number) => rightsOf(robot.permissions, permission, id).denied
  if (has(unnamed) || (everywhere && !isDenied(unnamed))) {
    return { kind: 'all but', ids: ids.filter(isDenied) }
  }
  return { kind: 'only', ids: ids.filter((id) => has(id) || (everywhere && !isDenied(id))) }
}

/** No project has this id: what a robot may do there is what it may do in projects that its rights do not name. */
const unnamed = 0

function isInScope(caller: Extract<CallerFacts, { kind: 'edge' }>, project: ProjectFacts): boolean {
  return caller.scope === '*' || caller.scope.includes(project.id)
}

/** Where a robot's right is asked for: over the system, in the project of that id, or in every project. */
type Place = 'system' | 'every project' | number

/** A denial beats any grant: of every project, also one in a single project. */
function robotHas(held: readonly RobotPermission[], permission: Permission, place: Place): boolean {
  const { granted, denied } = rightsOf(held, permission, place)
  return granted && !denied
}

function rightsOf(
  held: readonly RobotPermission[],
  permission: Permission,
  place: Place,
): { readonly granted: boolean; readonly denied: boolean } {
  const rights = held
    .filter((entry) => touches(entry, place))
    .flatMap((entry) => entry.access.map((right) => ({ ...right, covers: covers(entry, place) })))
    .filter(({ resource, action }) => `${resource}:${action}` === permission)
  return {
    granted: rights.some((right) => right.covers),
    denied: rights.some(({ effect = 'allow' }) => effect !== 'allow' && effect !== ''),
  }
}

function touches({ kind, namespace, projectId }: RobotPermission, place: Place): boolean {
  if (place === 'system') return kind === 'system'
  if (kind !== 'project') return false
  return place === 'every project' || namespace === '*' || projectId === place
}

function covers({ namespace }: RobotPermission, place: Place): boolean {
  return place !== 'every project' || namespace === '*'
}

function permissions(table: Readonly<Record<string, string>>): ReadonlySet<Permission> {
  return new Set(
    Object.entries(table).flatMap(([resource, actions]) =>
      actions.split(' ').map((action): Permission => `${resource}:${action}`),
    ),
  )
}

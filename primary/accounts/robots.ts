import { ApiError } from '../../shared/api/errors.ts'
import {
  generateSecret,
  hashGenerated,
  isAcceptablePassword,
  passwordRule,
  type Passwords,
} from '../../shared/auth/passwords.ts'
import type { Project, Projects } from '../store/projects.ts'
import type { Robot, RobotListing, Robots as RobotStore } from '../store/robots.ts'
import { robotPrefix } from './account.ts'
import type { CallerFacts, ProjectFacts, RobotPermission } from './caller.ts'
import { projectNamed, requireRobot, type Admitted, type Guard } from './guard.ts'
import {
  isAllowedInEveryProject,
  isAllowedInProject,
  isAllowedInSystem,
  projectRobotPermissions,
  systemRobotPermissions,
  type Permission,
} from './permissions.ts'

export interface RobotsDeps {
  readonly robots: RobotStore
  readonly projects: Pick<Projects, 'find'>
  readonly passwords: Passwords
  readonly guard: Pick<Guard, 'requireOwner'>
  /** Epoch ms. */
  readonly now: () => number
}

/** What a request says of a robot. */
export interface RobotRequest {
  /** Without the prefix when it is made, with it when it is changed. */
  readonly name: string
  readonly description: string
  readonly level: string
  /** Days, -1 for ever, 0 or undefined for the default. */
  readonly duration: number | undefined
  readonly disable: boolean
  readonly permissions: readonly RobotPermission[]
}

export type Robots = ReturnType<typeof createRobotAccounts>

const defaultDays = 30
const maxDays = 36_500
const dayMs = 24 * 3600 * 1000

/** Robot accounts, and the rules about them. [harbor src/server/v2.0/handler/robot.go] */
export function createRobotAccounts(deps: RobotsDeps) {
  const { robots, projects, passwords, guard, now } = deps
  const deedOf = ({ actor }: Admitted) => ({ actor, now: new Date(now()) })

  /** The rights with the projects' ids in them. @throws ApiError NOT_FOUND for a project that is not there */
  async function bind(
    permissions: readonly RobotPermission[],
    { facts }: Admitted,
  ): Promise<readonly BoundPermission[]> {
    const bound: BoundPermission[] = []
    for (const { kind, namespace, access } of permissions) {
      if (kind === 'system' || namespace === '*') {
        bound.push({ permission: { kind, namespace, access }, project: undefined })
        continue
      }
      const key = projectNamed(namespace)
      const userId = facts.kind === 'user' ? facts.id : undefined
      const project = key && (await projects.find(key, userId))
      if (project === undefined) {
        throw new ApiError(
          'NOT_FOUND',
          `permissions name the project ${namespace}, which is not there`,
        )
      }
      bound.push({ permission: { kind, namespace, access, projectId: project.id }, project })
    }
    return bound
  }

  /** A robot never has more than who makes or changes it, or whoever could choose its secret would have that. */
  async function requireRights(
    permissions: readonly RobotPermission[],
    admitted: Admitted,
  ): Promise<readonly RobotPermission[]> {
    const bound = await bind(permissions, admitted)
    for (const { permission, project } of bound) {
      for (const { resource, action } of permission.access) {
        const wanted: Permission = `${resource}:${action}`
        if (mayGive(admitted.facts, { permission, project, wanted })) continue
        throw new ApiError('FORBIDDEN', `a robot cannot be given ${wanted}, which you do not have`)
      }
    }
    return bound.map(({ permission }) => permission)
  }

  return {
    list: (listing: RobotListing) => robots.list(listing),

    /**
     * Creates a robot.
     * @returns it, with its secret, which is shown this once
     * @throws ApiError BAD_REQUEST, CONFLICT, FORBIDDEN, NOT_FOUND
     */
    async create(
      request: RobotRequest & { readonly secret: string | undefined },
      admitted: Admitted,
    ): Promise<{ readonly robot: Robot; readonly secret: string }> {
      checkRequest(request)
      if (!nameGrammar.test(request.name) || request.name.length > 200) {
        throw new ApiError(
          'BAD_REQUEST',
          'name must be lower-case letters and digits, divided by . _ or -, without the prefix',
        )
      }
      const owner = await guard.requireOwner(admitted, 'robot:create', ownerOf(request))
      const permissions = await requireRights(request.permissions, admitted)
      const { secret, secretHash } = await chooseSecret(request.secret, passwords)
      const deed = deedOf(admitted)
      const robot = await robots.create(
        {
          name: fullName(request.name, owner),
          description: request.description,
          projectId: owner?.id,
          disabled: request.disable,
          ...lifeOf(request.duration, deed.now),
          permissions,
          creator: creatorOf(admitted),
          secretHash,
        },
        deed,
      )
      return { robot, secret }
    },

    /**
     * Changes a robot; its name, level and project stay.
     * @throws ApiError BAD_REQUEST, FORBIDDEN, NOT_FOUND
     */
    async update(request: RobotRequest, admitted: Admitted): Promise<void> {
      const robot = requireRobot(admitted)
      checkRequest(request)
      if (request.name !== robot.name || request.level !== levelOf(robot)) {
        throw new ApiError('BAD_REQUEST', 'the level and the name of a robot cannot be changed')
      }
      requireOldRights(robot, admitted)
      const permissions = await requireRights(request.permissions, admitted)
      const own = robot.projectId
      if (own !== undefined && permissions.some(({ projectId }) => projectId !== own)) {
        throw new ApiError('BAD_REQUEST', "a project robot's permissions are of its own project")
      }
      const days = request.duration ?? robot.durationDays
      const life =
        days === robot.durationDays
          ? { durationDays: days, expiresAt: robot.expiresAt }
          : lifeOf(days, robot.createdAt)
      const { description, disable: disabled } = request
      const changes = { description, disabled, ...life, permissions }
      if (!(await robots.update(robot.id, changes, deedOf(admitted)))) throw absent()
    },

    /**
     * Gives a robot another secret: the given one, or a random one when it is empty.
     * @returns the random one, else ''
     * @throws ApiError BAD_REQUEST, FORBIDDEN, NOT_FOUND
     */
    async setSecret(given: string, admitted: Admitted): Promise<string> {
      const robot = requireRobot(admitted)
      requireOldRights(robot, admitted)
      const wanted = given === '' ? undefined : given
      const { secret, secretHash } = await chooseSecret(wanted, passwords)
      if (!(await robots.setSecret(robot.id, secretHash, deedOf(admitted)))) throw absent()
      return wanted === undefined ? secret : ''
    },

    /** @throws ApiError NOT_FOUND */
    async remove(admitted: Admitted): Promise<void> {
      if (!(await robots.remove(requireRobot(admitted).id, deedOf(admitted)))) throw absent()
    },
  }
}

/** Where a robot belongs, in the API's words. */
export function levelOf(robot: Robot): 'system' | 'project' {
  return robot.projectId === undefined ? 'system' : 'project'
}

/** Who cannot give a robot's rights cannot take them over by choosing its secret. @throws ApiError FORBIDDEN */
function requireOldRights({ permissions }: Robot, { facts }: Admitted): void {
  // A person who may change a project's robots may do everything in it.
  if (facts.kind === 'user') return
  for (const permission of permissions) {
    const { projectId, namespace } = permission
    const project =
      projectId === undefined
        ? undefined
        : { id: projectId, name: namespace, public: false, roleId: undefined }
    for (const { resource, action } of permission.access) {
      const wanted: Permission = `${resource}:${action}`
      if (mayGive(facts, { permission, project, wanted })) continue
      throw new ApiError('FORBIDDEN', `this robot has ${wanted}, which you do not have`)
    }
  }
}

interface BoundPermission {
  readonly permission: RobotPermission
  /** The project that it names; undefined for all of them and for the system. */
  readonly project: (ProjectFacts & { readonly roleId: number | undefined }) | undefined
}

function mayGive(
  facts: CallerFacts,
  { permission, project, wanted }: BoundPermission & { readonly wanted: Permission },
): boolean {
  if (permission.kind === 'system') return isAllowedInSystem(facts, wanted)
  if (project === undefined) return isAllowedInEveryProject(facts, wanted)
  // What a project lets anybody do while it is public is no right of the giver's, and the robot would keep it.
  const closed = { ...project, public: false }
  // A person who may make a project's robots may do everything in it.
  const asked = facts.kind === 'user' ? 'robot:create' : wanted
  return isAllowedInProject(facts, closed, { roleId: project.roleId, permission: asked })
}

const nameGrammar = /^[a-z0-9]+(?:[._-][a-z0-9]+)*$/

/** Checks what can be checked without the records. @throws ApiError BAD_REQUEST */
function checkRequest({ level, duration, permissions }: RobotRequest): void {
  if (level !== 'system' && level !== 'project') {
    throw new ApiError('BAD_REQUEST', 'level must be system or project')
  }
  if (duration !== undefined && (duration < -1 || duration > maxDays)) {
    throw new ApiError('BAD_REQUEST', `duration must be -1 (for ever) or at most ${maxDays} days`)
  }
  if (permissions.length === 0) {
    throw new ApiError('BAD_REQUEST', 'permissions must name at least one right')
  }
  if (level === 'project') checkProjectLevel(permissions)
  for (const permission of permissions) checkPermission(permission)
}

function checkProjectLevel(permissions: readonly RobotPermission[]): void {
  const [only] = permissions
  const isOne = permissions.length === 1 && only?.kind === 'project'
  if (!isOne || only.namespace === '*' || only.namespace === '/') {
    throw new ApiError(
      'BAD_REQUEST',
      'a project robot has exactly one permission entry, of kind project, whose namespace is its project',
    )
  }
}

function checkPermission({ kind, namespace, access }: RobotPermission): void {
  if (kind === 'system' && namespace !== '/') {
    throw new ApiError('BAD_REQUEST', 'the namespace of a permission of kind system must be /')
  }
  if (access.length === 0) throw new ApiError('BAD_REQUEST', 'access must name at least one right')
  const known = kind === 'system' ? systemRobotPermissions : projectRobotPermissions
  for (const { resource, action } of access) {
    if (known.has(`${resource}:${action}`)) continue
    throw new ApiError(
      'BAD_REQUEST',
      `${resource}:${action} is no right of kind ${kind}; GET /api/v2.0/permissions lists them`,
    )
  }
}

function ownerOf({ level, permissions }: RobotRequest) {
  if (level === 'system') return 'system'
  const key = projectNamed(permissions[0]?.namespace ?? '')
  // No project has such a name; the guard answers as for any that is not there.
  return key ?? { name: '' }
}

function fullName(name: string, owner: Project | undefined): string {
  return owner === undefined ? `${robotPrefix}${name}` : `${robotPrefix}${owner.name}+${name}`
}

function lifeOf(
  duration: number | undefined,
  from: Date,
): { readonly durationDays: number; readonly expiresAt: Date | undefined } {
  const durationDays = duration === undefined || duration === 0 ? defaultDays : duration
  if (durationDays === -1) return { durationDays, expiresAt: undefined }
  return { durationDays, expiresAt: new Date(from.getTime() + durationDays * dayMs) }
}

function creatorOf({ facts }: Admitted): {
  readonly kind: 'user' | 'robot' | 'system'
  readonly id: number | undefined
} {
  if (facts.kind === 'user' || facts.kind === 'robot') return { kind: facts.kind, id: facts.id }
  return { kind: 'system', id: undefined }
}

/** A secret that someone chose is hashed like a password, a random one cheaply. @throws ApiError BAD_REQUEST */
async function chooseSecret(
  given: string | undefined,
  passwords: Passwords,
): Promise<{ readonly secret: string; readonly secretHash: string }> {
  if (given === undefined) {
    const secret = generateSecret()
    return { secret, secretHash: hashGenerated(secret) }
  }
  if (!isAcceptablePassword(given)) throw new ApiError('BAD_REQUEST', passwordRule)
  return { secret: given, secretHash: await passwords.hash(given) }
}

function absent(): ApiError {
  return new ApiError('NOT_FOUND', 'there is no such robot')
}

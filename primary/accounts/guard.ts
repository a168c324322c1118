import { ApiError } from '../../shared/api/errors.ts'
import { isAnonymous, parseBasic } from '../../shared/auth/basic.ts'
import type { ApiRequest } from '../../shared/http/api.ts'
import type { AuditActor } from '../store/audit.ts'
import type { Label, Labels } from '../store/labels.ts'
import type { Project, ProjectKey, Projects } from '../store/projects.ts'
import type { Robot, Robots } from '../store/robots.ts'
import type { Account } from './account.ts'
import type { CallerFacts } from './caller.ts'
import type { LogIns } from './log-ins.ts'
import {
  isAllowedInEveryProject,
  isAllowedInProject,
  isAllowedInSystem,
  type Permission,
} from './permissions.ts'

/** Who may call a route of the admin API, and to whom what it touches belongs. */
export type RoutePermission =
  /** Open: no credential is read. */
  | { readonly of: 'nobody' }
  /** A log-in may be given, and decides how much is shown. */
  | { readonly of: 'anybody' }
  /** Any person or robot; it shows or changes only what is the caller's own to see. */
  | { readonly of: 'account' }
  /** The installation. */
  | { readonly of: 'system'; readonly permission: Permission }
  /** The project in the path. */
  | { readonly of: 'project'; readonly permission: Permission }
  /** The person in the path: they themself, or who has the permission over the system. */
  | { readonly of: 'user'; readonly permission: Permission }
  /** The robot in the path: whoever has the permission in its own project, or over the system. */
  | { readonly of: 'robot'; readonly permission: Permission }
  /** The label in the path: as a robot. */
  | { readonly of: 'label'; readonly permission: Permission }
  /** A project that the query or body names, or the system: the handler must ask `requireOwner`. */
  | { readonly of: 'named'; readonly permission: Permission }

/** A request that may go on. */
export interface Admitted {
  /** undefined: nobody logged in. */
  readonly account: Account | undefined
  readonly facts: CallerFacts
  readonly actor: AuditActor
  /** The project in the path, where the route belongs to one. */
  readonly project: Project | undefined
  /** The robot in the path, where the route belongs to one. */
  readonly robot: Robot | undefined
  /** The label in the path, where the route belongs to one. */
  readonly label: Label | undefined
}

export interface GuardDeps {
  readonly logIns: LogIns
  readonly projects: Pick<Projects, 'find'>
  readonly robots: Pick<Robots, 'get'>
  readonly labels: Pick<Labels, 'get'>
}

export type Guard = ReturnType<typeof createGuard>

/**
 * The one place that decides about requests of the admin API. An object's owning project comes from the
 * object's own record, never from what the request says of it.
 */
export function createGuard({ logIns, projects, robots, labels }: GuardDeps) {
  /** People and robots log in by Basic; a token is for the registry and opens nothing here. */
  async function logIn({ headers, address }: ApiRequest): Promise<Account | undefined> {
    const header = headers.authorization
    if (header === undefined) return undefined
    const credentials = parseBasic(header)
    if (credentials === undefined) throw unauthorized('the admin API takes Basic credentials only')
    if (isAnonymous(credentials)) return undefined
    const account = await logIns.logIn(credentials, { address })
    if (account === undefined) throw unauthorized('wrong user name or password')
    if (account.facts.kind === 'edge') throw forbidden('an edge has no business with the admin API')
    return account
  }

  async function admitToProject(
    entry: Admitted,
    permission: Permission,
    key: ProjectKey | undefined,
  ): Promise<Project> {
    const { account, facts } = entry
    const userId = facts.kind === 'user' ? facts.id : undefined
    const project = key && (await projects.find(key, userId))
    if (project === undefined) {
      // Who could do it in every project may know that this one does not exist.
      if (isAllowedInEveryProject(facts, permission)) {
        throw new ApiError('NOT_FOUND', 'there is no such project')
      }
      throw refusal(account, permission)
    }
    const { roleId } = project
    if (!isAllowedInProject(facts, project, { roleId, permission })) {
      throw refusal(account, permission)
    }
    return project
  }

  function admitToSystem({ account, facts }: Admitted, permission: Permission): void {
    if (!isAllowedInSystem(facts, permission)) throw refusal(account, permission)
  }

  /**
   * Admits to what belongs to a project or to the system.
   * @returns it, and its project
   */
  async function admitToOwned<Owned extends { readonly projectId: number | undefined }>(
    entry: Admitted,
    permission: Permission,
    { owned, noun }: { readonly owned: Owned | undefined; readonly noun: string },
  ): Promise<{ readonly owned: Owned; readonly project: Project | undefined }> {
    if (owned === undefined) {
      admitToSystem(entry, permission)
      throw new ApiError('NOT_FOUND', `there is no such ${noun}`)
    }
    if (owned.projectId === undefined) {
      admitToSystem(entry, permission)
      return { owned, project: undefined }
    }
    return { owned, project: await admitToProject(entry, permission, { id: owned.projectId }) }
  }

  return {
    /**
     * Decides whether a request may go on.
     * @throws ApiError UNAUTHORIZED without a log-in that is needed or with a wrong one, FORBIDDEN when the
     *   log-in may not, NOT_FOUND only to those who may know; OciError TOOMANYREQUESTS
     */
    async admit(permission: RoutePermission, request: ApiRequest): Promise<Admitted> {
      const account = permission.of === 'nobody' ? undefined : await logIn(request)
      const entry: Admitted = {
        account,
        facts: account?.facts ?? { kind: 'anonymous' },
        actor: { username: account?.caller.name ?? '', address: request.address },
        project: undefined,
        robot: undefined,
        label: undefined,
      }
      switch (permission.of) {
        case 'nobody':
        case 'anybody':
          return entry
        case 'account':
        case 'named':
          if (account === undefined) throw unauthorized('log in first')
          return entry
        case 'system':
          admitToSystem(entry, permission.permission)
          return entry
        case 'project': {
          const key = projectKeyOf(request)
          return {
            ...entry,
            project: await admitToProject(entry, permission.permission, key),
          }
        }
        case 'user': {
          const { facts } = entry
          const isSelf = facts.kind === 'user' && facts.id === parseId(request.params['user_id'])
          if (!isSelf) admitToSystem(entry, permission.permission)
          return entry
        }
        case 'robot': {
          const id = parseId(request.params['robot_id'])
          const found = id === undefined ? undefined : await robots.get(id)
          const asked = { owned: found, noun: 'robot' }
          const { owned, project } = await admitToOwned(entry, permission.permission, asked)
          return { ...entry, robot: owned, project }
        }
        case 'label': {
          const id = parseId(request.params['label_id'])
          const found = id === undefined ? undefined : await labels.get(id)
          const asked = { owned: found, noun: 'label' }
          const { owned, project } = await admitToOwned(entry, permission.permission, asked)
          return { ...entry, label: owned, project }
        }
      }
    },

    /**
     * The owner that a request names in its query or body: a project, or the system.
     * @returns the project, or undefined for the system
     * @throws ApiError as `admit` does
     */
    async requireOwner(
      entry: Admitted,
      permission: Permission,
      owner: ProjectKey | 'system',
    ): Promise<Project | undefined> {
      if (owner !== 'system') return admitToProject(entry, permission, owner)
      admitToSystem(entry, permission)
      return undefined
    },
  }
}

/**
 * Which project the path means: `project_name` is a name; `project_name_or_id` is an id when it is digits,
 * unless `X-Is-Resource-Name` says that it is a name. [harbor src/server/v2.0/handler/util.go]
 */
function projectKeyOf({ params, headers }: ApiRequest): ProjectKey | undefined {
  const { project_name: name, project_name_or_id: nameOrId } = params
  const isName = /^(?:true|1)$/i.test(String(headers['x-is-resource-name'] ?? ''))
  if (nameOrId !== undefined && !isName && /^[0-9]+$/.test(nameOrId)) {
    const id = parseId(nameOrId)
    return id === undefined ? undefined : { id }
  }
  return projectNamed(nameOrId ?? name ?? '')
}

/** Harbor's grammar. [harbor src/server/v2.0/handler/project.go] */
const projectNameGrammar = /^[a-z0-9]+(?:[._-][a-z0-9]+)*$/

/** Whether a project may have this name. */
export function isProjectName(text: string): boolean {
  return text.length <= 255 && projectNameGrammar.test(text)
}

/** undefined: no project has such a name. */
export function projectNamed(name: string): ProjectKey | undefined {
  return isProjectName(name) ? { name } : undefined
}

/** The largest id that the database has room for. */
const maxId = 2_147_483_647

/** An id in a path or body; undefined when nothing can have it. */
export function parseId(text: string | undefined): number | undefined {
  if (text === undefined || !/^[0-9]{1,10}$/.test(text)) return undefined
  const id = Number(text)
  return id >= 1 && id <= maxId ? id : undefined
}

/** The project that a query or body names by its id. No project has a name that is none: what cannot be an id is not there. */
export function projectWithId(id: unknown): ProjectKey {
  const known = parseId(String(id))
  return known === undefined ? { name: '' } : { id: known }
}

/** The project of an admitted request whose route belongs to one. */
export function requireProject({ project }: Admitted): Project {
  if (project === undefined) throw new Error('the route does not belong to a project')
  return project
}

/** The robot of an admitted request whose route belongs to one. */
export function requireRobot({ robot }: Admitted): Robot {
  if (robot === undefined) throw new Error('the route does not belong to a robot')
  return robot
}

/** The label of an admitted request whose route belongs to one. */
export function requireLabel({ label }: Admitted): Label {
  if (label === undefined) throw new Error('the route does not belong to a label')
  return label
}

function refusal(account: Account | undefined, permission: Permission): ApiError {
  if (account === undefined) return unauthorized('log in first')
  return forbidden(`${account.caller.name} lacks the permission ${permission} here`)
}

function forbidden(message: string): ApiError {
  return new ApiError('FORBIDDEN', message)
}

function unauthorized(message: string): ApiError {
  return new ApiError('UNAUTHORIZED', message, {
    headers: { 'WWW-Authenticate': 'Basic realm="outport"' },
  })
}

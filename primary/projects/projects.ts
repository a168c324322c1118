import { ApiError } from '../../shared/api/errors.ts'
import { isProjectName, requireProject, type Admitted } from '../accounts/guard.ts'
import { isAllowedInSystem, robotProjects } from '../accounts/permissions.ts'
import type { ProjectVisibility, Projects as ProjectStore } from '../store/projects.ts'
import { checkMetadata } from './metadata.ts'

export interface ProjectsDeps {
  readonly projects: ProjectStore
  /** Epoch ms. */
  readonly now: () => number
}

/** What a request says of a project; undefined is left as it is. */
export interface ProjectRequest {
  readonly name: string | undefined
  readonly public: boolean | undefined
  readonly metadata: Readonly<Record<string, string | undefined>>
  /** Bytes; only -1, no limit, is possible. */
  readonly storageLimit: number | undefined
  /** A proxy project's upstream. */
  readonly registryId: number | undefined
  /** How many entries its own CVE allowlist has. */
  readonly allowlisted: number
}

export type ProjectService = ReturnType<typeof createProjectService>

/** Projects, and the rules about them. [harbor src/server/v2.0/handler/project.go] */
export function createProjectService({ projects, now }: ProjectsDeps) {
  const deedOf = ({ actor }: Admitted) => ({ actor, now: new Date(now()) })

  return {
    /**
     * Creates a project. Any person may; of robots only one of the system that was given it.
     * @returns its id and name
     * @throws ApiError BAD_REQUEST, CONFLICT, FORBIDDEN
     */
    async create(
      request: ProjectRequest,
      admitted: Admitted,
    ): Promise<{ readonly id: number; readonly name: string }> {
      const { facts } = admitted
      if (facts.kind === 'robot' && !isAllowedInSystem(facts, 'project:create')) {
        throw new ApiError('FORBIDDEN', 'this robot cannot create projects')
      }
      checkPossible(request)
      const { name = '' } = request
      if (!isProjectName(name)) {
        throw new ApiError(
          'BAD_REQUEST',
          'project_name must be 1 to 255 lower-case letters and digits, divided by . _ or -',
        )
      }
      const metadata = readMetadata(request)
      const { public: isPublic = 'false', ...rest } = metadata
      const deed = deedOf(admitted)
      const id = await projects.create(
        {
          name,
          public: isPublic === 'true',
          metadata: rest,
          // A robot cannot own a project: the first account stands in.
          ownerId: facts.kind === 'user' ? facts.id : 1,
        },
        deed.actor,
        deed.now,
      )
      return { id, name }
    },

    /** Changes a project's settings. @throws ApiError BAD_REQUEST, NOT_FOUND */
    async update(request: ProjectRequest, admitted: Admitted): Promise<void> {
      checkPossible(request)
      const project = requireProject(admitted)
      if (request.name !== undefined && request.name !== project.name) {
        throw new ApiError('BAD_REQUEST', 'a project cannot be renamed')
      }
      const metadata = readMetadata(request)
      if (Object.keys(metadata).length === 0) return
      if (!(await projects.setMetadata(project.id, metadata, deedOf(admitted)))) throw absent()
    },

    /** Deletes an empty project. @throws ApiError PRECONDITION, NOT_FOUND */
    async remove(admitted: Admitted): Promise<void> {
      const { actor, now: at } = deedOf(admitted)
      if (!(await projects.remove(requireProject(admitted).id, actor, at))) throw absent()
    },

    /**
     * Adds (POST) or changes (PUT) one setting, or removes it.
     * @throws ApiError BAD_REQUEST, CONFLICT, NOT_FOUND
     */
    async setMetadata(
      name: string,
      value: string | undefined,
      { admitted, expect }: { admitted: Admitted; expect: 'present' | 'absent' },
    ): Promise<void> {
      if (name === 'public' && value === undefined) {
        throw new ApiError('BAD_REQUEST', 'public cannot be removed: set it to true or false')
      }
      const checked = value === undefined ? undefined : checkMetadata(name, value)
      const project = requireProject(admitted)
      const deed = { ...deedOf(admitted), expect }
      if (!(await projects.setMetadata(project.id, { [name]: checked }, deed))) throw absent()
    },
  }
}

/** What lists of names are asked for by: a project's own, or those of its repositories. */
type Listed = 'project:read' | 'repository:list'

/** In whose projects a caller finds names. Every role may read its project and list its repositories. */
export function visibilityOf({ facts }: Admitted, listed: Listed): ProjectVisibility {
  switch (facts.kind) {
    case 'user':
      return facts.admin ? { kind: 'all' } : { kind: 'member', userId: facts.id }
    case 'robot': {
      const everywhere = listed === 'project:read' && isAllowedInSystem(facts, 'project:list')
      return robotProjects(facts, listed, { everywhere })
    }
    default:
      return { kind: 'public' }
  }
}

/** What this version does not have yet is refused, never silently dropped. */
function checkPossible({ storageLimit, registryId, allowlisted }: ProjectRequest): void {
  if (storageLimit !== undefined && storageLimit !== -1) {
    throw new ApiError(
      'BAD_REQUEST',
      'storage_limit must be -1 (no limit): this version has no storage quotas yet',
    )
  }
  if (registryId !== undefined) {
    throw new ApiError(
      'BAD_REQUEST',
      'registry_id must be left out: this version has no proxy-cache projects yet',
    )
  }
  if (allowlisted > 0) {
    throw new ApiError(
      'BAD_REQUEST',
      'cve_allowlist must be empty: this version does not scan for vulnerabilities yet',
    )
  }
}

function readMetadata({ metadata, public: isPublic }: ProjectRequest): Record<string, string> {
  const checked: Record<string, string> = {}
  // The former place of `public`, which old clients use. [harbor ProjectReq]
  if (isPublic !== undefined) checked['public'] = String(isPublic)
  for (const [name, value] of Object.entries(metadata)) {
    if (value !== undefined && value !== '') checked[name] = checkMetadata(name, value)
  }
  return checked
}

function absent(): ApiError {
  return new ApiError('NOT_FOUND', 'the project was deleted meanwhile')
}

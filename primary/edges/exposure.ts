import { robotProjects } from '../accounts/permissions.ts'
import type { Edge } from '../store/edges.ts'
import type { Projects } from '../store/projects.ts'
import type { Robot, Robots } from '../store/robots.ts'

export interface ExposureDeps {
  readonly projects: Pick<Projects, 'ids' | 'namesOf'>
  readonly robots: Pick<Robots, 'all'>
}

/** What whoever holds an edge may have read, and whose secrets may have passed through it. */
export interface Exposure {
  /** Names, sorted. */
  readonly projects: readonly string[]
  /** Those that may pull from one of them, whether or not they may log in now: that can be changed again. */
  readonly robots: readonly ExposedRobot[]
  /** Whether people may have logged in through it. */
  readonly acceptsPeople: boolean
}

export interface ExposedRobot {
  readonly id: number
  readonly name: string
  /** The project of a project robot. */
  readonly project: string | undefined
}

/** What an edge exposes, were its machine lost now. */
export async function exposureOf(
  { scope, acceptsPeople }: Pick<Edge, 'scope' | 'acceptsPeople'>,
  { projects, robots }: ExposureDeps,
): Promise<Exposure> {
  const names = await projects.namesOf(scope === '*' ? await projects.ids() : scope)
  const all = await robots.all()
  return {
    projects: [...names.values()].sort(),
    robots: all
      .filter((robot) => mayPull(robot, names))
      .map(({ id, name, projectId }) => ({
        id,
        name,
        project: projectId === undefined ? undefined : names.get(projectId),
      })),
    acceptsPeople,
  }
}

function mayPull(
  { id, projectId, permissions, expiresAt }: Robot,
  names: ReadonlyMap<number, string>,
): boolean {
  const facts = {
    kind: 'robot',
    id,
    projectId,
    permissions,
    expiresAt: expiresAt?.getTime(),
  } as const
  const where = robotProjects(facts, 'repository:pull', { everywhere: false })
  if (where.kind === 'only') return where.ids.some((project) => names.has(project))
  return [...names.keys()].some((project) => !where.ids.includes(project))
}

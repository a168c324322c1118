/** Projects by their ids, those to come included: these, or all but these. */
export interface ProjectSet {
  readonly kind: 'only' | 'all but'
  readonly ids: readonly number[]
}

export function hasProject({ kind, ids }: ProjectSet, projectId: number): boolean {
  return ids.includes(projectId) === (kind === 'only')
}

/** What the primary tells an edge of an account whose log-in it took, beside the token. */
export interface AccountReach {
  /** Where it may pull whether or not the project is public. */
  readonly projects: ProjectSet
  /** When the account ends, in epoch ms; absent: it does not by itself. */
  readonly endsAt?: number
}

/** Longer lists are not an answer of ours. */
const maxIds = 100_000

/** undefined: it is not of that form. */
export function readAccountReach(value: unknown): AccountReach | undefined {
  if (typeof value !== 'object' || value === null || !('projects' in value)) return undefined
  const { projects } = value
  const endsAt = 'endsAt' in value ? value.endsAt : undefined
  if (endsAt !== undefined && typeof endsAt !== 'number') return undefined
  if (!isProjectSet(projects)) return undefined
  return { projects, ...(endsAt !== undefined && { endsAt }) }
}

function isProjectSet(value: unknown): value is ProjectSet {
  if (typeof value !== 'object' || value === null || !('kind' in value) || !('ids' in value))
    return false
  const { kind, ids } = value
  if (kind !== 'only' && kind !== 'all but') return false
  return Array.isArray(ids) && ids.length <= maxIds && ids.every(Number.isSafeInteger)
}

import type { Digest } from '../../shared/oci/digest.ts'
import type { RepositoryContent } from './repository-content.ts'
import type { Plan, PlanContext, Planner, Selection } from './rule-planner.ts'

/** Lines of one execution that name an artifact. */
const maxLines = 500

/** How a rule is brought up to date. */
export type Mode =
  /** By what changed: all that it selects. */
  | 'follow'
  /** By hand: what was stopped and what failed comes again. */
  | 'run'
  /** The rule changed, and nobody runs it: what it selects no longer goes. */
  | 'narrow'
  /** Only what does not exist any more goes. */
  | 'gone'

/** A repository that was deleted, of which something is still selected. */
export interface GoneRepository {
  readonly id: number
  readonly projectId: number
  readonly name: undefined
}

/** A manifest that a rule selects, and by which tags. */
export interface Chosen {
  readonly projectId: number
  readonly repositoryId: number
  readonly digest: Digest
  readonly tags: readonly string[]
}

/** What is to be written of a rule. */
export interface Change {
  readonly selected: Chosen[]
  /** Selected as before, by other tags. */
  readonly retagged: Chosen[]
  readonly unselected: (Omit<Chosen, 'tags'> & { readonly told: boolean })[]
  /** What is said of it, as far as anybody would read. */
  readonly lines: string[]
  /** How many more were to be said. */
  untold: number
}

/** One that changes nothing yet. */
export function createChange(): Change {
  return { selected: [], retagged: [], unselected: [], lines: [], untold: 0 }
}

export interface Planning extends Omit<PlanContext, 'frozen'> {
  readonly planner: Planner
  readonly content: RepositoryContent | GoneRepository
  readonly current: readonly Selection[]
  readonly mode: Mode
  /** What edges could not get: `repositoryId digest`. */
  readonly failed?: ReadonlySet<string>
}

/** Adds to a change what one repository brings. */
export function planChange(change: Change, planning: Planning): void {
  const { content, current, mode, failed } = planning
  const place = { projectId: content.projectId, repositoryId: content.id }
  const wanted = new Map(wantedOf(planning, change).map((one) => [one.digest, one.tags]))
  const known = new Map(current.map((selection) => [selection.digest, selection]))
  for (const [digest, tags] of wanted) {
    const selection = known.get(digest)
    const again =
      mode === 'run' && (selection?.stopped || failed?.has(`${content.id} ${digest}`) === true)
    if (selection === undefined || again) {
      change.selected.push({ ...place, digest, tags })
      say(change, `brings ${nameOf(content, { digest, tags })}`)
    } else if (!isSame(selection.tags, tags)) {
      change.retagged.push({ ...place, digest, tags })
    }
  }
  for (const { digest, tags, stopped } of current) {
    if (wanted.has(digest)) continue
    change.unselected.push({ ...place, digest, told: !stopped })
    if (!stopped) say(change, `no longer brings ${nameOf(content, { digest, tags })}`)
  }
}

function wantedOf(planning: Planning, change: Change): Plan['wanted'] {
  const { planner, content, current, mode, moved, now } = planning
  if (content.name === undefined) return []
  if (mode === 'gone') return current.filter(({ digest }) => content.manifests.has(digest))
  if (!planner.wants(content.name)) return []
  const frozen = mode === 'narrow'
  const { wanted, skipped } = planner.plan(content, current, { frozen, moved, now })
  for (const line of skipped) say(change, line)
  return wanted
}

function say(change: Change, line: string): void {
  if (change.lines.length < maxLines) change.lines.push(line)
  else change.untold++
}

function nameOf(
  content: RepositoryContent | GoneRepository,
  { digest, tags }: { readonly digest: Digest; readonly tags: readonly string[] },
): string {
  const repository = content.name ?? `the deleted repository ${content.id}`
  return `${repository}${tags.length === 0 ? '' : `:${tags.join(',')}`}@${digest}`
}

function isSame(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((tag, index) => tag === other[index])
}

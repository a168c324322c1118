import type { Digest } from '../../shared/oci/digest.ts'
import type { Policy } from '../store/policies.ts'
import type { ContentManifest, RepositoryContent } from '../store/repository-content.ts'
import type { Plan, PlanContext, Planner, Selection } from '../store/rule-planner.ts'
import {
  kindOf,
  parseFilters,
  selectArtifacts,
  selectsRepository,
  type FilteredArtifact,
  type FilteredTag,
  type FilterModel,
  type Filters,
} from './filters.ts'

/**
 * A manifest that was pushed by its digest alone is passed over for so long: what indexes name comes before them.
 * Milliseconds.
 */
const untaggedAfterMs = 300_000

/**
 * Reads a rule.
 * @throws ApiError BAD_REQUEST when its filters are malformed
 */
export function createPlanner({
  filters: models,
  deletion,
  override,
}: Pick<Policy, 'filters' | 'deletion' | 'override'>): Planner {
  const filters = parseFilters(models as readonly FilterModel[])
  return {
    wants: (repository) => selectsRepository(filters, repository),
    plan: (content, current, context) =>
      planRepository({ filters, deletion, override, content, current, context }),
  }
}

interface Planning extends Pick<Policy, 'deletion' | 'override'> {
  readonly filters: Filters
  readonly content: RepositoryContent
  readonly current: readonly Selection[]
  readonly context: PlanContext
}

/** What the filters look at, and which manifest it is. */
interface Candidate extends FilteredArtifact {
  readonly digest: Digest
}

/** What a rule is to select of a repository. Signatures and what else is attached go with what they are attached to. */
function planRepository(planning: Planning): Plan {
  const { filters, content, current, context } = planning
  const { candidates, skipped } = context.frozen
    ? { candidates: frozenCandidates(content, current), skipped: [] }
    : candidatesOf(planning)
  const chosen = selectArtifacts(filters, candidates)
  const wanted = new Map<Digest, readonly string[]>(
    chosen.map(({ digest, tags }) => [digest, tags.map(({ name }) => name)]),
  )
  const known = new Set(current.map(({ digest }) => digest))
  for (const digest of attachedTo([...wanted.keys()], content)) {
    if (!wanted.has(digest) && (!context.frozen || known.has(digest))) wanted.set(digest, [])
  }
  return {
    wanted: [...wanted].map(([digest, tags]) => ({ digest, tags: [...tags].sort() })),
    skipped,
  }
}

/** The artifacts of a repository, with the tags that they have to this rule. */
function candidatesOf(planning: Planning): {
  readonly candidates: readonly Candidate[]
  readonly skipped: readonly string[]
} {
  const { content, current, context } = planning
  const selected = new Set(current.map(({ digest }) => digest))
  const parts = new Set([...content.manifests.values()].flatMap(({ children }) => children))
  const { tagsOf, robbed, skipped } = tagsFor(planning)
  const candidates = [...content.manifests.values()].flatMap((manifest): readonly Candidate[] => {
    const { digest, pushedAt } = manifest
    const tags = tagsOf(manifest)
    if (tags.length === 0) {
      if (manifest.subject !== undefined || parts.has(digest) || robbed.has(digest)) return []
      const age = context.now.getTime() - pushedAt.getTime()
      if (context.moved !== undefined && age < untaggedAfterMs && !selected.has(digest)) return []
    }
    return [{ ...candidateOf(manifest, content), tags }]
  })
  return { candidates, skipped }
}

/** What is selected, by the tags by which it was. */
function frozenCandidates(
  content: RepositoryContent,
  current: readonly Selection[],
): readonly Candidate[] {
  return current.flatMap(({ digest, tags }) => {
    const manifest = content.manifests.get(digest)
    if (manifest === undefined || (manifest.subject !== undefined && tags.length === 0)) return []
    const pushedAt = new Map(manifest.tags.map((tag) => [tag.name, tag.pushedAt]))
    const as = tags.map((name) => ({ name, pushedAt: pushedAt.get(name) ?? manifest.pushedAt }))
    return [{ ...candidateOf(manifest, content), tags: as }]
  })
}

function candidateOf({ digest, type, labels }: ContentManifest, { name }: RepositoryContent) {
  return { digest, repository: name, kind: kindOf(type), labels }
}

/**
 * Which tags each manifest has to this rule. Without `deletion` a tag that was deleted is still on what the rule
 * selected by it; without `override` so is one that was moved, and what it was moved to does not have it.
 */
function tagsFor({ content, current, deletion, override, context }: Planning) {
  const holders = new Map<string, ContentManifest>()
  for (const manifest of content.manifests.values()) {
    for (const { name } of manifest.tags) holders.set(name, manifest)
  }
  const kept = new Map<Digest, FilteredTag[]>()
  const keptNames = new Set<string>()
  const robbed = new Set<Digest>()
  const skipped: string[] = []
  const keep = (manifest: ContentManifest, name: string) => {
    kept.set(manifest.digest, [
      ...(kept.get(manifest.digest) ?? []),
      { name, pushedAt: manifest.pushedAt },
    ])
    keptNames.add(name)
  }
  for (const { digest, tags, stopped } of current) {
    const manifest = content.manifests.get(digest)
    if (manifest === undefined || stopped) continue
    for (const name of tags) {
      const holder = holders.get(name)
      if (holder === undefined && !deletion) keep(manifest, name)
      if (holder === undefined || holder === manifest || override || keptNames.has(name)) continue
      keep(manifest, name)
      robbed.add(holder.digest)
      if (context.moved?.has(name) !== false) {
        skipped.push(
          `skipped ${content.name}:${name}@${holder.digest}: the rule brought the tag as ${digest}, and override is off`,
        )
      }
    }
  }
  const tagsOf = ({ digest, tags }: ContentManifest): readonly FilteredTag[] => [
    ...tags.filter(({ name }) => !keptNames.has(name)),
    ...(kept.get(digest) ?? []),
  ]
  return { tagsOf, robbed, skipped }
}

/** What is attached to these, to what they name, and to what is attached. */
function attachedTo(digests: readonly Digest[], { manifests }: RepositoryContent) {
  const attached = new Set<Digest>()
  const bySubject = Map.groupBy(manifests.values(), ({ subject }) => subject)
  const seen = new Set<Digest>(digests)
  // A set that grows while it is walked.
  for (const digest of seen) {
    for (const child of manifests.get(digest)?.children ?? []) seen.add(child)
    for (const referrer of bySubject.get(digest) ?? []) {
      seen.add(referrer.digest)
      attached.add(referrer.digest)
    }
  }
  return attached
}

import { ApiError } from '../../shared/api/errors.ts'
import { matches, parsePattern } from '../../shared/match/doublestar.ts'
import { matchesRegex, parseRegex } from '../../shared/match/regex.ts'
import { isInRange, parseVersionRange } from '../../shared/match/version-range.ts'

/** A filter as Harbor's API has it. [harbor api/v2.0/swagger.yaml, ReplicationFilter] */
export interface FilterModel {
  readonly type: string
  readonly value?: unknown
  /** `matches`, which is meant where none is given, or `excludes`. */
  readonly decoration?: string
}

/** What a rule's filters choose: all of them must. Made by `parseFilters` alone. */
export interface Filters {
  /** `os/architecture[/variant]` of an index's children that are wanted; empty: all. No artifact is dropped for it. */
  readonly platforms: readonly string[]
  /** Of `project/repository`. */
  readonly repositoryTests: readonly Test<string>[]
  readonly artifactTests: readonly Test<FilteredArtifact>[]
  /** Of a tag's name; an untagged artifact has ''. */
  readonly tagTests: readonly Test<string>[]
  /** How many tags of each repository are left, after all else. */
  readonly newest: number | undefined
}

type Test<T> = (subject: T) => boolean

/** What an artifact is to the filter `resource`: `artifact` is all that has no name of its own. */
export type ArtifactKind = 'image' | 'chart' | 'artifact'

export interface FilteredTag {
  readonly name: string
  readonly pushedAt: Date
}

/** What the filters look at. */
export interface FilteredArtifact {
  /** `project/repository`. */
  readonly repository: string
  readonly kind: ArtifactKind
  /** Empty: untagged. */
  readonly tags: readonly FilteredTag[]
  /** Their names. */
  readonly labels: readonly string[]
}

/** How many labels, or platforms, one filter may list. */
const maxListed = 100

/**
 * Reads a rule's filters. Harbor's are `name` and `tag` (patterns of doublestar; empty: all), `label` (names, all of
 * which must be there) and `resource`; ours are `name_regex`, `tag_regex`, `semver` (a range, of tags), `newest` (how
 * many tags of each repository, the last pushed) and `platform`. Their order is of no consequence, and each may stand
 * once, or once for each decoration if it takes one. [harbor src/pkg/reg/model/policy.go, src/pkg/reg/filter]
 * @throws ApiError BAD_REQUEST naming the filter that is malformed, unknown or there twice
 */
export function parseFilters(filters: readonly FilterModel[]): Filters {
  refuseTwins(filters)
  const parts = filters.map(parseFilter)
  return {
    platforms: parts.flatMap(({ platforms }) => platforms ?? []),
    repositoryTests: parts.flatMap(({ repositoryTests }) => repositoryTests ?? []),
    artifactTests: parts.flatMap(({ artifactTests }) => artifactTests ?? []),
    tagTests: parts.flatMap(({ tagTests }) => tagTests ?? []),
    newest: parts.find(({ newest }) => newest !== undefined)?.newest,
  }
}

/** Whether anything in a repository (`project/repository`) may be selected: what `name` and `name_regex` say. */
export function selectsRepository({ repositoryTests }: Filters, repository: string): boolean {
  return repositoryTests.every((test) => test(repository))
}

/**
 * The artifacts that the filters select, in the order given, each with those of its tags that they leave; one that
 * has none left is dropped.
 * @param artifacts all of each repository: `newest` counts within what is given
 */
export function selectArtifacts<A extends FilteredArtifact>(
  filters: Filters,
  artifacts: readonly A[],
): readonly A[] {
  const selected = artifacts
    .filter(
      (artifact) =>
        selectsRepository(filters, artifact.repository) &&
        filters.artifactTests.every((test) => test(artifact)),
    )
    .flatMap((artifact) => selectTags(filters, artifact))
  return filters.newest === undefined ? selected : keepNewest(selected, filters.newest)
}

/**
 * What an artifact is to the filter `resource`.
 * @param type in Harbor's words, as the store's `Artifact.type`, which is told by its media types
 */
export function kindOf(type: string): ArtifactKind {
  if (type === 'IMAGE') return 'image'
  return type === 'CHART' ? 'chart' : 'artifact'
}

// Reading

/** What one filter adds to the whole. */
type FilterPart = Partial<Filters>

interface FilterType {
  /** Whether it may exclude what it matches. */
  readonly isDecorated: boolean
  /** @throws RangeError that says what the value must be */
  readonly parse: (value: unknown, decorate: Decorate) => FilterPart
}

/** Turns a test around if the filter excludes. */
type Decorate = <T>(test: Test<T>) => Test<T>

const filterTypes: ReadonlyMap<string, FilterType> = new Map([
  ['name', plain((value) => ({ repositoryTests: readPatterns(value) }))],
  ['name_regex', decorated((value, turn) => ({ repositoryTests: [turn(readRegex(value))] }))],
  ['tag', decorated((value, turn) => ({ tagTests: readPatterns(value).map(turn) }))],
  ['tag_regex', decorated((value, turn) => ({ tagTests: [turn(readRegex(value))] }))],
  ['semver', decorated((value, turn) => ({ tagTests: [turn(readVersionRange(value))] }))],
  ['newest', plain((value) => ({ newest: readCount(value) }))],
  ['label', decorated((value, turn) => ({ artifactTests: readLabels(value).map(turn) }))],
  ['resource', plain((value) => ({ artifactTests: [readResource(value)] }))],
  ['platform', plain((value) => ({ platforms: readPlatforms(value) }))],
])

function plain(parse: (value: unknown) => FilterPart): FilterType {
  return { isDecorated: false, parse }
}

function decorated(parse: FilterType['parse']): FilterType {
  return { isDecorated: true, parse }
}

function parseFilter({ type, value, decoration }: FilterModel): FilterPart {
  const filterType = filterTypes.get(type)
  if (filterType === undefined)
    throw refused(type, `is not known: the types are ${[...filterTypes.keys()].join(', ')}`)
  const excludes = decoration === 'excludes'
  if (!excludes && !isDefault(decoration))
    throw refused(type, 'must have the decoration matches or excludes, or none')
  if (!filterType.isDecorated && decoration !== undefined && decoration !== '')
    throw refused(type, 'takes no decoration')
  try {
    return filterType.parse(value, (test) => (excludes ? (subject) => !test(subject) : test))
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw refused(type, `cannot be read: ${error.message}`, error)
  }
}

function isDefault(decoration: string | undefined): boolean {
  return decoration === undefined || decoration === '' || decoration === 'matches'
}

function refuseTwins(filters: readonly FilterModel[]): void {
  const seen = new Set<string>()
  for (const { type, decoration } of filters) {
    const key = JSON.stringify([type, isDefault(decoration) ? 'matches' : decoration])
    if (seen.has(key))
      throw refused(type, 'is there twice: once for each decoration is all, in one pattern or list')
    seen.add(key)
  }
}

function readText(value: unknown): string {
  if (typeof value !== 'string') throw new RangeError('its value must be text')
  return value
}

function readList(value: unknown): readonly string[] {
  const isList = (given: unknown): given is readonly string[] =>
    Array.isArray(given) && given.every((entry) => typeof entry === 'string')
  if (!isList(value)) throw new RangeError('its value must be a list of texts')
  if (value.length > maxListed) throw new RangeError(`its value has more than ${maxListed} entries`)
  return value
}

/** An empty pattern tests nothing, as in Harbor. */
function readPatterns(value: unknown): readonly Test<string>[] {
  const text = readText(value)
  if (text === '') return []
  const pattern = parsePattern(text)
  return [(name) => matches(pattern, name)]
}

function readRegex(value: unknown): Test<string> {
  const regex = parseRegex(readText(value))
  return (name) => matchesRegex(regex, name)
}

function readVersionRange(value: unknown): Test<string> {
  const range = parseVersionRange(readText(value))
  return (tag) => isInRange(range, tag)
}

function readCount(value: unknown): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1)
    throw new RangeError('its value must be a whole number from 1 on')
  return value
}

/** One test, of all labels at once: what excludes them drops only what has all. An empty list tests nothing. */
function readLabels(value: unknown): readonly Test<FilteredArtifact>[] {
  const names = readList(value)
  if (names.length === 0) return []
  return [({ labels }) => names.every((name) => labels.includes(name))]
}

/** To Harbor an artifact is whatever is no image, and it has charts among them. */
function readResource(value: unknown): Test<FilteredArtifact> {
  if (value === 'artifact') return ({ kind }) => kind !== 'image'
  if (value !== 'image' && value !== 'chart')
    throw new RangeError('its value must be image, chart or artifact')
  return ({ kind }) => kind === value
}

/** [image-spec, image-index.md: platform] */
const platformGrammar = /^[a-z0-9]{1,32}\/[a-z0-9_]{1,32}(?:\/[a-z0-9.]{1,32})?$/

/**
 * Reads a list of platforms: each once, sorted.
 * @throws RangeError that says what is wrong with it
 */
export function readPlatforms(value: unknown): readonly string[] {
  const platforms = readList(value)
  const wrong = platforms.findIndex((platform) => !platformGrammar.test(platform))
  if (wrong >= 0)
    throw new RangeError(
      `entry ${wrong + 1} must be os/architecture or os/architecture/variant, like linux/amd64`,
    )
  return [...new Set(platforms)].sort()
}

function refused(type: string, what: string, cause?: unknown): ApiError {
  const name = type.length > 64 ? `${type.slice(0, 64)}…` : type
  return new ApiError('BAD_REQUEST', `the filter "${name}" ${what}`, { cause })
}

// Selecting

/** The artifact with the tags that pass, or nothing. */
function selectTags<A extends FilteredArtifact>({ tagTests }: Filters, artifact: A): readonly A[] {
  const passes = (tag: string) => tagTests.every((test) => test(tag))
  if (artifact.tags.length === 0) return passes('') ? [artifact] : []
  return withTags(
    artifact,
    artifact.tags.filter(({ name }) => passes(name)),
  )
}

/** Leaves each repository the tags that were pushed last; of those pushed at once the first by name. */
function keepNewest<A extends FilteredArtifact>(artifacts: readonly A[], count: number) {
  const byRepository = Map.groupBy(artifacts, ({ repository }) => repository)
  const kept = new Set(
    [...byRepository.values()].flatMap((ofOne) =>
      ofOne
        .flatMap(({ tags }) => tags)
        .sort(newestFirst)
        .slice(0, count),
    ),
  )
  return artifacts.flatMap((artifact) =>
    withTags(
      artifact,
      artifact.tags.filter((tag) => kept.has(tag)),
    ),
  )
}

function newestFirst(a: FilteredTag, b: FilteredTag): number {
  const later = b.pushedAt.getTime() - a.pushedAt.getTime()
  return later === 0 ? Number(a.name > b.name) - Number(a.name < b.name) : later
}

function withTags<A extends FilteredArtifact>(
  artifact: A,
  tags: readonly FilteredTag[],
): readonly A[] {
  return tags.length === 0 ? [] : [{ ...artifact, tags }]
}

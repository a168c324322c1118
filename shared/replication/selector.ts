import { matches, parsePattern, type Pattern } from '../match/doublestar.ts'
import type { EdgeSelector, RosterEdge } from './events.ts'

/** An `EdgeSelector` whose patterns have been read. Made by `parseSelector` alone. */
export interface Selector {
  /** One must match. Absent: any. */
  readonly names?: readonly Pattern[]
  readonly sites?: readonly Pattern[]
  readonly regions?: readonly Pattern[]
  /** By the label's key; all must match. */
  readonly labels: ReadonlyMap<string, Pattern>
}

/**
 * Reads which edges are selected.
 * @throws RangeError naming the list or label whose pattern is malformed, and for a list that is empty: it would
 *   select no edge, and who wrote it may have meant any
 */
export function parseSelector(given: EdgeSelector): Selector {
  return {
    ...(given.names && { names: parseList('names', given.names) }),
    ...(given.sites && { sites: parseList('sites', given.sites) }),
    ...(given.regions && { regions: parseList('regions', given.regions) }),
    labels: new Map(
      Object.entries(given.labels ?? {}).map(([key, pattern]) => [
        key,
        parseNamed(`labels.${key}`, pattern),
      ]),
    ),
  }
}

/** Whether every condition selects an edge: a selector without any selects all. Suspended edges are like others. */
export function selects(selector: Selector, edge: RosterEdge): boolean {
  return (
    oneMatches(selector.names, edge.name) &&
    oneMatches(selector.sites, edge.site) &&
    oneMatches(selector.regions, edge.region) &&
    [...selector.labels].every(([key, pattern]) => hasLabel(edge, { key, pattern }))
  )
}

function parseList(where: string, patterns: readonly string[]): readonly Pattern[] {
  if (patterns.length === 0) throw new RangeError(`${where} is empty: leave it out for any`)
  return patterns.map((pattern, index) => parseNamed(`${where}[${index}]`, pattern))
}

function parseNamed(where: string, pattern: string): Pattern {
  try {
    return parsePattern(pattern)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw new RangeError(`${where}: ${error.message}`, { cause: error })
  }
}

function oneMatches(patterns: readonly Pattern[] | undefined, text: string): boolean {
  return patterns === undefined || patterns.some((pattern) => matches(pattern, text))
}

function hasLabel(
  { labels }: RosterEdge,
  { key, pattern }: { readonly key: string; readonly pattern: Pattern },
): boolean {
  const value = Object.hasOwn(labels, key) ? labels[key] : undefined
  return value !== undefined && matches(pattern, value)
}

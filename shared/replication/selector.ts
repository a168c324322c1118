import type { EdgeSelector, RosterEdge } from './events.ts'

/** An `EdgeSelector` whose patterns have been read. */
export interface Selector {
  readonly names: readonly string[]
}

/**
 * Reads what selects edges.
 * @throws RangeError naming the list or label whose pattern is malformed
 */
export function parseSelector(given: EdgeSelector): Selector {
  return { names: given.names ?? [] }
}

/**
 * Whether an edge is one of those: every condition that is there selects it, and none is there for a selector that
 * is empty. A suspended edge is selected like any other.
 */
export function selects(selector: Selector, edge: RosterEdge): boolean {
  return selector.names.length === 0 || selector.names.includes(edge.name)
}

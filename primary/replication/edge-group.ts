import { ApiError } from '../../shared/api/errors.ts'
import type { EdgeSelector } from '../../shared/replication/events.ts'
import { parseSelector, selects } from '../../shared/replication/selector.ts'
import type { RosterMember } from '../store/roster.ts'

/** The one type of destination that rules have here. */
export const edgeGroupType = 'outport-edges'

/** The edges that a selector chooses, in the order given. */
export function membersOf(
  selector: EdgeSelector,
  edges: readonly RosterMember[],
): readonly RosterMember[] {
  const parsed = parseSelector(selector)
  return edges.filter((edge) => selects(parsed, edge))
}

/** @throws ApiError BAD_REQUEST when a list is empty or a pattern malformed */
export function checkSelector(selector: EdgeSelector): void {
  try {
    parseSelector(selector)
  } catch (error) {
    if (!(error instanceof RangeError)) throw error
    throw new ApiError('BAD_REQUEST', `selector.${error.message}`, { cause: error })
  }
}

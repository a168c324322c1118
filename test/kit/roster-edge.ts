import type { RosterEdge } from '../../shared/replication/events.ts'

/** An edge that may read everything, and is nowhere in particular. */
export function createRosterEdge({
  edgeId = 'one',
  ...rest
}: Partial<RosterEdge> = {}): RosterEdge {
  return {
    edgeId,
    name: edgeId,
    site: '',
    region: '',
    labels: {},
    scope: '*',
    suspended: false,
    ...rest,
  }
}

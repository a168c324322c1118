import { OciError } from '../../shared/oci/errors.ts'
import { projectOf } from '../../shared/oci/reference.ts'
import { covers, type RosterEdge } from '../../shared/replication/events.ts'
import { createEdgeReader } from '../../shared/trust/edge-certificate.ts'
import type { Authorise, EdgeCaller, PullTarget } from '../access/authorise.ts'
import type { Statements } from '../cache/statements.ts'
import { onlyIfCached, readPart, readVia } from '../sources/hops.ts'

export interface PeerAccessDeps {
  readonly edgeId: string
  /** Whether edges of other sites, whose parent this one is, may have something too. */
  readonly takesChildren: boolean
  /** The primary's id in the table of upstreams. */
  readonly upstream: string
  readonly statements: Pick<
    Statements,
    'edge' | 'project' | 'projectIdOf' | 'repositoryId' | 'isGone'
  >
  /** Whether this edge knows all that the primary has said: it holds a lease. */
  readonly isFresh: () => boolean
  /** Whether an upstream's content may be read by everybody who reaches a listener. */
  readonly isOpen: (upstream: string) => boolean
}

/**
 * What other edges may have from this one: by their certificates, and by what the primary's roster says that they may
 * read. Out of scope is unknown, and so is what not everybody may read while this edge is cut off: whether the other one
 * was suspended, or may not read it any more, it could not hear. That one asks its next source. Only what a digest proves: where tags point is never a peer's to say (DESIGN §6).
 */
export function createPeerAccess({
  edgeId,
  takesChildren,
  upstream,
  statements,
  isFresh,
  isOpen,
}: PeerAccessDeps): Authorise {
  const certifiedBy = createEdgeReader()
  const isNeighbour = ({ site }: RosterEdge): boolean =>
    site !== '' && site === statements.edge(edgeId)?.site
  const edgeOf = ({ connection }: Pick<EdgeCaller, 'connection'>): RosterEdge => {
    const known = connection && certifiedBy(connection)
    const edge = known && statements.edge(known.edgeId)
    if (edge === undefined || edge.suspended)
      throw new OciError('DENIED', 'this certificate is of no edge that the primary lists')
    if (!takesChildren && !isNeighbour(edge))
      throw new OciError(
        'DENIED',
        'this edge gives nothing to edges of other sites: its edge.peers.children would allow it',
      )
    return edge
  }
  return {
    isOpen,
    ping: (caller) => Promise.resolve(edgeOf(caller)).then(() => undefined),
    known: () => undefined,
    pull(caller, target) {
      const edge = edgeOf(caller)
      const { scope } = edge
      refuseNames(target)
      const via = readVia(caller.via, { asker: edge.edgeId, me: edgeId })
      const onlyHeld = caller.cacheControl?.includes(onlyIfCached) === true
      const part = readPart(caller.part)
      const hop = {
        via,
        isSideways: isNeighbour(edge),
        onlyHeld: onlyHeld && part?.isFetched !== true,
        ...(part !== undefined && { part: part.piece }),
      }
      const { entry, repository } = target
      if (entry.id !== upstream) {
        if (isOpen(entry.id)) return Promise.resolve({ hop })
        throw unknown()
      }
      const project = statements.projectIdOf(projectOf(repository))
      const isKnown =
        project !== undefined &&
        covers(scope, project) &&
        !statements.isGone(project) &&
        (statements.project(project)?.public === true || isFresh()) &&
        statements.repositoryId(project, repository) !== undefined
      if (!isKnown) throw unknown()
      return Promise.resolve({ project, hop })
    },
  }
}

function refuseNames({ path }: PullTarget): void {
  const isProved =
    path.kind === 'blob' || (path.kind === 'manifest' && path.reference?.kind === 'digest')
  if (!isProved)
    throw new OciError('UNSUPPORTED', 'an edge gives another one only what a digest proves', {
      status: 404,
    })
}

function unknown(): OciError {
  return new OciError('NAME_UNKNOWN', 'there is no such repository')
}

import type { IncomingMessage } from 'node:http'
import { ApiError } from '../../shared/api/errors.ts'
import type { RosterEdge } from '../../shared/replication/events.ts'
import { createEdgeReader } from '../../shared/trust/edge-certificate.ts'

export interface IdentifyDeps {
  /** The edge of this id if this is its key and it may read now. @param publicKey SPKI PEM */
  readonly findEdge: (id: string, publicKey: string) => Promise<RosterEdge | undefined>
}

/** Which edge is at the other end of a connection. @throws ApiError FORBIDDEN when it is none that may read now */
export type Identify = (request: Pick<IncomingMessage, 'socket'>) => Promise<RosterEdge>

/** Who shows which certificate: the name in it must be an edge of the roster, and the key that edge's. */
export function createIdentify({ findEdge }: IdentifyDeps): Identify {
  const edgeOf = createEdgeReader()
  return async ({ socket }) => {
    const known = edgeOf(socket)
    const edge = known && (await findEdge(known.edgeId, known.publicKey))
    if (edge === undefined)
      throw new ApiError(
        'FORBIDDEN',
        'this certificate is of no edge that may read: it was revoked or suspended, or joined anew',
      )
    return edge
  }
}

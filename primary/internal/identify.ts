import type { IncomingMessage } from 'node:http'
import type { TLSSocket } from 'node:tls'
import { ApiError } from '../../shared/api/errors.ts'
import type { RosterEdge } from '../../shared/replication/events.ts'
import { edgeOfCertificate } from '../../shared/trust/pki.ts'

export interface IdentifyDeps {
  /** The edge of this id if this is its key and it may read now. @param publicKey SPKI PEM */
  readonly findEdge: (id: string, publicKey: string) => Promise<RosterEdge | undefined>
}

/** Which edge sends a request. @throws ApiError FORBIDDEN when it is none that may read now */
export type Identify = (request: IncomingMessage) => Promise<RosterEdge>

/** Who shows which certificate: the name in it must be an edge of the roster, and the key that edge's. */
export function createIdentify({ findEdge }: IdentifyDeps): Identify {
  const shown = new WeakMap<object, ReturnType<typeof edgeOfCertificate>>()
  return async ({ socket }) => {
    if (!shown.has(socket)) shown.set(socket, certified(socket as Partial<TLSSocket>))
    const known = shown.get(socket)
    const edge = known && (await findEdge(known.edgeId, known.publicKey))
    if (edge === undefined)
      throw new ApiError(
        'FORBIDDEN',
        'this certificate is of no edge that may read: it was revoked or suspended, or joined anew',
      )
    return edge
  }
}

function certified(socket: Partial<TLSSocket>): ReturnType<typeof edgeOfCertificate> {
  const certificate = socket.authorized === true ? socket.getPeerX509Certificate?.() : undefined
  return certificate && edgeOfCertificate(certificate)
}

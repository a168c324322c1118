import type { X509Certificate } from 'node:crypto'
import type { TLSSocket } from 'node:tls'

/** What stands in an edge's certificate, and is compared with the roster: never a host name that somebody could own. */
export function edgeCertificateName(edgeId: string): string {
  return `${edgeId}.edge.outport.internal`
}

export interface CertifiedEdge {
  readonly edgeId: string
  /** SPKI PEM. */
  readonly publicKey: string
}

/** Which edge a certificate says that it is of, and by which key. Undefined when it is no edge's. */
function edgeOfCertificate(certificate: X509Certificate): CertifiedEdge | undefined {
  const [, edgeId] =
    /^DNS:([a-z0-9-]{1,63})\.edge\.outport\.internal$/.exec(certificate.subjectAltName ?? '') ?? []
  if (edgeId === undefined) return undefined
  const publicKey = certificate.publicKey.export({ type: 'spki', format: 'pem' }).toString()
  return { edgeId, publicKey }
}

/**
 * Makes what tells which edge a connection is of: by the certificate that it showed, read once for each connection.
 * @returns a function that takes a connection's socket; undefined for one that showed no trusted certificate of an edge
 */
export function createEdgeReader(): (socket: object) => CertifiedEdge | undefined {
  const read = new WeakMap<object, { readonly edge: CertifiedEdge | undefined }>()
  return (socket) => {
    const known = read.get(socket)
    if (known !== undefined) return known.edge
    const { authorized, getPeerX509Certificate } = socket as Partial<TLSSocket>
    const certificate = authorized === true ? getPeerX509Certificate?.call(socket) : undefined
    const edge = certificate && edgeOfCertificate(certificate)
    read.set(socket, { edge })
    return edge
  }
}

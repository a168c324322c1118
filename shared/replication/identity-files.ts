/** The files in which an edge keeps who it is, in a folder that nobody else may read. */
export const identityFiles = {
  edge: 'edge.json',
  key: 'key.pem',
  credential: 'credential',
  certificate: 'certificate.pem',
  edgeCa: 'edge-ca.pem',
  trust: 'trust.json',
  primaryCa: 'primary-ca.pem',
} as const

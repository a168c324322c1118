import { generateKeyPairSync } from 'node:crypto'
import forge from 'node-forge'

/** A certificate and its key as PEM. */
export interface TestCertificate {
  readonly cert: string
  readonly key: string
}

export interface CertificateOptions {
  /** DNS names and IP addresses of the SAN; none at all leaves the extension out. */
  readonly names?: readonly string[]
  readonly commonName?: string
  readonly notBefore?: Date
  readonly notAfter?: Date
  /** Who signs it; itself if left out. */
  readonly issuer?: TestCertificate
  readonly isCa?: boolean
}

const hourMs = 3_600_000

/** Makes a certificate with an RSA key of its own, valid from an hour ago for a day. */
export function makeCertificate({
  names = ['localhost', '127.0.0.1'],
  commonName = 'test',
  notBefore = new Date(Date.now() - hourMs),
  notAfter = new Date(Date.now() + 24 * hourMs),
  issuer,
  isCa = false,
}: CertificateOptions = {}): TestCertificate {
  // Node's generator takes a tenth of the time of forge's.
  const { privateKey, publicKey } = generateKeyPairSync('rsa', {
    modulusLength: 2048,
    publicKeyEncoding: { type: 'spki', format: 'pem' },
    privateKeyEncoding: { type: 'pkcs8', format: 'pem' },
  })
  const certificate = forge.pki.createCertificate()
  certificate.publicKey = forge.pki.publicKeyFromPem(publicKey)
  certificate.serialNumber = `01${forge.util.bytesToHex(forge.random.getBytesSync(8))}`
  certificate.validity.notBefore = notBefore
  certificate.validity.notAfter = notAfter
  const subject = [{ name: 'commonName', value: commonName }]
  certificate.setSubject(subject)
  certificate.setIssuer(
    issuer === undefined ? subject : forge.pki.certificateFromPem(issuer.cert).subject.attributes,
  )
  certificate.setExtensions([
    { name: 'basicConstraints', cA: isCa, critical: true },
    ...(names.length === 0 ? [] : [{ name: 'subjectAltName', altNames: names.map(altName) }]),
  ])
  certificate.sign(forge.pki.privateKeyFromPem(issuer?.key ?? privateKey), forge.md.sha256.create())
  return { cert: forge.pki.certificateToPem(certificate), key: privateKey }
}

function altName(name: string): object {
  return /^[\d.]+$/.test(name) ? { type: 7, ip: name } : { type: 2, value: name }
}

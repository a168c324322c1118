import {
  constants,
  createPrivateKey,
  createPublicKey,
  generateKeyPair,
  privateEncrypt,
  randomBytes,
  type KeyObject,
} from 'node:crypto'
import { createRequire } from 'node:module'
import { promisify } from 'node:util'
import type forge from 'node-forge'
import { edgeCertificateName } from './edge-certificate.ts'
import type { CertificateNames } from './names.ts'

// node-forge builds; node:crypto makes the keys (its own are ten times slower), signs (forty times) and reads what
// others made. It knows RSA alone, and it must never parse what came over a network.

const load = createRequire(import.meta.url)

/** Loaded when something is built, which most starts do not. */
const builder = (): typeof forge => load('node-forge') as typeof forge

const generateRsaKey = promisify(generateKeyPair)

const caBits = 3072
const serverBits = 2048
const hourMs = 3_600_000
const dayMs = 24 * hourMs
const caDays = 10 * 365
const edgeDays = 90
// Apple's limit, the strictest that clients put on certificates of private CAs too.
const serverDays = 398

/** A certificate and its private key, both PEM; the key is PKCS#8. */
export interface PemPair {
  readonly cert: string
  readonly key: string
}

/**
 * Makes a CA, for servers or for edges, valid ten years from one hour before `now`: clocks that are slow must work.
 * @param commonName shown by tools that list trusted CAs; a random suffix keeps two of them apart
 */
export async function createCa(commonName: string, now: Date): Promise<PemPair> {
  const key = await createKey(caBits)
  const cert = startCertificate({ publicKey: publicKeyOf(key), days: caDays, now })
  const subject = [...organisation, commonNameOf(`${commonName} ${randomBytes(4).toString('hex')}`)]
  cert.setSubject(subject)
  cert.setIssuer(subject)
  cert.setExtensions([
    { name: 'basicConstraints', cA: true, pathLenConstraint: 0, critical: true },
    { name: 'keyUsage', keyCertSign: true, cRLSign: true, critical: true },
    { name: 'subjectKeyIdentifier' },
    { name: 'authorityKeyIdentifier', keyIdentifier: true },
  ])
  return sign(cert, key, key)
}

/**
 * Issues a server certificate for the names, valid 398 days from one hour before `now` (or until the CA
 * ends). `cert` is the full chain: the certificate, then the CA's.
 * @throws RangeError when the CA's key is not RSA or is not its own
 */
export async function issueServerCertificate(
  ca: PemPair,
  { names, now }: { readonly names: CertificateNames; readonly now: Date },
): Promise<PemPair> {
  const issuer = builder().pki.certificateFromPem(ca.cert)
  const issuerKey = rsaKey(ca.key)
  const key = await createKey(serverBits)
  const cert = startCertificate({ publicKey: publicKeyOf(key), days: serverDays, now })
  if (cert.validity.notAfter > issuer.validity.notAfter) {
    cert.validity.notAfter = issuer.validity.notAfter
  }
  cert.setSubject(serverSubject(names))
  cert.setIssuer(issuer.subject.attributes)
  cert.setExtensions([
    { name: 'basicConstraints', cA: false, critical: true },
    { name: 'keyUsage', digitalSignature: true, keyEncipherment: true, critical: true },
    { name: 'extKeyUsage', serverAuth: true },
    subjectAltName(names),
    { name: 'subjectKeyIdentifier' },
    { name: 'authorityKeyIdentifier', keyIdentifier: keyIdentifierOf(issuer) },
  ])
  const pair = sign(cert, key, issuerKey)
  return { cert: pair.cert + ca.cert.trimEnd() + '\n', key: pair.key }
}

/**
 * Certifies an edge's own key, for 90 days from one hour before `now`, to be shown as a client and as a peer's server.
 * @param publicKey RSA, SPKI PEM
 * @throws RangeError when the CA's key is not RSA
 */
export function issueEdgeCertificate(
  ca: PemPair,
  {
    edgeId,
    publicKey,
    now,
  }: { readonly edgeId: string; readonly publicKey: string; readonly now: Date },
): string {
  const issuer = builder().pki.certificateFromPem(ca.cert)
  const cert = startCertificate({ publicKey: publicKeyOf(publicKey), days: edgeDays, now })
  cert.setSubject([...organisation, commonNameOf(edgeId)])
  cert.setIssuer(issuer.subject.attributes)
  cert.setExtensions([
    { name: 'basicConstraints', cA: false, critical: true },
    { name: 'keyUsage', digitalSignature: true, keyEncipherment: true, critical: true },
    { name: 'extKeyUsage', clientAuth: true, serverAuth: true },
    subjectAltName({ dnsNames: [edgeCertificateName(edgeId)], ipAddresses: [] }),
    { name: 'subjectKeyIdentifier' },
    { name: 'authorityKeyIdentifier', keyIdentifier: keyIdentifierOf(issuer) },
  ])
  cert.sign(signerOf(rsaKey(ca.key)), builder().md.sha256.create())
  return toUnixLines(builder().pki.certificateToPem(cert))
}

/** A key, and a request (PKCS#10) for a server certificate that somebody else's CA will sign. */
export async function createServerRequest(
  names: CertificateNames,
): Promise<{ readonly request: string; readonly key: string }> {
  const key = await createKey(serverBits)
  const request = builder().pki.createCertificationRequest()
  request.publicKey = publicKeyOf(key)
  request.setSubject(serverSubject(names))
  request.setAttributes([{ name: 'extensionRequest', extensions: [subjectAltName(names)] }])
  request.sign(signerOf(key), builder().md.sha256.create())
  return {
    request: toUnixLines(builder().pki.certificationRequestToPem(request)),
    key: pkcs8(key),
  }
}

const organisation = [field('O', 'Outport')]

async function createKey(modulusLength: number): Promise<KeyObject> {
  const { privateKey } = await generateRsaKey('rsa', { modulusLength })
  return privateKey
}

function rsaKey(pem: string): KeyObject {
  const key = createPrivateKey(pem)
  if (key.asymmetricKeyType !== 'rsa') {
    throw new RangeError(
      `the CA's key is ${key.asymmetricKeyType ?? 'unknown'}, and only an RSA key can issue here: use 'outport certs csr' and that CA's own tool`,
    )
  }
  return key
}

/** What stands before a SHA-256 in a signature: which hash it is. [RFC 8017 §9.2, note 1] */
const sha256Info = Buffer.from('3031300d060960864801650304020105000420', 'hex')

/** A key as node-forge asks it to sign what it has hashed. [RFC 8017 §8.2, RSASSA-PKCS1-v1_5] */
function signerOf(key: KeyObject): forge.pki.rsa.PrivateKey {
  const sign = (md: forge.md.MessageDigest): string => {
    const hash = Buffer.from(md.digest().toHex(), 'hex')
    const padding = constants.RSA_PKCS1_PADDING
    return privateEncrypt({ key, padding }, Buffer.concat([sha256Info, hash])).toString('binary')
  }
  // Of the others none is called.
  return { sign } as unknown as forge.pki.rsa.PrivateKey
}

/** @param key private, or a public one's PEM: read by node:crypto, since it came over a network; forge gets its two numbers */
function publicKeyOf(key: KeyObject | string): forge.pki.rsa.PublicKey {
  const { n, e } = createPublicKey(key).export({ format: 'jwk' })
  return builder().pki.setRsaPublicKey(bigInteger(n), bigInteger(e))
}

function bigInteger(base64url: string | undefined): forge.jsbn.BigInteger {
  if (base64url === undefined) throw new RangeError('the key is not RSA')
  return new (builder().jsbn.BigInteger)(Buffer.from(base64url, 'base64url').toString('hex'), 16)
}

function startCertificate({
  publicKey,
  days,
  now,
}: {
  readonly publicKey: forge.pki.rsa.PublicKey
  readonly days: number
  readonly now: Date
}): forge.pki.Certificate {
  const cert = builder().pki.createCertificate()
  cert.publicKey = publicKey
  cert.serialNumber = createSerialNumber()
  const start = now.getTime() - hourMs
  cert.validity.notBefore = new Date(start)
  cert.validity.notAfter = new Date(start + days * dayMs)
  return cert
}

/** 16 random bytes that are a positive, minimal DER integer: Go refuses others. [RFC 5280 §4.1.2.2] */
function createSerialNumber(): string {
  const bytes = randomBytes(16)
  bytes.writeUInt8((bytes.readUInt8(0) & 0x3f) | 0x40, 0)
  return bytes.toString('hex')
}

/** The first name, if it fits the 64 characters of a common name; clients look at the SAN alone. [RFC 5280 ub-common-name] */
function serverSubject({ dnsNames, ipAddresses }: CertificateNames): forge.pki.CertificateField[] {
  const first = dnsNames[0] ?? ipAddresses[0]
  return first === undefined || first.length > 64
    ? organisation
    : [...organisation, commonNameOf(first)]
}

function commonNameOf(value: string): forge.pki.CertificateField {
  return field('CN', value)
}

function field(shortName: string, value: string): forge.pki.CertificateField {
  // The types want a Class here; the code writes the value with this as its ASN.1 type.
  return {
    shortName,
    value,
    valueTagClass: builder().asn1.Type.UTF8 as unknown as forge.asn1.Class,
  }
}

function subjectAltName({ dnsNames, ipAddresses }: CertificateNames): object {
  return {
    name: 'subjectAltName',
    altNames: [
      ...dnsNames.map((value) => ({ type: 2, value })),
      ...ipAddresses.map((ip) => ({ type: 7, ip })),
    ],
  }
}

function keyIdentifierOf(issuer: forge.pki.Certificate): string {
  const extension = issuer.getExtension('subjectKeyIdentifier') as
    { readonly subjectKeyIdentifier: string } | undefined
  return extension === undefined
    ? issuer.generateSubjectKeyIdentifier().getBytes()
    : builder().util.hexToBytes(extension.subjectKeyIdentifier)
}

function sign(cert: forge.pki.Certificate, key: KeyObject, issuerKey: KeyObject): PemPair {
  cert.sign(signerOf(issuerKey), builder().md.sha256.create())
  return { cert: toUnixLines(builder().pki.certificateToPem(cert)), key: pkcs8(key) }
}

function pkcs8(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }).toString()
}

function toUnixLines(pem: string): string {
  return pem.replaceAll('\r\n', '\n')
}

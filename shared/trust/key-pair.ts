import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto'
import { isIP } from 'node:net'
import { parseIpAddress, type CertificateNames } from './names.ts'

/** A certificate or key that cannot be used; the message says in one line why and what to do. */
export class KeyPairError extends Error {
  override readonly name = 'KeyPairError'
}

/** A PEM text, and what messages call it: its path. */
export interface PemText {
  readonly name: string
  readonly pem: string
}

/**
 * Checks that a certificate and a key can be read and belong together.
 * @throws KeyPairError when they do not, or either is something else, broken or encrypted
 */
export function checkKeyPair(cert: PemText, key: PemText): void {
  if (parseCertificate(cert).checkPrivateKey(parseKey(key))) return
  throw new KeyPairError(
    `${key.name} is not the key of ${cert.name}: give the key that the certificate was issued for`,
  )
}

/** The names of a certificate's SAN; empty lists when it has none. */
export function sanOf(certificate: X509Certificate): CertificateNames {
  const dnsNames: string[] = []
  const ipAddresses: string[] = []
  for (const [, kind, value] of (certificate.subjectAltName ?? '').matchAll(sanEntry)) {
    const name = unquote(value ?? '')
    if (kind === 'DNS') dnsNames.push(name)
    // Node writes an address of a wrong length as words.
    if (kind === 'IP Address' && isIP(name) !== 0) ipAddresses.push(parseIpAddress(name))
  }
  return { dnsNames, ipAddresses }
}

// Node quotes, as JSON, a value that holds a separator: nothing in a name can pass for another name.
const sanEntry = /(?:^|, )([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^,]*)/g

function unquote(value: string): string {
  return value.startsWith('"') ? String(JSON.parse(value)) : value
}

/**
 * The first certificate of a PEM text.
 * @throws KeyPairError when there is none
 */
export function parseCertificate({ name, pem }: PemText): X509Certificate {
  if (!pem.includes('-----BEGIN CERTIFICATE-----')) {
    throw new KeyPairError(`${name} holds no certificate: ${describeContent(pem)}`)
  }
  try {
    return new X509Certificate(pem)
  } catch (cause) {
    throw new KeyPairError(`${name} holds a broken certificate: write it anew`, { cause })
  }
}

function parseKey({ name, pem }: PemText): KeyObject {
  if (/-----BEGIN ENCRYPTED|^Proc-Type: 4,ENCRYPTED/m.test(pem)) {
    throw new KeyPairError(
      `${name} is encrypted: decrypt it ('openssl pkey -in ${name} -out FILE') and keep the file at mode 0600`,
    )
  }
  if (!/-----BEGIN (?:RSA |EC )?PRIVATE KEY-----/.test(pem)) {
    throw new KeyPairError(`${name} holds no private key: ${describeContent(pem)}`)
  }
  try {
    return createPrivateKey(pem)
  } catch (cause) {
    throw new KeyPairError(`${name} holds a broken private key: write it anew`, { cause })
  }
}

function describeContent(pem: string): string {
  const label = /-----BEGIN ([A-Z0-9 ]{1,40})-----/.exec(pem)?.[1]
  if (label !== undefined) return `it holds a '${label}'`
  return pem.trim() === '' ? 'it is empty' : "it is not PEM ('-----BEGIN …')"
}

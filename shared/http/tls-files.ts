import { createPrivateKey, X509Certificate, type KeyObject } from 'node:crypto'
import { readTextFile } from '../files/text-file.ts'

/** The files of a certificate. */
export interface TlsFiles {
  /** PEM: the certificate, then its intermediates. */
  readonly cert: string
  /** PEM: its private key. */
  readonly key: string
}

/** A listener's certificate and key that belong together, as PEM. */
export interface TlsPair {
  readonly cert: string
  readonly key: string
  readonly validTo: Date
}

/** The files of a certificate cannot be used; the message says in one line why, and what would do. */
export class TlsFilesError extends Error {
  override readonly name = 'TlsFilesError'
  /** Which of the two is wrong. */
  readonly file: keyof TlsFiles

  constructor(file: keyof TlsFiles, message: string, options?: ErrorOptions) {
    super(message, options)
    this.file = file
  }
}

const certificateBlock = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/g

/**
 * Reads a certificate and its key, and checks what clients would refuse later with a message that helps nobody: that
 * they belong together, that the certificate names hosts (SAN; a common name does not count), and its dates.
 * @throws TlsFilesError
 */
export async function readTlsFiles(
  files: TlsFiles,
  { now = new Date() }: { readonly now?: Date } = {},
): Promise<TlsPair> {
  const { cert, key, leaf } = await readPair(files, 'server')
  if (leaf.subjectAltName === undefined) {
    throw new TlsFilesError(
      'cert',
      `${files.cert}: the certificate has no SAN (subjectAltName): clients do not look at its common name; issue it with DNS: or IP: entries`,
    )
  }
  return { cert, key, validTo: validUntil(leaf, files, now) }
}

/**
 * Reads the certificate that a client shows and its key, as PEM, and checks that they belong together and its dates.
 * @throws TlsFilesError
 */
export async function readClientCertificate(
  files: TlsFiles,
  { now = new Date() }: { readonly now?: Date } = {},
): Promise<TlsFiles> {
  const { cert, key, leaf } = await readPair(files, 'client')
  validUntil(leaf, files, now)
  return { cert, key }
}

async function readPair(files: TlsFiles, whose: 'server' | 'client') {
  const cert = await readPem(files, 'cert')
  const key = await readPem(files, 'key')
  const chain = parseChain(cert, files.cert)
  const [leaf] = chain
  const privateKey = parseKey(key, files.key)
  if (!leaf.checkPrivateKey(privateKey)) {
    const isLater = chain.slice(1).some((other) => other.checkPrivateKey(privateKey))
    throw new TlsFilesError(
      isLater ? 'cert' : 'key',
      isLater
        ? `${files.cert}: the ${whose}'s certificate must come first in the file, before the CAs'`
        : `${files.key} is not the key of the certificate in ${files.cert}`,
    )
  }
  return { cert, key, leaf }
}

/** @throws TlsFilesError when it is over */
function validUntil(leaf: X509Certificate, { cert }: TlsFiles, now: Date): Date {
  const validTo = leaf.validToDate
  if (validTo >= now) return validTo
  throw new TlsFilesError('cert', `${cert}: the certificate expired on ${validTo.toISOString()}`)
}

async function readPem(files: TlsFiles, file: keyof TlsFiles): Promise<string> {
  try {
    return await readTextFile(files[file])
  } catch (cause) {
    // Its message says all that the system said; a chain of causes would say it again.
    throw new TlsFilesError(file, cause instanceof Error ? cause.message : String(cause))
  }
}

function parseChain(text: string, path: string): readonly [X509Certificate, ...X509Certificate[]] {
  const blocks = text.match(certificateBlock) ?? []
  try {
    const [leaf, ...rest] = blocks.map((block) => new X509Certificate(block))
    if (leaf !== undefined) return [leaf, ...rest]
  } catch (cause) {
    throw new TlsFilesError('cert', `${path} holds a broken certificate`, { cause })
  }
  throw new TlsFilesError(
    'cert',
    `${path} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)`,
  )
}

function parseKey(text: string, path: string): KeyObject {
  if (/-----BEGIN ENCRYPTED|^Proc-Type: 4,ENCRYPTED/m.test(text)) {
    throw new TlsFilesError(
      'key',
      `${path} is encrypted: give the key without a passphrase, in a file of mode 0600`,
    )
  }
  try {
    return createPrivateKey(text)
  } catch (cause) {
    throw new TlsFilesError('key', `${path} holds no private key in PEM form`, { cause })
  }
}

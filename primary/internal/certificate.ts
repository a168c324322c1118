import { X509Certificate } from 'node:crypto'
import { join } from 'node:path'
import { writeFileAtomic } from '../../shared/files/atomic-write.ts'
import { makePrivateFolder } from '../../shared/files/folder.ts'
import { readSmallFile } from '../../shared/files/read-file.ts'
import { checkKeyPair } from '../../shared/trust/key-pair.ts'
import type { CertificateNames } from '../../shared/trust/names.ts'
import { issueServerCertificate, type PemPair } from '../../shared/trust/pki.ts'

export interface KeptCertificateDeps {
  /** Where it lies between two starts: making one takes half a second. */
  readonly folder: string
  readonly names: CertificateNames
  readonly now: () => Date
}

/** Of its 398 days, so many must be left. */
const leastMs = 265 * 86_400_000

/** The internal listener's certificate of this CA: the one from before where it still serves, else a new one. */
export async function keptCertificate(
  ca: PemPair,
  { folder, names, now }: KeptCertificateDeps,
): Promise<PemPair> {
  const path = (file: string) => join(folder, file)
  const text = async (file: string) => (await readSmallFile(path(file)))?.toString('utf8')
  const [cert, key] = [await text('certificate.pem'), await text('key.pem')]
  if (cert !== undefined && key !== undefined && serves({ cert, key }, { ca, names, now }))
    return { cert, key }
  const made = await issueServerCertificate(ca, { names, now: now() })
  await makePrivateFolder(folder)
  await writeFileAtomic(path('key.pem'), made.key, { mode: 0o600 })
  await writeFileAtomic(path('certificate.pem'), made.cert)
  return made
}

function serves(
  { cert, key }: PemPair,
  {
    ca,
    names,
    now,
  }: { readonly ca: PemPair; readonly names: CertificateNames; readonly now: () => Date },
): boolean {
  try {
    const certificate = new X509Certificate(cert)
    const issuer = new X509Certificate(ca.cert)
    checkKeyPair({ name: 'certificate.pem', pem: cert }, { name: 'key.pem', pem: key })
    return (
      certificate.verify(issuer.publicKey) &&
      certificate.validToDate.getTime() - now().getTime() > leastMs &&
      names.dnsNames.every((name) => certificate.checkHost(name) !== undefined) &&
      names.ipAddresses.every((ip) => certificate.checkIP(ip) !== undefined)
    )
  } catch {
    // Half-written, or somebody else's.
    return false
  }
}

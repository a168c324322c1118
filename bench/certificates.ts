import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createCa, issueServerCertificate } from '../shared/trust/pki.ts'
import type { TlsFiles } from './peers.ts'

/** A CA and a certificate for 127.0.0.1, for all servers of a bench. */
export async function makeTlsFiles(folder: string): Promise<TlsFiles> {
  const now = new Date()
  const ca = await createCa('bench', now)
  const names = { dnsNames: ['localhost'], ipAddresses: ['127.0.0.1'] }
  const pair = await issueServerCertificate(ca, { names, now })
  const files = { cert: join(folder, 'cert.pem'), key: join(folder, 'key.pem'), ca: ca.cert }
  await mkdir(folder, { recursive: true })
  await writeFile(files.cert, pair.cert)
  await writeFile(files.key, pair.key, { mode: 0o600 })
  return files
}

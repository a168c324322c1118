import { join } from 'node:path'
import type { ClientFile } from './files.ts'

/** The CA where docker and podman look for it: a copy for each host. [docker docs, certs.d; containers-certs.d(5)] */
export function caFiles(
  ca: string | undefined,
  hosts: readonly string[],
  folder: string,
): readonly ClientFile[] {
  if (ca === undefined) return []
  return hosts.map((host) => ({ path: join(folder, host, 'ca.crt'), merge: () => ca }))
}

import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'

/** Makes a folder that nobody else may read, with those above it. */
export async function makePrivateFolder(path: string): Promise<void> {
  await mkdir(path, { recursive: true, mode: 0o700 })
}

/** Whether there is anything of this name. */
export function isThere(path: string): boolean {
  return existsSync(path)
}

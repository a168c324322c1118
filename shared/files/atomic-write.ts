import { randomUUID } from 'node:crypto'
import { open, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'

/**
 * Writes a whole file so that after a crash at any moment there is the old one or the new one: temporary name in
 * the same folder, sync, rename, folder sync.
 * @param options.mode of a new file; that of secrets is 0o600
 * @throws the system's error, with `code` and `path`; the old file is untouched then
 */
export async function writeFileAtomic(
  path: string,
  content: Buffer | string,
  { mode = 0o644 }: { readonly mode?: number } = {},
): Promise<void> {
  const folder = dirname(path)
  const temporary = join(folder, `.${basename(path)}.${randomUUID()}.tmp`)
  try {
    await writeSynced(temporary, content, mode)
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw error
  }
  await syncFolder(folder)
}

async function writeSynced(path: string, content: Buffer | string, mode: number): Promise<void> {
  const file = await open(path, 'wx', mode)
  try {
    await file.writeFile(content)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** Makes renames and new names in a folder durable. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

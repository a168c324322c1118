import { createPrivateKey, generateKeyPair, type KeyObject } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { syncFolder, writeFileAtomic } from '../shared/files/atomic-write.ts'
import { readSmallFile } from '../shared/files/read-file.ts'
import { identityFiles } from '../shared/replication/identity-files.ts'
import { attemptPrefix, identityPaths } from './edge-identity.ts'

const generateKey = promisify(generateKeyPair)

/**
 * An attempt to join by one token. Its folder becomes the identity in one rename, so that a kill at any moment leaves
 * all or nothing; its key outlives a kill, because a primary whose answer was lost gives it again to this key alone.
 */
export interface EdgeAttempt {
  readonly key: KeyObject
  /**
   * Makes the attempt the folder's identity, in the place of the one before.
   * @param files by name, besides the key
   */
  finish(files: ReadonlyMap<string, string>): Promise<void>
}

/**
 * Begins an attempt, or goes on with the one that this token began. The data folder must be locked for it.
 * @param tokenId 16 hex digits
 */
export async function openAttempt(data: string, tokenId: string): Promise<EdgeAttempt> {
  const paths = identityPaths(data)
  const folder = paths.attempt(tokenId)
  await mkdir(folder, { recursive: true, mode: 0o700 })
  // What an attempt before left half-written.
  for (const name of await readdir(folder))
    if (name !== identityFiles.key) await rm(join(folder, name), { recursive: true })
  const key = (await readKey(folder)) ?? (await createKey(folder))
  await syncFolder(paths.edge)
  return {
    key,
    async finish(files) {
      for (const [name, content] of files)
        await writeFileAtomic(join(folder, name), content, { mode: 0o600 })
      if (existsSync(paths.folder)) await rename(paths.folder, paths.replaced)
      await rename(folder, paths.folder)
      await syncFolder(paths.edge)
      await rm(paths.replaced, { recursive: true, force: true })
      // Tokens are used once: what others began leads nowhere any more.
      for (const name of await readdir(paths.edge))
        if (name.startsWith(attemptPrefix)) await rm(join(paths.edge, name), { recursive: true })
      await syncFolder(paths.edge)
    },
  }
}

/** Brings back, or takes away, what a replacement left that was killed between its two renames, or after them. */
export async function settleReplaced(data: string): Promise<void> {
  const { edge, folder, replaced } = identityPaths(data)
  if (!existsSync(replaced)) return
  if (existsSync(folder)) await rm(replaced, { recursive: true })
  else await rename(replaced, folder)
  await syncFolder(edge)
}

async function readKey(folder: string): Promise<KeyObject | undefined> {
  const pem = await readSmallFile(join(folder, identityFiles.key))
  if (pem === undefined) return undefined
  try {
    return createPrivateKey(pem)
  } catch {
    // Not what was written there: no primary knows it, so that a new one does as well.
    return undefined
  }
}

async function createKey(folder: string): Promise<KeyObject> {
  const { privateKey } = await generateKey('rsa', { modulusLength: 2048 })
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' })
  await writeFileAtomic(join(folder, identityFiles.key), pem, { mode: 0o600 })
  return privateKey
}

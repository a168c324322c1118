import { randomBytes } from 'node:crypto'
import { link, readFile, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { syncFolder, writeFileAtomic } from '../shared/files/atomic-write.ts'
import { isMissing } from '../shared/files/open-files.ts'
import type { OutportConfig } from './programs.ts'

/** Where a random first password of `admin` is kept. */
function adminPasswordPath(folder: string): string {
  return join(folder, 'admin-password')
}

/** Where the secret of the edge that `up` starts is kept. */
export function edgeSecretPath(folder: string): string {
  return join(folder, 'edge-secret')
}

/** Written by the primary at its first start on a folder. */
function primaryIdPath(folder: string): string {
  return join(folder, 'primary-id')
}

/**
 * The configuration with a first password for `admin`: the configured one, else the one kept in the data
 * folder, else (before the primary's first start only) a random one that is kept there from now on.
 * @returns `passwordFile` when the password is one that was made at random
 */
export async function withAdminPassword(
  config: OutportConfig,
): Promise<{ readonly config: OutportConfig; readonly passwordFile: string | undefined }> {
  const { data: folder, primary } = config
  if (primary.admin_password !== undefined) return { config, passwordFile: undefined }
  const path = adminPasswordPath(folder)
  // An account that is there keeps its password: one made now would not be it.
  const isFirst = (await readSecret(primaryIdPath(folder))) === undefined
  const password = isFirst ? await keepSecret(path, createPassword) : await readSecret(path)
  if (password === undefined) return { config, passwordFile: undefined }
  return {
    config: { ...config, primary: { ...primary, admin_password: password } },
    passwordFile: path,
  }
}

/**
 * The secret of a file, which is made (0600, on disk before this returns) if it is not there. Two
 * processes that make it at once get the same one.
 */
export async function keepSecret(path: string, create = createSecret): Promise<string> {
  const known = await readSecret(path)
  if (known !== undefined) return known
  const temporary = `${path}.${process.pid}`
  try {
    await writeFileAtomic(temporary, `${create()}\n`, { mode: 0o600 })
    await link(temporary, path).catch(ignoreExisting)
  } finally {
    await rm(temporary, { force: true })
  }
  await syncFolder(dirname(path))
  return (await readFile(path, 'utf8')).trim()
}

async function readSecret(path: string): Promise<string | undefined> {
  try {
    return (await readFile(path, 'utf8')).trim()
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

function createSecret(): string {
  return randomBytes(32).toString('base64url')
}

/** 24 characters that have what password rules ask for: upper and lower case and a digit. */
function createPassword(): string {
  for (;;) {
    const password = randomBytes(18).toString('base64url')
    // A leading dash would be taken for an option on command lines.
    if (/^\w.*$/.test(password) && /[a-z]/.test(password) && /[A-Z]/.test(password)) {
      if (/\d/.test(password)) return password
    }
  }
}

function ignoreExisting(error: unknown): void {
  if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
}

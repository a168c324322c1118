import { randomBytes } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { writeFileAtomic } from '../../shared/files/atomic-write.ts'
import { isMissing } from '../../shared/files/open-files.ts'
import { createSecrets, secretKeyBytes, type Secrets } from '../../shared/trust/secrets.ts'

/**
 * Reads the key under which the database's keys lie, and makes it when there is none. It lies outside the data
 * folder, so that a copy of the data alone opens nothing.
 * @throws Error in one line when the file holds no key
 */
export async function openKeyFile(path: string): Promise<Secrets> {
  const known = await readKey(path)
  if (known !== undefined) return createSecrets(known)
  const key = randomBytes(secretKeyBytes)
  await writeFileAtomic(path, `${key.toString('hex')}\n`, { mode: 0o600 })
  return createSecrets(key)
}

async function readKey(path: string): Promise<Buffer | undefined> {
  let text: string
  try {
    text = (await readFile(path, 'utf8')).trim()
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
  if (/^[0-9a-f]{64}$/.test(text)) return Buffer.from(text, 'hex')
  throw new Error(`${path} holds no key (64 hex digits): restore it from its backup`)
}

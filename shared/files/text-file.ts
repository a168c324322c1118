import { readFile } from 'node:fs/promises'

/**
 * Reads a small text file: a PEM, a list.
 * @throws Error with a one-line message that names the path and the reason; the system's error is its cause, where
 * that says more
 */
export function readTextFile(path: string): Promise<string> {
  return readFile(path, 'utf8').catch((cause: unknown) => refuse(path, cause))
}

function refuse(path: string, cause: unknown): never {
  const reason = reasonOf(cause)
  if (reason !== undefined) throw new Error(`cannot read ${path}: ${reason}`)
  throw new Error(`cannot read ${path}: ${messageOf(cause)}`, { cause })
}

/**
 * Reads a file that holds one secret, without the line's end.
 * @throws Error naming the file when it is empty or cannot be read
 */
export async function readSecretFile(path: string): Promise<string> {
  const secret = (await readTextFile(path)).trim()
  if (secret === '') throw new Error(`${path} is empty: it should hold one secret`)
  return secret
}

function reasonOf(cause: unknown): string | undefined {
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined
  if (code === 'ENOENT') return 'there is no such file'
  if (code === 'EACCES' || code === 'EPERM') return 'permission denied'
  if (code === 'EISDIR') return 'it is a folder'
  return undefined
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}

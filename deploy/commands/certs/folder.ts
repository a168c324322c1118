import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { isMissing } from '../../../shared/files/open-files.ts'
import { StartError } from '../../start-errors.ts'

/** Where the CA lies unless `--dir` says otherwise. */
export const defaultFolder = 'certs'

export const dirOption = {
  type: 'string',
  value: 'DIR',
  help: `the folder of the CA (default ./${defaultFolder})`,
} as const

/** The files of the CA. */
export function caPaths(folder: string): { readonly cert: string; readonly key: string } {
  return { cert: join(folder, 'ca.crt'), key: join(folder, 'ca.key') }
}

/**
 * The text of a file that the command needs.
 * @throws StartError with the hint when it is not there
 */
export async function readNeeded(path: string, hint: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (cause) {
    if (isMissing(cause)) throw new StartError(`${path} does not exist: ${hint}`, { cause })
    throw cause
  }
}

import { readFile } from 'node:fs/promises'
import { isMissing } from './open-files.ts'

/** Reads a small file whole; undefined when it is not there. */
export async function readSmallFile(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path)
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

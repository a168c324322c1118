import { mkdir, realpath, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { ClientFileError } from '../../../shared/clients/file-error.ts'
import { writeFileAtomic } from '../../../shared/files/atomic-write.ts'
import { isMissing } from '../../../shared/files/open-files.ts'
import { readSmallFile } from '../../../shared/files/read-file.ts'
import { StartError } from '../../start-errors.ts'
import { unifiedDiff } from '../../unified-diff.ts'

/** A file of a client. */
export interface ClientFile {
  readonly path: string
  /** Whether it holds a log-in: then only its owner may read it. */
  readonly isSecret?: boolean
  /**
   * What is to stand in it.
   * @param existing what does; empty when there is no file
   * @throws ClientFileError when that cannot be read
   */
  merge(existing: string): string
}

interface Change {
  readonly path: string
  readonly before: string | undefined
  readonly after: string
  readonly mode: number
}

/**
 * Writes the files, each whole or not at all, and says on standard output what became of each. None is touched when one
 * of them cannot be read.
 * @param options.dryRun shows the differences instead
 * @returns the paths that were written
 */
export async function writeClientFiles(
  files: readonly ClientFile[],
  { dryRun }: { readonly dryRun: boolean },
): Promise<readonly string[]> {
  const changes: Change[] = []
  for (const file of files) changes.push(await planChange(file))
  const written: string[] = []
  for (const change of changes) {
    const { path, before, after } = change
    if (before === after) {
      process.stdout.write(`${path}: nothing to change\n`)
    } else if (dryRun) {
      process.stdout.write(maskSecrets(unifiedDiff(path, before, after)))
    } else {
      await write(change)
      process.stdout.write(`${path}: written\n`)
      written.push(path)
    }
  }
  return written
}

async function planChange({ path, isSecret = false, merge }: ClientFile): Promise<Change> {
  const before = await readText(path)
  try {
    const after = merge(before ?? '')
    return { path, before, after, mode: isSecret ? 0o600 : await modeOf(path) }
  } catch (cause) {
    if (!(cause instanceof ClientFileError)) throw cause
    throw new StartError(`${path}: ${cause.message}; nothing was written`, { cause })
  }
}

async function readText(path: string): Promise<string | undefined> {
  const content = await readSmallFile(path)
  if (content === undefined) return undefined
  const text = content.toString('utf8')
  // What cannot be read as text would not be written back as it was.
  if (Buffer.from(text).equals(content)) return text
  throw new StartError(`${path}: it is not a text in UTF-8; nothing was written`)
}

async function modeOf(path: string): Promise<number> {
  try {
    return (await stat(path)).mode & 0o777
  } catch (error) {
    if (isMissing(error)) return 0o644
    throw error
  }
}

/** A link stays one: what is written is the file that it leads to. */
async function write({ path, before, after, mode }: Change): Promise<void> {
  if (before === undefined) await mkdir(dirname(path), { recursive: true })
  const target = before === undefined ? path : await realpath(path)
  await writeFileAtomic(target, after, { mode })
}

const secret =
  /((?:password|identity_?token|auth|authorization)["']?\s*[=:]\s*\[?\s*)("(?:[^"\\]|\\.)*"|'[^']*'|[^\s,{}[\]#"']+)/gi

/** A difference may be shown to others, and kept in a log. */
function maskSecrets(text: string): string {
  return text
    .split('\n')
    .map((line) => line.replaceAll(secret, '$1***'))
    .join('\n')
}

import { mkdir, readFile, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { writeFileAtomic } from '../shared/files/atomic-write.ts'
import { isMissing } from '../shared/files/open-files.ts'
import { StartError } from './start-errors.ts'

/** The layout of the data folder that this program writes. */
const layoutVersion = 1

const probeBytes = 64 * 1024

/**
 * Makes the data folder if it is not there (0700), checks that it can be written, that its disk has room,
 * and that no newer version wrote it, and marks it with this version.
 * @throws StartError when a newer version wrote it; the system's error when it cannot be written
 */
export async function openDataFolder(folder: string): Promise<void> {
  await makeFolder(folder)
  const version = await readVersion(folder)
  if (version !== undefined && version > layoutVersion) {
    throw new StartError(
      `${folder} was written by a newer version of Outport (layout ${version}, this one knows ${layoutVersion}): install that version, or choose another data folder`,
    )
  }
  await probe(folder)
  if (version === undefined) await writeVersion(folder)
}

async function makeFolder(folder: string): Promise<void> {
  try {
    await makeFolders(folder)
  } catch (cause) {
    if (codeOf(cause) !== 'EEXIST') throw cause
    if ((await stat(folder)).isDirectory()) return
    throw new StartError(`${folder} is not a folder: choose another data folder`, { cause })
  }
}

/** Not mkdir's own `recursive`, which never ends where a folder that exists takes no new ones (`/proc`). */
async function makeFolders(folder: string): Promise<void> {
  try {
    await mkdir(folder, { mode: 0o700 })
  } catch (cause) {
    const parent = dirname(folder)
    if (codeOf(cause) !== 'ENOENT' || parent === folder) throw cause
    if ((await stat(parent).catch(() => undefined)) !== undefined) {
      throw new StartError(`cannot make the folder ${folder}: choose another data folder`, {
        cause,
      })
    }
    await makeFolders(parent)
    await mkdir(folder, { mode: 0o700 })
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined
}

function versionPath(folder: string): string {
  return join(folder, 'version')
}

async function readVersion(folder: string): Promise<number | undefined> {
  let text: string
  try {
    text = await readFile(versionPath(folder), 'utf8')
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
  if (!/^[1-9]\d{0,8}\n?$/.test(text)) {
    throw new StartError(
      `${versionPath(folder)} is not a file that Outport wrote: choose another data folder, or restore this one`,
    )
  }
  return Number(text)
}

/** Both programs of one folder may do this at once: the rename makes it whole for either. */
async function writeVersion(folder: string): Promise<void> {
  await writeFileAtomic(versionPath(folder), `${layoutVersion}\n`, { mode: 0o600 })
}

async function probe(folder: string): Promise<void> {
  const path = join(folder, `.probe.${process.pid}`)
  try {
    await writeFileAtomic(path, Buffer.alloc(probeBytes, 1), { mode: 0o600 })
  } catch (error) {
    throw Object.assign(error as NodeJS.ErrnoException, { path: folder })
  } finally {
    await rm(path, { force: true })
  }
}

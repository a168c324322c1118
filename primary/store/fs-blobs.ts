import { open, opendir, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { createOpenFiles, isMissing } from '../../shared/files/open-files.ts'
import type { BlobKey, BlobStore } from './blobs.ts'
import { localDisk, type Disk } from './disk.ts'
import { createFsRecords } from './fs-records.ts'
import { createReceiver, noUpload, type Receiver } from './receiver.ts'

export interface FsBlobsOptions {
  /** A folder of its own; made if it is not there. */
  readonly root: string
  /** Files kept open without a reader. */
  readonly openFiles: number
  /** The machine's own if left out. */
  readonly disk?: Disk
}

const keyGrammar = /^[0-9a-f]{32}$/

/** Blobs on the local disk: `blobs/<2 digits>/<key>`, and `uploads/<key>` while they are received. */
export async function createFsBlobs({
  root,
  openFiles,
  disk = localDisk,
}: FsBlobsOptions): Promise<BlobStore> {
  const blobs = join(root, 'blobs')
  const uploads = join(root, 'uploads')
  const records = join(root, 'records')
  await makeFolders(disk, { root, blobs, others: [uploads, records] })
  const opened = createOpenFiles(openFiles)
  const receiver: Receiver = createReceiver({
    pathOf: (key) => join(uploads, checked(key)),
    disk,
  })
  const groupOf = (key: BlobKey) => join(blobs, checked(key).slice(0, 2))
  const pathOf = (key: BlobKey) => join(groupOf(key), key)

  return {
    ...createFsRecords(records),
    async stat(key) {
      return sizeOf(pathOf(key))
    },
    open: (key) => opened.open(pathOf(key)),
    async create(key) {
      const file = await open(join(uploads, checked(key)), 'wx', 0o600)
      await file.close()
    },
    held: (key) => receiver.held(key),
    append: (key, offset, body) => receiver.append(key, { offset, body }),
    async commit(key, digest) {
      const size = await receiver.prove(key, digest)
      try {
        await disk.rename(join(uploads, key), pathOf(key))
      } catch (error) {
        // Somebody ended the upload meanwhile.
        if (isMissing(error) && (await receiver.held(key)) === undefined) throw noUpload()
        throw error
      }
      await disk.syncFolder(groupOf(key))
      return { size }
    },
    async abort(key) {
      receiver.forget(key)
      await rm(join(uploads, checked(key)), { force: true })
    },
    async *list(after) {
      for (const group of await namesIn(blobs)) {
        if (after !== undefined && group < after.slice(0, 2)) continue
        for (const key of await namesIn(join(blobs, group))) {
          if (!keyGrammar.test(key) || (after !== undefined && key <= after)) continue
          const found = await statOf(join(blobs, group, key))
          if (found !== undefined) yield { key, size: found.size, storedAt: found.mtime }
        }
      }
    },
    async remove(key) {
      opened.forget(pathOf(key))
      try {
        await rm(pathOf(key))
        return true
      } catch (error) {
        if (isMissing(error)) return false
        throw error
      }
    },
    close: () => opened.close(),
  }
}

/**
 * Makes what is missing, and syncs all of it: commits rely on it, and an earlier start may have been killed between
 * the two.
 */
async function makeFolders(
  disk: Disk,
  { root, blobs, others }: { root: string; blobs: string; others: readonly string[] },
): Promise<void> {
  await disk.makeFolder(root)
  await disk.syncFolder(dirname(root))
  for (const folder of [blobs, ...others]) await disk.makeFolder(folder)
  await disk.syncFolder(root)
  const there = new Set(await namesIn(blobs))
  for (let number = 0; number < 256; number++) {
    const group = number.toString(16).padStart(2, '0')
    if (!there.has(group)) await disk.makeFolder(join(blobs, group))
  }
  await disk.syncFolder(blobs)
}

/** Keys become file names: nothing else may. */
function checked(key: BlobKey): BlobKey {
  if (keyGrammar.test(key)) return key
  throw new Error('a blob key is 32 hex digits')
}

async function namesIn(folder: string): Promise<readonly string[]> {
  const names: string[] = []
  try {
    for await (const entry of await opendir(folder)) names.push(entry.name)
  } catch (error) {
    if (!isMissing(error)) throw error
  }
  return names.sort()
}

async function sizeOf(path: string): Promise<{ size: number } | undefined> {
  const found = await statOf(path)
  return found && { size: found.size }
}

async function statOf(path: string) {
  try {
    return await stat(path)
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

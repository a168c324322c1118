import { createHash, randomUUID } from 'node:crypto'
import { link, readFile, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { syncFolder, writeFileAtomic } from '../../shared/files/atomic-write.ts'
import { isMissing } from '../../shared/files/open-files.ts'
import type { RecordCondition, StoreRecords } from './blobs.ts'

/**
 * Small records as files in a folder that is there. `absent` is decided by the file system, also between processes;
 * a tag is compared before the write, which is enough for records that only the holder of a lock in the database
 * changes.
 */
export function createFsRecords(folder: string): StoreRecords {
  const pathOf = (name: string) => {
    if (!/^[a-z0-9-]{1,64}$/.test(name))
      throw new Error('a record name is lower-case letters, digits and dashes')
    return join(folder, name)
  }
  const readRecord: StoreRecords['readRecord'] = async (name) => {
    try {
      const value = await readFile(pathOf(name))
      return { value, tag: createHash('sha256').update(value).digest('hex') }
    } catch (error) {
      if (isMissing(error)) return undefined
      throw error
    }
  }
  return {
    readRecord,
    async writeRecord(name, value, condition?: RecordCondition) {
      const path = pathOf(name)
      if (condition !== undefined && 'absent' in condition) return writeAbsent(folder, path, value)
      if (condition !== undefined && (await readRecord(name))?.tag !== condition.tag) return false
      await writeFileAtomic(path, value, { mode: 0o600 })
      return true
    },
  }
}

async function writeAbsent(folder: string, path: string, value: Buffer): Promise<boolean> {
  const draft = `${path}.${randomUUID()}`
  await writeFileAtomic(draft, value, { mode: 0o600 })
  try {
    await link(draft, path)
    await syncFolder(folder)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  } finally {
    await rm(draft, { force: true })
  }
}

import { mkdir, rename, type FileHandle } from 'node:fs/promises'
import { syncFolder } from '../../shared/files/atomic-write.ts'

/**
 * The calls that decide by their order, and by how they fail, which blobs outlive a crash and a full disk. They are
 * given to the store, so that a test sees the calls themselves in their order, and can make them fail.
 */
export interface Disk {
  /**
   * Writes at a position.
   * @returns the bytes written, which may be fewer than there are
   */
  write(file: FileHandle, buffers: readonly Buffer[], position: number): Promise<number>
  /** Makes the content of a file durable. */
  datasync(file: FileHandle): Promise<void>
  /** Makes a folder for its owner alone, and those above it, unless it is there. */
  makeFolder(path: string): Promise<void>
  rename(from: string, to: string): Promise<void>
  /** Makes the names in a folder durable. */
  syncFolder(path: string): Promise<void>
}

/** The disk of this machine. */
export const localDisk: Disk = {
  write: async (file, buffers, position) => (await file.writev(buffers, position)).bytesWritten,
  datasync: (file) => file.datasync(),
  async makeFolder(path) {
    await mkdir(path, { recursive: true, mode: 0o700 })
  },
  rename,
  syncFolder,
}

import { statfs } from 'node:fs/promises'

/** The volume that a folder lies on. */
export interface Volume {
  /** Bytes. */
  readonly total: number
  /** Bytes that this user may still write. */
  readonly free: number
}

/** How large the volume of a folder is, and how much of it is free. */
export async function volumeOf(folder: string): Promise<Volume> {
  const { bsize, blocks, bavail } = await statfs(folder)
  return { total: bsize * blocks, free: bsize * bavail }
}

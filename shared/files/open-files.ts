import { read as readDescriptor } from 'node:fs'
import { open, type FileHandle } from 'node:fs/promises'
import { LRUCache } from 'lru-cache'
import { createUseCounts } from './use-counts.ts'

/** One reader of an open file; the caller closes it. */
export interface FileReader {
  /** Bytes of the file when it was opened. */
  readonly size: number
  /** The same object for all readers of this file while it stays open, so that they can share what is read. */
  readonly identity: object
  /** Fills `buffer` from `offset` and returns the bytes read, 0 at the end. */
  read(buffer: Buffer, offset: number): Promise<number>
  close(): Promise<void>
}

/** Immutable files that are kept open between readers: open, fstat and close cost more than a small read. */
export interface OpenFiles {
  /** A reader of the file, or undefined when there is none; the caller closes it. */
  open(path: string): Promise<FileReader | undefined>
  /** Whether somebody reads the file, or is about to. */
  isRead(path: string): boolean
  /** Closes the file once its readers are done; call it before or after the file is removed. */
  forget(path: string): void
  /** Closes what nobody reads; readers close the rest. */
  close(): void
}

interface OpenFile {
  readonly handle: FileHandle
  readonly size: number
  /** And reads in flight. */
  readers: number
  forgotten: boolean
}

/** Keeps at most `max` files open without a reader. */
export function createOpenFiles(max: number): OpenFiles {
  const opening = new Map<string, Promise<OpenFile | undefined>>()
  /** By path: a file that is no longer kept open may still have some. */
  const readers = createUseCounts<string>()
  const files = new LRUCache<string, OpenFile>({
    max,
    dispose: (file) => {
      file.forgotten = true
      if (file.readers === 0) closeQuietly(file.handle)
    },
  })

  const find = async (path: string): Promise<OpenFile | undefined> => {
    const known = files.get(path)
    if (known !== undefined) return known
    const running = opening.get(path)
    if (running !== undefined) return running
    const started = openFile(path)
    opening.set(path, started)
    try {
      const file = await started
      // `forget` may have run while the file was being opened: then it is not kept.
      if (file !== undefined && opening.get(path) === started) files.set(path, file)
      else if (file !== undefined) file.forgotten = true
      return file
    } finally {
      if (opening.get(path) === started) opening.delete(path)
    }
  }

  return {
    async open(path) {
      const file = await find(path)
      if (file === undefined) return undefined
      file.readers++
      readers.begin(path)
      return createReader(file, () => readers.end(path))
    },
    isRead: (path) => opening.has(path) || readers.isUsed(path),
    forget(path) {
      opening.delete(path)
      files.delete(path)
    },
    close() {
      opening.clear()
      files.clear()
    },
  }
}

async function openFile(path: string): Promise<OpenFile | undefined> {
  let handle: FileHandle
  try {
    handle = await open(path, 'r')
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
  try {
    return { handle, size: (await handle.stat()).size, readers: 0, forgotten: false }
  } catch (error) {
    await handle.close()
    throw error
  }
}

function createReader(file: OpenFile, onClosed: () => void): FileReader {
  let open = true
  return {
    size: file.size,
    identity: file,
    read: (buffer, offset) => readFrom(file, buffer, offset),
    async close() {
      if (!open) return
      open = false
      onClosed()
      await leave(file)
    },
  }
}

/**
 * By the descriptor: the handle's own `read` costs some promises more for each chunk. It would also keep the
 * file open until the read has ended, so that the descriptor cannot become another file's: here the read counts
 * as a reader.
 */
function readFrom(file: OpenFile, buffer: Buffer, offset: number): Promise<number> {
  return new Promise((resolve, reject) => {
    readDescriptor(file.handle.fd, buffer, 0, buffer.length, offset, (error, count) => {
      leave(file).catch(() => undefined)
      if (error === null) resolve(count)
      else reject(error)
    })
    file.readers++
  })
}

async function leave(file: OpenFile): Promise<void> {
  file.readers--
  if (file.forgotten && file.readers === 0) await file.handle.close()
}

function closeQuietly(handle: FileHandle): void {
  // A read-only descriptor has nothing to lose by a failed close.
  handle.close().catch(() => undefined)
}

/** Whether an error of node:fs says that the file or a folder of its path is not there. */
export function isMissing(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT'
}

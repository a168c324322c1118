import {
  appendFile,
  mkdir,
  open,
  opendir,
  readFile,
  rename,
  rm,
  stat,
  type FileHandle,
} from 'node:fs/promises'
import { randomBytes } from 'node:crypto'
import { dirname, join } from 'node:path'
import { isMissing } from '../../shared/files/open-files.ts'
import { algorithmOf, encodedOf, isDigest, type Digest } from '../../shared/oci/digest.ts'

/**
 * A file that one fill writes into. Its name says whose bytes it will be and is used once: two fills of one
 * digest (of two upstreams, say) never write into each other's file.
 */
export type PartName = string & { readonly partName: true }

/** An open part. It stays readable until `close`. */
export interface PartFile {
  readonly name: PartName
  write(buffer: Buffer, offset: number): Promise<void>
  read(buffer: Buffer, offset: number): Promise<number>
  /** Makes what was written durable. */
  sync(): Promise<void>
  /**
   * Cuts off what lies behind `size`, makes the rest durable, and gives the file its final name, in this order:
   * under that name it is never longer. @throws when it is shorter, and then it keeps its name
   */
  publish(size: number): Promise<void>
  /** Removes its name. */
  discard(): Promise<void>
  close(): Promise<void>
}

/**
 * The edge's bytes: `blobs/<algorithm>/<2 digits>/<digest>`, immutable once they have that name, and
 * `parts/<algorithm>-<digest>.<random>` while they are being filled. Beside a blob, `<digest>.links` holds
 * one line a link, from which a lost index is made again.
 */
export interface BlobFiles {
  pathOf(digest: Digest): string
  /** Bytes of the stored file, or undefined. */
  size(digest: Digest): Promise<number | undefined>
  /** When the stored file was last changed, in epoch ms, or undefined. A move to another disk keeps it. */
  changedAt(digest: Digest): Promise<number | undefined>
  /** The whole content of a small blob, or undefined. */
  readAll(digest: Digest): Promise<Buffer | undefined>
  /** Writes a small, proved blob under its final name. */
  put(digest: Digest, bytes: Buffer): Promise<void>
  /** Makes an empty part for a digest. */
  createPart(digest: Digest): Promise<PartFile>
  /** Opens a part that an earlier run left, or undefined. */
  openPart(name: PartName): Promise<PartFile | undefined>
  /** Removes the bytes; the links beside them stay, for when they come back. */
  remove(digest: Digest): Promise<void>
  /** Adds a line to the links beside a digest, whose bytes may still be on their way. */
  appendLink(digest: Digest, line: string): Promise<void>
  readLinks(digest: Digest): Promise<readonly string[]>
  /** Every stored blob. */
  list(): AsyncIterable<{ readonly digest: Digest; readonly size: number }>
  /** The parts that are there. */
  listParts(): Promise<readonly PartName[]>
  removePart(name: PartName): Promise<void>
}

/** The digest that a part's name says; undefined for any other name. */
export function digestOfPart(name: string): Digest | undefined {
  const [, algorithm = '', encoded = ''] = /^([a-z0-9]+)-([0-9a-f]+)\.[0-9a-f]+$/.exec(name) ?? []
  const digest = `${algorithm}:${encoded}`
  return isDigest(digest) ? digest : undefined
}

/** Whether a text is the name of a part. */
export function isPartName(name: string): name is PartName {
  return digestOfPart(name) !== undefined
}

/** Where a blob lies, proved, under the folder of all of them. */
export function blobFile(root: string, digest: Digest): string {
  const encoded = encodedOf(digest)
  return join(root, 'blobs', algorithmOf(digest), encoded.slice(0, 2), encoded)
}

/** Opens (or makes) the folders under `root`. */
export async function openBlobFiles(root: string): Promise<BlobFiles> {
  const [blobs, parts] = [join(root, 'blobs'), join(root, 'parts')]
  for (const folder of [blobs, parts]) await makeFolder(folder)
  const pathOf = (digest: Digest) => blobFile(root, digest)
  const linksOf = (digest: Digest) => `${pathOf(digest)}.links`
  const createPart = async (digest: Digest): Promise<PartFile> => {
    const unique = randomBytes(8).toString('hex')
    const name = `${algorithmOf(digest)}-${encodedOf(digest)}.${unique}` as PartName
    const path = join(parts, name)
    const create = () => open(path, 'wx+', 0o600)
    let handle = await orMissing(create())
    if (handle === undefined) {
      // Somebody has removed the folder under the running edge.
      await makeFolder(parts)
      handle = await create()
    }
    return createPartFile({ name, path, handle, finalPath: pathOf(digest) })
  }

  return {
    pathOf,
    async size(digest) {
      return (await orMissing(stat(pathOf(digest))))?.size
    },
    async changedAt(digest) {
      return (await orMissing(stat(pathOf(digest))))?.mtimeMs
    },
    readAll: (digest) => orMissing(readFile(pathOf(digest))),
    async put(digest, bytes) {
      const part = await createPart(digest)
      try {
        await part.write(bytes, 0)
        await part.publish(bytes.length)
      } catch (error) {
        await part.discard().catch(() => undefined)
        throw error
      } finally {
        await part.close()
      }
    },
    createPart,
    async openPart(name) {
      const digest = digestOfPart(name)
      const path = join(parts, name)
      const handle = await orMissing(open(path, 'r+'))
      if (digest === undefined || handle === undefined) return undefined
      return createPartFile({ name, path, handle, finalPath: pathOf(digest) })
    },
    remove: (digest) => rm(pathOf(digest), { force: true }),
    async appendLink(digest, line) {
      await mkdir(dirname(linksOf(digest)), { recursive: true, mode: 0o700 })
      await appendFile(linksOf(digest), `${line}\n`, { mode: 0o600 })
    },
    async readLinks(digest) {
      const text = await orMissing(readFile(linksOf(digest), 'utf8'))
      // A crash may have torn the last line: a line counts only with its end.
      return text === undefined ? [] : text.split('\n').slice(0, -1)
    },
    async *list() {
      for (const algorithm of ['sha256', 'sha512'] as const) {
        for await (const group of entriesOf(join(blobs, algorithm))) {
          for await (const name of entriesOf(join(blobs, algorithm, group))) {
            const digest = `${algorithm}:${name}`
            if (!isDigest(digest)) continue
            const found = await orMissing(stat(pathOf(digest)))
            if (found !== undefined) yield { digest, size: found.size }
          }
        }
      }
    },
    async listParts() {
      const names: PartName[] = []
      for await (const name of entriesOf(parts)) if (isPartName(name)) names.push(name)
      return names
    },
    removePart: (name) => rm(join(parts, name), { force: true }),
  }
}

interface OpenPart {
  readonly name: PartName
  readonly path: string
  readonly handle: FileHandle
  readonly finalPath: string
}

function createPartFile({ name, path, handle, finalPath }: OpenPart): PartFile {
  return {
    name,
    async write(buffer, offset) {
      for (let done = 0; done < buffer.length;) {
        const { bytesWritten } = await handle.write(
          buffer,
          done,
          buffer.length - done,
          offset + done,
        )
        done += bytesWritten
      }
    },
    async read(buffer, offset) {
      return (await handle.read(buffer, 0, buffer.length, offset)).bytesRead
    },
    sync: () => handle.datasync(),
    async publish(size) {
      const { size: found } = await handle.stat()
      if (found < size) throw new Error(`a part of ${found} bytes cannot be a blob of ${size}`)
      if (found > size) await handle.truncate(size)
      await handle.datasync()
      await mkdir(dirname(finalPath), { recursive: true, mode: 0o700 })
      await rename(path, finalPath)
    },
    discard: () => rm(path, { force: true }),
    close: () => handle.close(),
  }
}

async function makeFolder(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
}

async function* entriesOf(folder: string): AsyncIterable<string> {
  const directory = await orMissing(opendir(folder))
  if (directory === undefined) return
  for await (const entry of directory) yield entry.name
}

async function orMissing<T>(work: Promise<T>): Promise<T | undefined> {
  try {
    return await work
  } catch (error) {
    if (isMissing(error)) return undefined
    throw error
  }
}

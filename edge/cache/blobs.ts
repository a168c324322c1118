import { LRUCache } from 'lru-cache'
import { createOpenFiles } from '../../shared/files/open-files.ts'
import type { OpenedSink, Sink } from '../../shared/fill/sink.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import type { BlobHandle } from '../../shared/stream/blob-handle.ts'
import { digestOfPart, type BlobFiles, type PartFile, type PartName } from './blob-files.ts'
import type { CacheIndex, Link, Origin, StoredEntry } from './cache-index.ts'
import { createEvictor, type EvictionObserver, type Evictor } from './evict.ts'
import { createTurns } from './turns.ts'

/** Verified content by digest, and which repository may show it. */
export interface CachedBlobs {
  /** Bytes of a held blob, or undefined. */
  size(digest: Digest): number | undefined
  /** A reader of a held blob, or undefined; the caller closes it. */
  open(digest: Digest): Promise<BlobHandle | undefined>
  /** Reads a small blob whole, or undefined. */
  readAll(digest: Digest): Promise<Buffer | undefined>
  /** Stores small content that was proved, unless it is held; a disk that fails is told of, and it is not held. */
  put(digest: Digest, bytes: Buffer): Promise<void>
  /**
   * Where one fill of this digest writes: a file of its own. What an earlier fill left behind, if no other
   * has taken it over, is reported as held.
   */
  openSink(digest: Digest): Promise<OpenedSink>
  /** What lets `origin` show the digest, or undefined. */
  link(origin: Origin, digest: Digest): Link | undefined
  /**
   * Records that the origin's upstream delivered the digest, or that its primary said so to this edge.
   * Nothing that a client sends, and no manifest or HEAD of a third party, may lead here. A manifest's link
   * stays one: a blob's link of the same project changes nothing. A disk that fails is told of, and the link is
   * then remembered until a restart.
   */
  addLink(origin: Origin, digest: Digest, link: Pick<Link, 'mediaType'>): Promise<void>
  /** How many milliseconds a blob took that is held now. */
  fetched(digest: Digest, ms: number): void
  /** A held blob is being answered from memory. */
  used(digest: Digest): void
  /** Nobody names a held blob any more, as far as one can know: it goes first when room is needed. */
  demote(digest: Digest): void
  /** Forgets a blob whose file is not what it should be; links stay and lead to a new fill. */
  drop(digest: Digest): Promise<void>
  /** Held bytes and blobs, for the metrics. */
  readonly total: { readonly bytes: number; readonly count: number }
  /** Bytes that may be held, and those on their way. */
  readonly room: Pick<Evictor, 'capacityBytes' | 'reservedBytes'>
  close(): Promise<void>
}

export interface CachedBlobsDeps {
  readonly files: BlobFiles
  readonly index: CacheIndex
  /** Files kept open without a reader. */
  readonly openFiles: number
  /** Told once when the disk begins to fail; it is served without it. */
  readonly onDiskFailed: (error: unknown) => void
  /** Told when a blob was stored. */
  readonly onStored?: (() => void) | undefined
  /** Bytes that the cache may take, by a look at the disk; without, whatever comes. */
  readonly capacity?: ((heldBytes: number) => Promise<number>) | undefined
  readonly eviction?: EvictionObserver | undefined
  readonly now?: (() => number) | undefined
}

/** Links that could not be written, at a few hundred bytes each. */
const rememberedLinks = 10_000

/** Puts the index and the files together; an index that is new is made again from the disk first. */
export async function createCachedBlobs({
  files,
  index,
  openFiles,
  onDiskFailed,
  onStored,
  capacity = () => Promise.resolve(Infinity),
  eviction,
  now = Date.now,
}: CachedBlobsDeps): Promise<CachedBlobs> {
  if (!index.complete) await rebuildIndex(files, index)
  const left = await settleParts(files, index)
  const held = await index.listHeld()
  const total = { bytes: held.reduce((sum, { bytes }) => sum + bytes, 0), count: held.length }
  const opened = createOpenFiles(openFiles)
  const unwritten = new LRUCache<string, Link>({ max: rememberedLinks })
  // What is looked at and then changed: each digest's file with its entry, and each link.
  const { inTurn } = createTurns()
  let failing = false

  /** Does without what the disk refuses, and says so when that begins. @returns whether it worked */
  const unlessDiskFails = async (write: () => Promise<void>): Promise<boolean> => {
    try {
      await write()
      failing = false
    } catch (error) {
      if (!failing) onDiskFailed(error)
      failing = true
    }
    return !failing
  }
  /** Gives the digest its file by `publish`, and then its entry. Call it, and `remove`, in the digest's turn. */
  const store = async (digest: Digest, size: number, publish: () => Promise<void>) => {
    await publish()
    const before = index.stored(digest)
    await index.putStored(digest, { size })
    total.bytes += size - (before?.size ?? 0)
    if (before === undefined) total.count++
    evictor.added(digest, size)
    onStored?.()
  }
  const remove = async (digest: Digest, { size }: StoredEntry) => {
    // The index first: a crash in between leaves a file that nobody asks for, never a promise without a file.
    await index.removeStored(digest)
    total.bytes -= size
    total.count--
    evictor.removed(digest)
    await files.remove(digest)
  }
  /** Unless somebody reads it. @returns whether it went */
  const evict = (digest: Digest): Promise<boolean> =>
    inTurn(digest, async () => {
      const entry = index.stored(digest)
      if (isRead(digest)) return false
      if (entry !== undefined) await remove(digest, entry)
      opened.forget(files.pathOf(digest))
      return true
    })
  const isRead = (digest: Digest): boolean => opened.isRead(files.pathOf(digest))
  const drop = (digest: Digest): Promise<void> =>
    inTurn(digest, async () => {
      const entry = index.stored(digest)
      if (entry !== undefined) await remove(digest, entry)
      opened.forget(files.pathOf(digest))
    })
  /** Drops what a reader found broken, unless it was put right meanwhile. */
  const dropIfBroken = (digest: Digest): Promise<void> =>
    inTurn(digest, async () => {
      const entry = index.stored(digest)
      if (entry !== undefined && (await files.size(digest)) !== entry.size)
        await remove(digest, entry)
      opened.forget(files.pathOf(digest))
    })
  const evictor = await createEvictor({
    held,
    heldBytes: () => total.bytes,
    capacity: () => capacity(total.bytes),
    remove: evict,
    isRead,
    saveUses: (records) => index.putUses(records),
    now,
    observer: eviction,
  })
  const linkOf = (origin: Origin, digest: Digest): Link | undefined => {
    const link = unwritten.get(linkKey(origin, digest)) ?? index.link(origin, digest)
    return link?.project === origin.project ? link : undefined
  }

  return {
    total,
    room: evictor,
    size: (digest) => index.stored(digest)?.size,
    fetched(digest, ms) {
      const bytes = index.stored(digest)?.size
      if (bytes !== undefined) evictor.fetched(digest, { bytes, ms })
    },
    used: (digest) => evictor.used(digest),
    demote: (digest) => evictor.demote(digest),
    async open(digest) {
      const entry = index.stored(digest)
      if (entry === undefined) return undefined
      const handle = await opened.open(files.pathOf(digest))
      evictor.used(digest)
      if (handle !== undefined && handle.size === entry.size) return handle
      await handle?.close()
      await dropIfBroken(digest)
      return undefined
    },
    async readAll(digest) {
      const entry = index.stored(digest)
      if (entry === undefined) return undefined
      const bytes = await files.readAll(digest)
      evictor.used(digest)
      if (bytes?.length === entry.size) return bytes
      await dropIfBroken(digest)
      return undefined
    },
    put: (digest, bytes) =>
      inTurn(digest, async () => {
        if (index.stored(digest) !== undefined) return
        await unlessDiskFails(() => store(digest, bytes.length, () => files.put(digest, bytes)))
      }),
    openSink: (digest) =>
      openSink({
        digest,
        files,
        index,
        left,
        reserve: (size) => evictor.reserve(size),
        store: (size, publish) => inTurn(digest, () => store(digest, size, publish)),
      }),
    link: linkOf,
    addLink: (origin, digest, { mediaType }) =>
      inTurn(linkKey(origin, digest), async () => {
        const known = linkOf(origin, digest)
        if (known !== undefined && (mediaType === undefined || mediaType === known.mediaType))
          return
        const link: Link = {
          ...(mediaType !== undefined && { mediaType }),
          ...(origin.project !== undefined && { project: origin.project }),
        }
        const written = await unlessDiskFails(async () => {
          await files.appendLink(digest, formatLink(origin, link))
          await index.putLink(origin, digest, link)
        })
        if (written) unwritten.delete(linkKey(origin, digest))
        else unwritten.set(linkKey(origin, digest), link)
      }),
    drop,
    async close() {
      await evictor.close()
      opened.close()
    },
  }
}

/** Parts that fills left behind, at most one of a digest: the next fill of it takes it over. */
type LeftParts = Map<Digest, PartName>

interface SinkDeps {
  readonly digest: Digest
  readonly files: BlobFiles
  readonly index: CacheIndex
  readonly left: LeftParts
  /** Makes room, and returns what gives it back. */
  readonly reserve: Evictor['reserve']
  /** Gives the digest its file by `publish`, and its entry. */
  readonly store: (size: number, publish: () => Promise<void>) => Promise<void>
}

async function openSink(deps: SinkDeps): Promise<OpenedSink> {
  const { digest, files, index, left, reserve, store } = deps
  const part = (await takeOver(deps)) ?? (await files.createPart(digest))
  const progress = index.progress(part.name)
  let ended = false
  let release = (): void => {}
  const sink: Sink = {
    async reserve(size) {
      release()
      release = await reserve(size)
    },
    write: (buffer, offset) => part.write(buffer, offset),
    read: (buffer, offset) => part.read(buffer, offset),
    sync: () => part.sync(),
    saveProgress: ({ size, held }) => index.putProgress(part.name, { size, held }),
    async commit(size) {
      ended = true
      await store(size, async () => {
        await part.publish(size)
        // From here on it is counted as held.
        release()
      })
      await index.removeProgress(part.name)
    },
    async discard() {
      ended = true
      await index.removeProgress(part.name)
      await part.discard()
    },
    async close() {
      release()
      await part.close()
      if (!ended) await leave()
    },
  }
  return progress === undefined ? { sink } : { sink, held: progress.held, size: progress.size }

  /** What a fill that did not get to its end leaves for the next one, unless there is something already. */
  async function leave(): Promise<void> {
    const { name } = part
    if (index.progress(name) !== undefined && !left.has(digest)) {
      left.set(digest, name)
      return
    }
    await index.removeProgress(name)
    await files.removePart(name)
  }
}

async function takeOver({ digest, files, left }: SinkDeps): Promise<PartFile | undefined> {
  const name = left.get(digest)
  if (name === undefined) return undefined
  left.delete(digest)
  return files.openPart(name)
}

/** A lost index is only an index: sizes stand in the folder, links beside the blobs. */
async function rebuildIndex(files: BlobFiles, index: CacheIndex): Promise<void> {
  for await (const { digest, size } of files.list()) {
    await index.putStored(digest, { size })
    for (const line of await files.readLinks(digest)) {
      const read = parseLink(line)
      if (read !== undefined) await index.putLink(read.origin, digest, read.link)
    }
  }
  await index.markComplete()
}

/**
 * After a crash: a part without a record is worthless (its bytes may be holes), a record without a part
 * belongs to a blob that was proved, synced and renamed, and only missed its entry. The rest is left for
 * whoever fills the digest next.
 */
async function settleParts(files: BlobFiles, index: CacheIndex): Promise<LeftParts> {
  const left: LeftParts = new Map()
  const there = new Set(await files.listParts())
  const recorded = new Set(await index.listProgress())
  for (const name of there) if (!recorded.has(name)) await files.removePart(name)
  for (const name of recorded) {
    const digest = digestOfPart(name)
    if (digest !== undefined && there.has(name) && !left.has(digest)) {
      left.set(digest, name)
      continue
    }
    const size = digest === undefined ? undefined : await files.size(digest)
    if (digest !== undefined && size !== undefined) await index.putStored(digest, { size })
    await index.removeProgress(name)
    await files.removePart(name)
  }
  return left
}

function linkKey({ upstream, repository }: Origin, digest: Digest): string {
  return `${upstream}!${repository}!${digest}`
}

/** One line; the last one of an origin counts. */
function formatLink({ upstream, repository }: Origin, link: Link): string {
  return JSON.stringify({ upstream, repository, ...link })
}

function parseLink(line: string): { origin: Origin; link: Link } | undefined {
  try {
    const { upstream, repository, mediaType, project } = JSON.parse(line) as Origin & Link
    const link = {
      ...(mediaType !== undefined && { mediaType }),
      ...(project !== undefined && { project }),
    }
    return { origin: { upstream, repository }, link }
  } catch {
    return undefined
  }
}

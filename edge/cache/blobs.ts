import { createOpenFiles } from '../../shared/files/open-files.ts'
import type { OpenedSink } from '../../shared/fill/sink.ts'
import { createLru } from '../../shared/memory/lru.ts'
import { algorithmOf, digestOf, type Digest } from '../../shared/oci/digest.ts'
import type { BlobHandle } from '../../shared/stream/blob-handle.ts'
import { createHasher, type Hasher } from '../../shared/stream/hasher.ts'
import type { BlobFiles } from './blob-files.ts'
import type { CacheIndex, Link, Origin, StoredEntry } from './cache-index.ts'
import { createEvictor, type EvictionObserver, type Evictor } from './evict.ts'
import { createParts } from './parts.ts'
import { createProofs, isContentOf, type CheckedFile, type Doubt } from './proofs.ts'
import type { Share } from './shares.ts'
import type { HeldBlob } from './gdsf.ts'
import { createTurns } from './turns.ts'

/** Verified content by digest, and which repository may show it. */
export interface CachedBlobs {
  /**
   * While a lost index is made again: has it know one digest at once, so that it is served, and not fetched again.
   * @returns undefined when there is nothing to wait for
   */
  know(digest: Digest): Promise<unknown> | undefined
  /** Bytes of a held blob, or undefined. */
  size(digest: Digest): number | undefined
  /** A reader of a held blob, or undefined; the caller closes it. */
  open(digest: Digest, doubt?: Doubt): Promise<BlobHandle | undefined>
  /** Reads a small blob whole, or undefined. */
  readAll(digest: Digest): Promise<Buffer | undefined>
  /**
   * Stores small content that was proved, unless it is held; a disk that fails is told of, and it is not held.
   * @param owner whose share of the cache it counts in: `ownerOf`
   */
  put(digest: Digest, bytes: Buffer, owner?: string): Promise<void>
  /**
   * Where one fill of this digest writes: a file of its own. What an earlier fill left behind, if no other
   * has taken it over, is reported as held.
   * @param owner as for `put`
   */
  openSink(digest: Digest, owner?: string): Promise<OpenedSink>
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
  fetched(digest: Digest, blob: { readonly bytes: number; readonly ms: number }): void
  /** A held blob is being answered from memory. */
  used(digest: Digest): void
  /** It may be that nobody asks for a held blob again: it goes next when room is needed, unless somebody does. */
  demote(digest: Digest): void
  /** Which blobs stay from now on, held or to come, whoever needs room: up to 80 % of it. */
  setPins(pins: ReadonlySet<Digest>): void
  isPinned(digest: Digest): boolean
  /** Reads a held blob, and drops it unless it is right. @param pause waited for after each read of so many bytes */
  check(digest: Digest, pause: (bytes: number) => Promise<void>): Promise<void>
  /** Forgets a blob whose file is not what it should be; links stay and lead to a new fill. */
  drop(digest: Digest): Promise<void>
  /**
   * Lets a held blob go, unless it is pinned, read, or was proved later than that.
   * @param provedBefore epoch ms
   * @returns whether it went
   */
  prune(digest: Digest, provedBefore: number): Promise<boolean>
  /** Every held blob, many at a time. */
  list(): AsyncIterable<readonly HeldBlob[]>
  /** The upstreams of the repositories that a blob was brought for. */
  upstreamsOf(digest: Digest): Promise<ReadonlySet<string>>
  /** Held bytes and blobs, for the metrics. */
  readonly total: { readonly bytes: number; readonly count: number }
  /** Bytes that may be held, those on their way, and those that are pinned. */
  readonly room: Pick<
    Evictor,
    'capacityBytes' | 'reservedBytes' | 'pinnedBytes' | 'pinnableBytes' | 'restored'
  >
  close(): Promise<void>
}

export interface CachedBlobsDeps {
  readonly files: BlobFiles
  readonly index: CacheIndex
  /** Files kept open without a reader. */
  readonly openFiles: number
  /** Told of what the disk refused; it is served without it. */
  readonly onDiskFailed: (error: unknown) => void
  /** Told when a blob was stored. */
  readonly onStored?: (() => void) | undefined
  /** Bytes that the cache may take, by a look at the disk; without, whatever comes. */
  readonly capacity?: ((heldBytes: number) => Promise<number>) | undefined
  readonly eviction?: EvictionObserver | undefined
  /** What some owners may take at most. */
  readonly shares?: readonly Share[] | undefined
  /** Hashes what is read again; on this thread without. */
  readonly hasher?: Hasher | undefined
  /** Told of a file that is not what its digest says; it is gone by then. */
  readonly onRotten?: ((digest: Digest, found: RottenFound) => void) | undefined
  /** Told when something went that is pinned. */
  readonly onPinLost?: (() => void) | undefined
  /** Milliseconds for which a file counts as proved; without, until it is changed. */
  readonly proofMs?: number | undefined
  readonly now?: (() => number) | undefined
}

export type RottenFound = 'read' | 'scrub'

interface BlobToStore {
  readonly size: number
  readonly owner: string | undefined
  readonly publish: () => Promise<void>
  /** Called when it counts as held. */
  readonly counted?: () => void
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
  shares,
  hasher = createHasher({ workerFromBytes: Infinity }),
  onRotten,
  onPinLost,
  proofMs = Infinity,
  now = Date.now,
}: CachedBlobsDeps): Promise<CachedBlobs> {
  // What is looked at and then changed: each digest's file with its entry, and each link.
  const { inTurn } = createTurns()
  const parts = await createParts({
    files,
    index,
    reserve: (bytes) => evictor.reserve(bytes),
    store: (digest, blob) => inTurn(digest, () => store(digest, blob)),
  })
  const total = { bytes: 0, count: 0 }
  const walk = index.walkHeld()
  /** What is stored or removed meanwhile is counted then: the walk shows what was there before. */
  const countHeld = async function* (): AsyncGenerator<readonly HeldBlob[]> {
    for await (const blobs of walk) {
      for (const { bytes } of blobs) total.bytes += bytes
      total.count += blobs.length
      yield blobs
    }
  }
  let complete = index.complete
  /** Makes the entry of a file that has none, and its links. @returns its bytes, if there is such a file */
  const adopt = (digest: Digest): Promise<number | undefined> =>
    inTurn(digest, async () => {
      const size = index.stored(digest) === undefined ? await files.size(digest) : undefined
      if (size === undefined) return undefined
      for (const line of await files.readLinks(digest)) {
        const read = parseLink(line)
        if (read !== undefined) await index.putLink(read.origin, digest, read.link)
      }
      await index.putStored(digest, { size })
      total.bytes += size
      total.count++
      return size
    })
  /** A lost index is only an index: sizes stand in the folder, links beside the blobs. */
  const rebuild = async function* (): AsyncGenerator<readonly HeldBlob[]> {
    yield* countHeld()
    for await (const { digest } of files.list()) {
      const bytes = await adopt(digest)
      yield bytes === undefined ? [] : [{ digest, bytes, record: undefined }]
    }
    await index.markComplete()
    complete = true
    onStored?.()
  }
  const opened = createOpenFiles(openFiles)
  const unwritten = createLru<string, Link>({ max: rememberedLinks })

  /** Does without what the disk refuses, and tells of it. @returns whether it worked */
  const unlessDiskFails = async (write: () => Promise<void>): Promise<boolean> => {
    try {
      await write()
      return true
    } catch (error) {
      onDiskFailed(error)
      return false
    }
  }
  /** Gives the digest its file by `publish`, and then its entry. Call it, and `remove`, in the digest's turn. */
  const store = async (digest: Digest, { size, owner, publish, counted }: BlobToStore) => {
    await publish()
    const before = index.stored(digest)
    const changedAt = await files.changedAt(digest)
    const entry: StoredEntry = {
      size,
      ...(changedAt !== undefined && { changedAt, provedAt: now() }),
      ...(owner !== undefined && { owner }),
    }
    try {
      await index.putStored(digest, entry)
    } catch (error) {
      // A file without an entry is counted by nobody, and never goes.
      if (before === undefined) await files.remove(digest).catch(() => undefined)
      throw error
    }
    total.bytes += size - (before?.size ?? 0)
    if (before === undefined) total.count++
    counted?.()
    evictor.added(digest, { bytes: size, owner })
    onStored?.()
  }
  const remove = async (digest: Digest, { size }: StoredEntry) => {
    // The index first: a crash in between leaves a file that nobody asks for, never a promise without a file.
    await index.removeStored(digest)
    total.bytes -= size
    total.count--
    evictor.removed(digest)
    if (pinned.has(digest)) onPinLost?.()
    await files.remove(digest)
  }
  /** Unless somebody reads it. @returns whether it went */
  const evict = (digest: Digest): Promise<boolean> =>
    inTurn(digest, async () => {
      const entry = index.stored(digest)
      if (isRead(digest)) return false
      try {
        if (entry !== undefined) await remove(digest, entry)
        // One whose entry went the last time, and its file did not.
        else await files.remove(digest)
      } finally {
        opened.forget(files.pathOf(digest))
      }
      return true
    })
  const isRead = (digest: Digest): boolean =>
    parts.isOpen(digest) || opened.isRead(files.pathOf(digest))
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
  /** Of a file whose bytes were not what its digest says, unless it was put right meanwhile. */
  const dropRotten = (digest: Digest, changedAt: number | undefined, found: RottenFound) =>
    inTurn(digest, async () => {
      const entry = index.stored(digest)
      if (entry === undefined || (await files.changedAt(digest)) !== changedAt) return
      await remove(digest, entry)
      opened.forget(files.pathOf(digest))
      onRotten?.(digest, found)
    })
  /** Of a file that the medium does not give any more: this one's readers are cut, the next one has it fetched. */
  const dropIfUnreadable = async (digest: Digest, error: unknown): Promise<void> => {
    if (!isReadError(error)) return
    onDiskFailed(error)
    await dropRotten(digest, await files.changedAt(digest), 'read')
  }
  const unlessUnreadable = async <T>(
    digest: Digest,
    read: () => Promise<T>,
  ): Promise<T | undefined> => {
    try {
      return await read()
    } catch (error) {
      if (!isReadError(error)) throw error
      await dropIfUnreadable(digest, error)
      return undefined
    }
  }
  const noteProved = (digest: Digest, { size, changedAt }: Omit<CheckedFile, 'isRight'>) =>
    inTurn(digest, async () => {
      const entry = index.stored(digest)
      if (entry?.size === size)
        await index.putStored(digest, { ...entry, changedAt, provedAt: now() })
    })
  const proofs = createProofs({
    hasher,
    changedAt: (digest) => files.changedAt(digest),
    reopen: (digest) => opened.open(files.pathOf(digest)),
    onChecked: (digest, found) =>
      found.isRight ? noteProved(digest, found) : dropRotten(digest, found.changedAt, 'read'),
    proofMs,
    now,
  })
  const evictor = await createEvictor({
    held: complete ? countHeld() : rebuild(),
    heldBytes: () => total.bytes + parts.leftBytes,
    capacity: () => capacity(total.bytes + parts.leftBytes + parts.openBytes),
    removeRest: () => parts.removeOldest(),
    remove: evict,
    isRead,
    ownerOf: (digest) => index.stored(digest)?.owner,
    shares,
    onFailed: onDiskFailed,
    // A blob may have gone since; its record would be taken for that of its return.
    saveUses: (records) =>
      index.putUses(new Map([...records].filter(([digest]) => index.stored(digest) !== undefined))),
    now,
    observer: eviction,
  })
  let pinned: ReadonlySet<Digest> = new Set()
  const linkOf = (origin: Origin, digest: Digest): Link | undefined => {
    const link = unwritten.get(linkKey(origin, digest)) ?? index.link(origin, digest)
    return link?.project === origin.project ? link : undefined
  }

  const know: CachedBlobs['know'] = (digest) => {
    if (complete || index.stored(digest) !== undefined) return undefined
    return unlessDiskFails(async () => {
      const bytes = await adopt(digest)
      if (bytes !== undefined) evictor.added(digest, { bytes, owner: undefined })
    })
  }

  return {
    total,
    room: evictor,
    know,
    size: (digest) => index.stored(digest)?.size,
    fetched: (digest, blob) => evictor.fetched(digest, blob),
    used: (digest) => evictor.used(digest),
    demote: (digest) => evictor.demote(digest),
    setPins(pins) {
      pinned = pins
      evictor.setPins(pins)
    },
    isPinned: (digest) => pinned.has(digest),
    async prune(digest, provedBefore) {
      const { provedAt = 0 } = index.stored(digest) ?? {}
      if (pinned.has(digest) || provedAt >= provedBefore) return false
      return evict(digest)
    },
    list: () => index.walkHeld(),
    async upstreamsOf(digest) {
      const lines = await files.readLinks(digest)
      return new Set(lines.flatMap((line) => parseLink(line)?.origin.upstream ?? []))
    },
    async open(digest, doubt) {
      const entry = index.stored(digest)
      if (entry === undefined) return undefined
      const handle = await unlessUnreadable(digest, () => opened.open(files.pathOf(digest)))
      evictor.used(digest)
      if (handle !== undefined && handle.size === entry.size) {
        const guarded = await proofs.guard(digest, entry, handle, doubt)
        const read: BlobHandle['read'] = async (buffer, offset) => {
          try {
            return await guarded.read(buffer, offset)
          } catch (error) {
            await dropIfUnreadable(digest, error)
            throw error
          }
        }
        return { ...guarded, read }
      }
      await handle?.close()
      await dropIfBroken(digest)
      return undefined
    },
    async readAll(digest) {
      await know(digest)
      const entry = index.stored(digest)
      if (entry === undefined) return undefined
      const bytes = await unlessUnreadable(digest, () => files.readAll(digest))
      evictor.used(digest)
      if (bytes?.length !== entry.size) await dropIfBroken(digest)
      // It is small, and is held in memory from now on.
      else if (digestOf(bytes, algorithmOf(digest)) === digest) return bytes
      else await dropRotten(digest, await files.changedAt(digest), 'read')
      return undefined
    },
    async check(digest, pause) {
      const changedAt = await files.changedAt(digest)
      const reader = await opened.open(files.pathOf(digest))
      if (reader === undefined) return dropIfBroken(digest)
      try {
        const { size } = reader
        if (await isContentOf(digest, reader, { hasher, pause }))
          return await noteProved(digest, { size, changedAt: changedAt ?? 0 })
      } catch (error) {
        if (!isReadError(error)) throw error
      } finally {
        await reader.close()
      }
      await dropRotten(digest, changedAt, 'scrub')
    },
    put: (digest, bytes, owner) =>
      inTurn(digest, async () => {
        if (index.stored(digest) !== undefined) return
        const blob = { size: bytes.length, owner, publish: () => files.put(digest, bytes) }
        await unlessDiskFails(() => store(digest, blob))
      }),
    openSink: (digest, owner) => parts.openSink(digest, owner),
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

/** Whether a disk says that it cannot read what it holds; too many open files, say, are no fault of a file's. */
function isReadError(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EIO'
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

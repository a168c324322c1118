import { createUseCounts } from '../../shared/files/use-counts.ts'
import type { OpenedSink, Sink, SinkProgress } from '../../shared/fill/sink.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { digestOfPart, type BlobFiles, type PartFile, type PartName } from './blob-files.ts'
import type { CacheIndex } from './cache-index.ts'

/** The files that fills write into, and what unfinished ones left behind. */
export interface Parts {
  /** As `CachedBlobs.openSink`. */
  openSink(digest: Digest, owner?: string): Promise<OpenedSink>
  /** Whether a fill of the digest has its file open: its readers read there, also when the blob has its name. */
  isOpen(digest: Digest): boolean
  /** Removes what was left longest ago. @returns whether there was anything */
  removeOldest(): Promise<boolean>
  /** Bytes of what was left, and of the files that are open. */
  readonly leftBytes: number
  readonly openBytes: number
}

export interface PartsDeps {
  readonly files: BlobFiles
  readonly index: CacheIndex
  /** Makes room for so many bytes, and returns what gives it back. */
  readonly reserve: (bytes: number) => Promise<() => void>
  /** Gives the digest its file by `publish`, and its entry; `counted` is called when it counts as held. */
  readonly store: (
    digest: Digest,
    blob: {
      readonly size: number
      readonly owner: string | undefined
      readonly publish: () => Promise<void>
      counted(): void
    },
  ) => Promise<void>
}

/** A part that nobody writes into, at most one of a digest: the next fill of it takes it over. */
interface LeftPart {
  readonly name: PartName
  readonly bytes: number
}

/** Settles what an earlier run left. */
export async function createParts({ files, index, reserve, store }: PartsDeps): Promise<Parts> {
  // In the order of leaving.
  const left = await settleParts(files, index)
  let leftBytes = [...left.values()].reduce((sum, { bytes }) => sum + bytes, 0)
  let openBytes = 0
  const open = createUseCounts<Digest>()

  const takeLeft = (digest: Digest): LeftPart | undefined => {
    const found = left.get(digest)
    if (left.delete(digest)) leftBytes -= found?.bytes ?? 0
    return found
  }
  /** What a fill that did not get to its end leaves for the next one, unless there is something already. */
  const leave = async (digest: Digest, name: PartName): Promise<void> => {
    const progress = index.progress(name)
    if (progress === undefined || left.has(digest)) return forgetPart(name, { files, index })
    const bytes = bytesOf(progress)
    left.set(digest, { name, bytes })
    leftBytes += bytes
  }
  const openPart = async (digest: Digest): Promise<PartFile> => {
    const found = takeLeft(digest)
    return (found && (await files.openPart(found.name))) ?? files.createPart(digest)
  }

  return {
    get leftBytes() {
      return leftBytes
    },
    get openBytes() {
      return openBytes
    },
    isOpen: (digest) => open.isUsed(digest),
    async removeOldest() {
      const [digest] = left.keys()
      const oldest = digest && takeLeft(digest)
      if (oldest === undefined) return false
      await forgetPart(oldest.name, { files, index })
      return true
    },
    async openSink(digest, owner) {
      const part = await openPart(digest)
      const progress = index.progress(part.name)
      let ended = false
      let committed = false
      let release = (): void => {}
      let written = progress === undefined ? 0 : bytesOf(progress)
      openBytes += written
      open.begin(digest)
      /** Its bytes count as held, or not at all, from here on. */
      const uncount = (): void => {
        release()
        openBytes -= written
        written = 0
      }
      const sink: Sink = {
        async reserve(size) {
          release()
          release = await reserve(size)
        },
        async write(buffer, offset) {
          await part.write(buffer, offset)
          written += buffer.length
          openBytes += buffer.length
        },
        read: (buffer, offset) => part.read(buffer, offset),
        sync: () => part.sync(),
        saveProgress: ({ size, held }) => index.putProgress(part.name, { size, held }),
        async commit(size) {
          ended = true
          await store(digest, {
            size,
            owner,
            publish: () => part.publish(size),
            counted: uncount,
          })
          committed = true
          await index.removeProgress(part.name)
        },
        isDropped: () => committed && index.stored(digest) === undefined,
        async discard() {
          ended = true
          await index.removeProgress(part.name)
          await part.discard()
        },
        async close() {
          uncount()
          open.end(digest)
          await part.close()
          if (!ended) await leave(digest, part.name)
        },
      }
      return progress === undefined ? { sink } : { sink, held: progress.held, size: progress.size }
    },
  }
}

function bytesOf({ held }: SinkProgress): number {
  return held.reduce((sum, { start, end }) => sum + end - start, 0)
}

/**
 * After a crash: a part without a record is worthless (its bytes may be holes), a record without a part
 * belongs to a blob that was proved, synced and renamed, and only missed its entry. The rest is left for
 * whoever fills the digest next.
 */
async function settleParts(files: BlobFiles, index: CacheIndex): Promise<Map<Digest, LeftPart>> {
  const left = new Map<Digest, LeftPart>()
  const there = new Set(await files.listParts())
  const recorded = new Set(await index.listProgress())
  for (const name of there) if (!recorded.has(name)) await files.removePart(name)
  for (const name of recorded) {
    const digest = digestOfPart(name)
    const progress = index.progress(name)
    if (digest !== undefined && progress !== undefined && there.has(name) && !left.has(digest)) {
      left.set(digest, { name, bytes: bytesOf(progress) })
      continue
    }
    const size = digest === undefined ? undefined : await files.size(digest)
    if (digest !== undefined && size !== undefined) await index.putStored(digest, { size })
    await forgetPart(name, { files, index })
  }
  return left
}

async function forgetPart(
  name: PartName,
  { files, index }: Pick<PartsDeps, 'files' | 'index'>,
): Promise<void> {
  await index.removeProgress(name)
  await files.removePart(name)
}

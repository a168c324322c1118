import { largeReads, plainBufferBytes, type BufferBytes, type SendPool } from './send-pool.ts'

/** Where the bytes of a file are read; `identity` is the same object for all who read that file. */
export interface SharedFile {
  readonly identity: object
  readonly size: number
  read(buffer: Buffer, offset: number): Promise<number>
}

/** Bytes of a chunk that others may be reading too: change nothing. */
export interface SharedPiece {
  readonly bytes: Buffer
  release(): void
  /** Instead of `release`, when an aborted write may still read the bytes. */
  lose(): void
}

/** One transfer's way to the chunks of a file. */
export interface ChunkReader {
  /**
   * The bytes from `offset` to the end of their chunk, read unless another transfer has, or had, just
   * read them; undefined when there is no buffer for it.
   * @throws what reading throws
   */
  take(offset: number): Promise<SharedPiece | undefined>
  /** The transfer is at its end. */
  leave(): void
}

/**
 * The chunks of files that are being sent. Clients that pull the same blob at the same time, as the nodes of
 * a rack do, share one read of each chunk; and a file that is asked for again finds what the pool still holds.
 */
export interface SharedChunks {
  join(file: SharedFile): ChunkReader
  /** Gives up a chunk that nobody is sending. */
  reclaim(): Buffer | undefined
  /** Bytes of chunks that nobody is sending. */
  idleBytes(): number
}

interface FileChunks {
  readonly chunks: Map<number, Chunk>
  /** Decided while there are no chunks. */
  chunkBytes: BufferBytes
  readonly size: number
  /** Transfers now, and ever. */
  readers: number
  joined: number
}

interface Chunk {
  readonly index: number
  readonly buffer: Buffer
  readonly length: Promise<number>
  pieces: number
  /** What becomes of its buffer when nobody sends it any more. */
  fate: 'keep' | 'give' | 'lose'
  /** Where it stands among the idle ones, while it is idle. */
  place: number
  readonly owner: FileChunks
}

/** Takes its buffers of the pool, and keeps them there when they are idle. */
export function createSharedChunks(pool: SendPool): SharedChunks {
  const files = new WeakMap<object, FileChunks>()
  const idle: Chunk[] = []
  /** Bytes of chunks that somebody sends. */
  let busyBytes = 0
  let idleBytes = 0

  const forget = (chunk: Chunk): void => {
    if (chunk.owner.chunks.get(chunk.index) === chunk) chunk.owner.chunks.delete(chunk.index)
  }
  const removeIdle = (chunk: Chunk): void => {
    idleBytes -= chunk.buffer.length
    const last = idle.pop()
    if (last === undefined || last === chunk) return
    idle[chunk.place] = last
    last.place = chunk.place
  }
  const letGo = (chunk: Chunk): void => {
    if (--chunk.pieces > 0) return
    busyBytes -= chunk.buffer.length
    if (chunk.fate === 'lose') return pool.lose(chunk.buffer)
    if (chunk.fate === 'keep' && isWanted(chunk.owner)) {
      chunk.place = idle.push(chunk) - 1
      idleBytes += chunk.buffer.length
      return
    }
    forget(chunk)
    pool.give(chunk.buffer)
  }
  // The buffers of what is hardly wanted again are used again first: they are warm, and nothing is lost.
  const isWanted = ({ readers, joined, size }: FileChunks): boolean =>
    readers > 1 || (joined > 1 && size <= pool.maxBytes)
  const spoil = (chunk: Chunk, fate: 'give' | 'lose'): void => {
    chunk.fate = fate
    forget(chunk)
    letGo(chunk)
  }

  /** Large chunks take large parts of the pool: they are for whoever comes while most of it is free, and never for a small file. */
  const fittingChunk = ({ size }: SharedFile): BufferBytes =>
    largeReads.find(
      (bytes) => size >= minChunks * bytes && busyBytes + bytes <= pool.maxBytes / 4,
    ) ?? plainBufferBytes

  const read = (owner: FileChunks, file: SharedFile, index: number): Chunk | undefined => {
    const buffer = pool.take(owner.chunkBytes)
    if (buffer === undefined) return undefined
    busyBytes += buffer.length
    const length = fill(buffer, file, index * owner.chunkBytes)
    const chunk: Chunk = { owner, index, buffer, length, pieces: 1, fate: 'keep', place: -1 }
    owner.chunks.set(index, chunk)
    return chunk
  }
  const share = (chunk: Chunk): Chunk => {
    if (chunk.pieces++ > 0) return chunk
    removeIdle(chunk)
    busyBytes += chunk.buffer.length
    return chunk
  }

  return {
    join(file) {
      const owner = files.get(file.identity) ?? newOwner(file)
      files.set(file.identity, owner)
      if (owner.chunks.size === 0 && owner.readers === 0) owner.chunkBytes = fittingChunk(file)
      owner.readers++
      owner.joined++
      return {
        async take(offset) {
          const { chunkBytes } = owner
          const index = Math.floor(offset / chunkBytes)
          const present = owner.chunks.get(index)
          const chunk = present ? share(present) : read(owner, file, index)
          if (chunk === undefined) return undefined
          try {
            const bytes = chunk.buffer.subarray(offset % chunkBytes, await chunk.length)
            return { bytes, release: () => letGo(chunk), lose: () => spoil(chunk, 'lose') }
          } catch (error) {
            spoil(chunk, 'give')
            if (present === undefined) throw error
            // Another transfer's read failed, perhaps because that transfer ended: its own may not.
            return undefined
          }
        },
        leave() {
          owner.readers--
        },
      }
    },
    reclaim() {
      // At random: a file read again and again from its start, and one a little larger than the pool, would
      // find nothing of what was kept if the oldest went first.
      const chunk = idle[Math.floor(Math.random() * idle.length)]
      if (chunk === undefined) return undefined
      removeIdle(chunk)
      forget(chunk)
      return chunk.buffer
    },
    idleBytes: () => idleBytes,
  }
}

/** With fewer, a chunk for the bytes that are sent and one ahead would be most of the file. */
const minChunks = 4

function newOwner({ size }: SharedFile): FileChunks {
  return { chunks: new Map(), chunkBytes: plainBufferBytes, size, readers: 0, joined: 0 }
}

async function fill(buffer: Buffer, file: SharedFile, offset: number): Promise<number> {
  const wanted = Math.min(buffer.length, file.size - offset)
  let length = 0
  while (length < wanted) {
    const bytes = await file.read(buffer.subarray(length, wanted), offset + length)
    if (bytes === 0)
      throw new Error(`a blob of ${file.size} bytes ended at byte ${offset + length}`)
    length += bytes
  }
  return length
}

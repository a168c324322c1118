import { LRUCache } from 'lru-cache'
import type { Digest } from '../../shared/oci/digest.ts'

/** Content small enough to be answered from memory. Who may see it is not decided here. */
export interface MemoryCache {
  get(digest: Digest): Buffer | undefined
  put(digest: Digest, bytes: Buffer): void
  drop(digest: Digest): void
  /** The largest content that is kept, in bytes. */
  readonly entryMaxBytes: number
  /** Bytes held. */
  readonly bytes: number
}

/** What an entry costs beside its bytes: key, list node, Buffer object. */
const overheadBytes = 512

/** Holds at most `maxBytes` in all, and of one content at most `maxEntryBytes` and a quarter of all. */
export function createMemoryCache(maxBytes: number, maxEntryBytes = 1024 * 1024): MemoryCache {
  const entryMaxBytes = Math.min(maxEntryBytes, Math.floor(maxBytes / 4))
  const entries = new LRUCache<Digest, Buffer>({
    maxSize: maxBytes,
    sizeCalculation: (bytes) => bytes.length + overheadBytes,
  })
  return {
    entryMaxBytes,
    get bytes() {
      return entries.calculatedSize
    },
    get: (digest) => entries.get(digest),
    put: (digest, bytes) => {
      if (bytes.length <= entryMaxBytes) entries.set(digest, bytes)
    },
    drop: (digest) => {
      entries.delete(digest)
    },
  }
}

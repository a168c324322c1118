import type { FileReader } from '../../shared/files/open-files.ts'
import { algorithmOf, type Digest } from '../../shared/oci/digest.ts'
import type { BlobHandle } from '../../shared/stream/blob-handle.ts'
import { SourceError } from '../../shared/stream/blob-source.ts'
import type { Hasher } from '../../shared/stream/hasher.ts'
import type { StoredEntry } from './cache-index.ts'

/**
 * Whether held files are still what was proved of them. Nobody re-hashes a file that was proved not long ago and whose size
 * and time of change are as they were then; any other is hashed beside its first reader, who does not get its end before.
 */
export interface Proofs {
  /**
   * A reader that never gives the whole of a file that is not what its digest says.
   * @param reader of a held file that has the entry's size
   */
  guard(digest: Digest, entry: StoredEntry, reader: FileReader, doubt?: Doubt): Promise<BlobHandle>
}

export interface Doubt {
  /** Who reads it may have found it wrong a moment ago: only a young proof counts. */
  readonly isDoubted: boolean
}

/** Of the time for which a proof counts else: 10 minutes of a day. Not shorter, lest many who ask again cost a hash each. */
const doubtedPart = 1 / 144

export interface ProofsDeps {
  readonly hasher: Hasher
  /** When a file was last changed, in milliseconds; undefined when it is gone. */
  readonly changedAt: (digest: Digest) => Promise<number | undefined>
  /** Another reader of the file, which is closed here. */
  readonly reopen: (digest: Digest) => Promise<FileReader | undefined>
  /** Told what was found of a file that had not been proved as it is. */
  readonly onChecked: (digest: Digest, found: CheckedFile) => Promise<void>
  /** Milliseconds for which a proof counts: a medium forgets without a word. */
  readonly proofMs: number
  readonly now: () => number
}

export interface CheckedFile {
  readonly isRight: boolean
  readonly size: number
  readonly changedAt: number
}

/** What a reader of a doubted file does not get before it is proved. */
const withheldBytes = 64 * 1024

export function createProofs({
  hasher,
  changedAt,
  reopen,
  onChecked,
  proofMs,
  now,
}: ProofsDeps): Proofs {
  const checking = new Map<Digest, Promise<boolean>>()

  const check = async (digest: Digest, changed: number): Promise<boolean> => {
    const reader = await reopen(digest)
    if (reader === undefined) return false
    try {
      const isRight = await isContentOf(digest, reader, { hasher })
      await onChecked(digest, { isRight, size: reader.size, changedAt: changed })
      return isRight
    } finally {
      await reader.close()
    }
  }
  const checkOnce = (digest: Digest, changed: number): Promise<boolean> => {
    const running = checking.get(digest)
    if (running !== undefined) return running
    const started = check(digest, changed).finally(() => checking.delete(digest))
    // A reader that has gone waits for it no more.
    started.catch(() => undefined)
    checking.set(digest, started)
    return started
  }

  return {
    async guard(digest, entry, reader, doubt) {
      const countsMs = doubt?.isDoubted === true ? proofMs * doubtedPart : proofMs
      const changed = await changedAt(digest)
      const isAsProved = changed !== undefined && changed === entry.changedAt
      if (isAsProved && now() - (entry.provedAt ?? 0) < countsMs) return reader
      return withholding(reader, checkOnce(digest, changed ?? 0))
    },
  }
}

const readBytes = 2 ** 20

/**
 * Reads a whole file and hashes it.
 * @param pause called after each read with its bytes; what it waits for holds the reading up
 */
export async function isContentOf(
  digest: Digest,
  reader: FileReader,
  { hasher, pause }: { readonly hasher: Hasher; readonly pause?: (bytes: number) => Promise<void> },
): Promise<boolean> {
  const hash = hasher.start(algorithmOf(digest), reader.size)
  let ended = false
  try {
    // Shared, so that the worker hashes it in place. Most files are small, and there are very many of them.
    const buffer = Buffer.from(new SharedArrayBuffer(Math.min(reader.size, readBytes)))
    for (let offset = 0; offset < reader.size;) {
      const bytes = await reader.read(buffer, offset)
      if (bytes === 0) return false
      await hash.update(buffer.subarray(0, bytes))
      offset += bytes
      await pause?.(bytes)
    }
    ended = true
    return (await hash.digest()) === digest
  } finally {
    if (!ended) hash.drop()
  }
}

/** @param proof whether the file is right */
function withholding(reader: FileReader, proof: Promise<boolean>): BlobHandle {
  const { size, identity } = reader
  const safe = Math.max(size - withheldBytes, 0)
  return {
    size,
    identity,
    async read(buffer, offset) {
      if (offset < safe) return reader.read(buffer.subarray(0, safe - offset), offset)
      if (!(await proof))
        throw new SourceError('broken', 'the held file is not what its digest says')
      return reader.read(buffer, offset)
    },
    close: () => reader.close(),
  }
}

import { createHash } from 'node:crypto'
import { downloadPart, type PartSeen } from './part-client.ts'

/** How a client pulls a blob: in one request, or as containerd does with parallel fetches. */
export const patterns = ['plain', 'chunked'] as const
export type Pattern = (typeof patterns)[number]

/** The unit of requests, of the edge to an upstream and of containerd to the edge. */
export const segmentBytes = 8 * 2 ** 20
const parallelChunks = 3

export interface Pull {
  readonly origin: URL
  readonly path: string
  readonly expected: Expected
  /** Whether to check the bytes. */
  readonly hashes: boolean
  readonly authorization?: string | undefined
}

/** What a blob is: its size, a multiple of a segment's, and sha256 in hex of all of it and of each of its segments. */
export interface Expected {
  readonly bytes: number
  readonly whole: string
  readonly segments: readonly string[]
}

/** Before the clients start: whoever hashes while they run keeps all of them, and the upstream, waiting. */
export function expectedOf(blob: Buffer): Expected {
  const hashOf = (bytes: Buffer): string => createHash('sha256').update(bytes).digest('hex')
  const starts = Array.from({ length: blob.length / segmentBytes }, (_, i) => i * segmentBytes)
  const segments = starts.map((start) => hashOf(blob.subarray(start, start + segmentBytes)))
  return { bytes: blob.length, whole: hashOf(blob), segments }
}

/** Pulls a whole blob. @throws Error unless all of it comes, and is right */
export const pull: Record<Pattern, (wanted: Pull) => Promise<PartSeen[]>> = {
  async plain({ expected, ...wanted }) {
    const seen = await downloadPart({ ...wanted, length: expected.bytes })
    checkBytes(seen, expected.whole)
    return [seen]
  },
  /** Three open-ended ranges at a time, each closed after its chunk. */
  async chunked({ expected, ...wanted }) {
    const left = expected.segments.entries()
    const seen: PartSeen[] = []
    const fetchNext = async (): Promise<void> => {
      for (const [segment, sha256] of left) {
        const offset = segment * segmentBytes
        const part = await downloadPart({ ...wanted, offset, length: segmentBytes })
        checkBytes(part, sha256)
        seen.push(part)
      }
    }
    await Promise.all(Array.from({ length: parallelChunks }, fetchNext))
    return seen
  },
}

/** @throws Error when what was hashed is something else */
export function checkBytes({ sha256 }: PartSeen, expected: string): void {
  if (sha256 !== undefined && sha256 !== expected) throw new Error('a client got other bytes')
}

import type { Digest } from '../../shared/oci/digest.ts'

/** What is pinned here, and how much may be. */
export interface PinRoom {
  /** Bytes that pins may take. */
  readonly pinnableBytes: number
  /** Held bytes of what is pinned. */
  readonly pinnedBytes: number
  /** Resolves when all that is held is known. */
  readonly restored: Promise<void>
}

/** An image does not fit into what pins may take: nothing of it is fetched, or kept for it. */
export class NoSpaceError extends Error {
  override readonly name = 'NoSpaceError'

  constructor(moreBytes: number, leftBytes: number) {
    super(
      `NO_SPACE: ${moreBytes} bytes more would have to stay, and ${Math.max(0, leftBytes)} are left of what pins may take of the cache`,
    )
  }
}

/**
 * Whether an image may be pinned.
 * @param blobs what it is made of, by size
 * @param around `isPaid`: it is pinned and here; `coming`: what is being fetched for other images
 * @throws NoSpaceError
 */
export function checkRoom(
  blobs: ReadonlyMap<Digest, number>,
  {
    room,
    isPaid,
    coming,
  }: {
    readonly room: Pick<PinRoom, 'pinnableBytes' | 'pinnedBytes'>
    readonly isPaid: (digest: Digest) => boolean
    readonly coming: Iterable<readonly [Digest, number]>
  },
): void {
  const sum = (sizes: Iterable<number>): number =>
    [...sizes].reduce((total, size) => total + size, 0)
  const more = sum([...blobs].filter(([digest]) => !isPaid(digest)).map(([, size]) => size))
  const others = new Map([...coming].filter(([digest]) => !blobs.has(digest)))
  const left = room.pinnableBytes - room.pinnedBytes - sum(others.values())
  if (more > 0 && more > left) throw new NoSpaceError(more, left)
}

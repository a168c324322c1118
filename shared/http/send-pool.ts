const kib = 1024

/** What a transfer falls back to, whose client is slow or that finds the pool empty. */
export const smallBufferBytes = 64 * kib
/** Under TLS a write is copied whole by the encryption: larger ones cost memory and page faults. */
export const tlsBufferBytes = 256 * kib
/** A blob of that size at most should not hold a buffer of the largest. */
const middleBufferBytes = 1024 * kib
/** Larger ones cost less CPU still, but then few transfers would have all of the pool. */
export const plainBufferBytes = 2048 * kib

/** What large files are read by while hardly anybody else is served, as large as fits: it saves turns of the thread pool and of the loop. */
export const largeReads = [16384 * kib, 8192 * kib] as const

const sizes = [
  smallBufferBytes,
  tlsBufferBytes,
  middleBufferBytes,
  plainBufferBytes,
  largeReads[1],
  largeReads[0],
] as const
export type BufferBytes = (typeof sizes)[number]

export interface SendPoolStats {
  /** Bytes of all buffers that exist: in use or kept for the next transfer. */
  readonly aliveBytes: number
  /** Bytes of those that no transfer holds. */
  readonly freeBytes: number
}

/**
 * The buffers of all transfers, used again and again: memory that was touched before is several times
 * cheaper to read into than fresh memory.
 */
export interface SendPool {
  readonly maxBytes: number
  /**
   * A buffer of that size, or undefined when that would exceed the pool's bytes. A small one is always
   * given, so that nobody waits for another client's; those beyond the limit are not kept afterwards.
   */
  take(size: typeof smallBufferBytes): Buffer
  take(size: BufferBytes): Buffer | undefined
  /** Takes a buffer back. */
  give(buffer: Buffer): void
  /** Forgets a buffer that an aborted write may still read: the garbage collector has it then. */
  lose(buffer: Buffer): void
  stats(): SendPoolStats
}

/**
 * @param maxBytes what the buffers may take together, small ones in an emergency excepted
 * @param reclaim brings a buffer that is out but dispensable, when there is no other
 */
export function createSendPool(
  maxBytes: number,
  reclaim: () => Buffer | undefined = () => undefined,
): SendPool {
  const free = new Map<number, Buffer[]>(sizes.map((size) => [size, []]))
  let aliveBytes = 0
  let freeBytes = 0

  const pop = (size: number): Buffer | undefined => {
    const buffer = free.get(size)?.pop()
    if (buffer !== undefined) freeBytes -= size
    return buffer
  }
  const lose = (buffer: Buffer): void => {
    aliveBytes -= buffer.length
  }
  const push = (buffer: Buffer): void => {
    free.get(buffer.length)?.push(buffer)
    freeBytes += buffer.length
  }
  /** A buffer of another size that can be given up for a new one. */
  const spare = (): Buffer | undefined => {
    const other = sizes.find((size) => (free.get(size)?.length ?? 0) > 0)
    return other === undefined ? undefined : pop(other)
  }

  function take(size: typeof smallBufferBytes): Buffer
  function take(size: BufferBytes): Buffer | undefined
  function take(size: BufferBytes): Buffer | undefined {
    const kept = pop(size)
    if (kept !== undefined) return kept
    while (aliveBytes + size > maxBytes) {
      const given = spare() ?? reclaim()
      if (given?.length === size) return given
      if (given !== undefined) lose(given)
      else if (size === smallBufferBytes) break
      else return undefined
    }
    aliveBytes += size
    return Buffer.allocUnsafeSlow(size)
  }

  return {
    maxBytes,
    take,
    give: (buffer) => (aliveBytes > maxBytes ? lose(buffer) : push(buffer)),
    lose,
    stats: () => ({ aliveBytes, freeBytes }),
  }
}

/** The smallest size that holds `length` bytes, at most `largest`. */
export function fittingSize(length: number, largest: BufferBytes): BufferBytes {
  return sizes.find((size) => size >= length && size <= largest) ?? largest
}

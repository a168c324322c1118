/** Bytes of every pooled buffer; also the piece of a blob that fills think in. */
export const bufferBytes = 1024 * 1024

export interface BufferPoolOptions {
  /** The hard bound of all buffers together; 64 MiB by default. Rounded down to whole buffers, at least 4. */
  readonly bytes?: number
}

/**
 * A bounded pool of reference-counted buffers in shared memory, so that the hash worker sees them too.
 * A buffer whose references are gone may stay readable as `cached` until somebody needs the room.
 */
export interface BufferPool {
  /**
   * A buffer with one reference, which the caller releases. Waits until one is free.
   * @throws the signal's reason when it aborts first
   */
  take(signal?: AbortSignal): Promise<PooledBuffer>
  /** Gives memory back that nothing refers to. */
  trim(): void
  readonly stats: BufferPoolStats
}

/** Counts of buffers. */
export interface BufferPoolStats {
  readonly capacity: number
  readonly allocated: number
  /** With at least one reference. */
  readonly inUse: number
  /** Without references, content still readable. */
  readonly cached: number
  /** Lent to readers: at most a quarter of the capacity. */
  readonly lent: number
  /** Callers waiting in `take`. */
  readonly waiting: number
}

export interface PooledBuffer {
  readonly bytes: Buffer
  /** One more reference. Only while the content is still this owner's: before `onReclaim` was called. */
  retain(): void
  /** One reference fewer; the last one frees the buffer or leaves it cached. */
  release(): void
  /** Keeps the content readable after the last `release`; `onReclaim` tells when it no longer is. */
  cache(onReclaim: () => void): void
  /** Ends what `cache` began; `onReclaim` is not called. */
  uncache(): void
  /**
   * A reference for a reader, which may hold it as long as a slow client takes.
   * @returns its release (more than once does nothing), or undefined when readers hold their quarter already
   */
  lend(): (() => void) | undefined
}

/** The one pool of the process; `main.ts` makes it. */
export function createBufferPool(options: BufferPoolOptions = {}): BufferPool {
  const capacity = Math.max(Math.floor((options.bytes ?? 64 * bufferBytes) / bufferBytes), 4)
  const maxLent = Math.floor(capacity / 4)
  const free: PooledBuffer[] = []
  /** Oldest first: the order of reclaiming. */
  const cached = new Set<PooledBuffer>()
  const waiting = new Set<(buffer: PooledBuffer) => void>()
  const reclaim = new Map<PooledBuffer, () => void>()
  let allocated = 0
  let lent = 0

  function allocate(): PooledBuffer {
    allocated++
    let references = 0
    let loans = 0
    const buffer: PooledBuffer = {
      bytes: Buffer.from(new SharedArrayBuffer(bufferBytes)),
      retain() {
        if (references++ === 0) cached.delete(buffer)
      },
      release() {
        if (references === 0) throw new Error('a buffer was released more often than retained')
        if (--references > 0) return
        if (reclaim.has(buffer) && waiting.size === 0) cached.add(buffer)
        else makeFree(buffer)
      },
      cache(onReclaim) {
        reclaim.set(buffer, onReclaim)
      },
      uncache() {
        reclaim.delete(buffer)
        if (cached.delete(buffer)) makeFree(buffer)
      },
      lend() {
        if (loans === 0 && lent >= maxLent) return undefined
        if (loans++ === 0) lent++
        buffer.retain()
        let open = true
        return () => {
          if (!open) return
          open = false
          if (--loans === 0) lent--
          buffer.release()
        }
      },
    }
    return buffer
  }

  /** Hands the buffer to whoever waits longest, else keeps it. */
  function makeFree(buffer: PooledBuffer) {
    const onReclaim = reclaim.get(buffer)
    reclaim.delete(buffer)
    onReclaim?.()
    const [next] = waiting
    if (next === undefined) return void free.push(buffer)
    waiting.delete(next)
    buffer.retain()
    next(buffer)
  }

  function takeNow(): PooledBuffer | undefined {
    const ready = free.pop()
    if (ready !== undefined) return ready
    if (allocated < capacity) return allocate()
    const [oldest] = cached
    if (oldest === undefined) return undefined
    cached.delete(oldest)
    const onReclaim = reclaim.get(oldest)
    reclaim.delete(oldest)
    onReclaim?.()
    return oldest
  }

  return {
    async take(signal) {
      signal?.throwIfAborted()
      const buffer = takeNow()
      if (buffer !== undefined) {
        buffer.retain()
        return buffer
      }
      return new Promise((resolve, reject) => {
        const abort = () => {
          waiting.delete(give)
          reject(signal?.reason as Error)
        }
        const give = (given: PooledBuffer) => {
          signal?.removeEventListener('abort', abort)
          resolve(given)
        }
        waiting.add(give)
        signal?.addEventListener('abort', abort, { once: true })
      })
    },
    trim() {
      for (const buffer of cached) buffer.uncache()
      allocated -= free.length
      free.length = 0
    },
    get stats() {
      const idle = free.length + cached.size
      return {
        capacity,
        allocated,
        inUse: allocated - idle,
        cached: cached.size,
        lent,
        waiting: waiting.size,
      }
    },
  }
}

/** Who is served first when a lane is full. */
export type FillPriority = 'client' | 'prefetch'

/** Bounds the requests that are open at once: per source, and all together. */
export interface Lanes {
  /**
   * Waits for a place. @returns its release; more than once does nothing
   * @throws the signal's reason when it aborts first
   */
  enter(name: string, priority: FillPriority, signal: AbortSignal): Promise<() => void>
  /** Whether `enter` would not wait. */
  hasRoom(name: string): boolean
  /** Whether the source itself has as many as it may. */
  isFull(name: string): boolean
  /** Requests open now. */
  readonly open: number
}

export interface LaneLimits {
  /** Requests open at once at the source of this name. */
  readonly limitOf: (name: string) => number
  readonly total: number
}

interface Waiter {
  readonly name: string
  readonly admit: () => void
}

export function createLanes({ limitOf, total }: LaneLimits): Lanes {
  const openBy = new Map<string, number>()
  const queues: Record<FillPriority, Set<Waiter>> = { client: new Set(), prefetch: new Set() }
  let open = 0

  const openAt = (name: string) => openBy.get(name) ?? 0
  const isFull = (name: string) => openAt(name) >= limitOf(name)
  const hasRoom = (name: string) => open < total && !isFull(name)

  function admit(name: string): () => void {
    open++
    openBy.set(name, openAt(name) + 1)
    let inside = true
    return () => {
      if (!inside) return
      inside = false
      open--
      const left = openAt(name) - 1
      if (left > 0) openBy.set(name, left)
      else openBy.delete(name)
      admitNext()
    }
  }

  function admitNext() {
    for (const queue of [queues.client, queues.prefetch]) {
      for (const waiter of queue) {
        if (open >= total) return
        if (!hasRoom(waiter.name)) continue
        queue.delete(waiter)
        waiter.admit()
      }
    }
  }

  return {
    hasRoom,
    isFull,
    async enter(name, priority, signal) {
      signal.throwIfAborted()
      if (hasRoom(name)) return admit(name)
      return new Promise((resolve, reject) => {
        const abort = () => {
          queues[priority].delete(waiter)
          reject(signal.reason as Error)
        }
        const waiter: Waiter = {
          name,
          admit() {
            signal.removeEventListener('abort', abort)
            resolve(admit(name))
          },
        }
        queues[priority].add(waiter)
        signal.addEventListener('abort', abort, { once: true })
      })
    },
    get open() {
      return open
    },
  }
}

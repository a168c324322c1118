/** Runs one piece of work for all who want the same at the same time. */
export type Share<T> = (key: string, start: () => Promise<T>) => Promise<T>

export function createShare<T>(): Share<T> & { isRunning(key: string): boolean } {
  const running = new Map<string, Promise<T>>()
  const share: Share<T> = async (key, start) => {
    const joined = running.get(key)
    if (joined !== undefined) return joined
    const started = start()
    running.set(key, started)
    try {
      return await started
    } finally {
      running.delete(key)
    }
  }
  return Object.assign(share, { isRunning: (key: string) => running.has(key) })
}

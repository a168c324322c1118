/** At most so many at once for each key, in the order they came. */
export interface Turns {
  /**
   * Waits for a turn.
   * @returns ends it; to be called once
   * @throws the signal's reason
   */
  take(key: string, signal: AbortSignal): Promise<() => void>
}

interface Line {
  running: number
  readonly waiting: Set<() => void>
}

export function createTurns(limit: number): Turns {
  const lines = new Map<string, Line>()
  return {
    async take(key, signal) {
      signal.throwIfAborted()
      const line = lines.get(key) ?? { running: 0, waiting: new Set() }
      lines.set(key, line)
      // Who ends a turn hands it on: the count stays.
      if (line.running < limit) line.running++
      else await waitIn(line, signal)
      return () => {
        const [next] = line.waiting
        if (next !== undefined) return next()
        line.running--
        if (line.running === 0) lines.delete(key)
      }
    },
  }
}

function waitIn({ waiting }: Line, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const leave = () => {
      waiting.delete(start)
      reject(signal.reason as Error)
    }
    const start = () => {
      waiting.delete(start)
      signal.removeEventListener('abort', leave)
      resolve()
    }
    waiting.add(start)
    signal.addEventListener('abort', leave, { once: true })
  })
}

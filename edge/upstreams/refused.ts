import { createLru } from '../../shared/memory/lru.ts'
import { SourceError } from '../../shared/stream/blob-source.ts'

/** Remembers for a while what an upstream did not have or refused, so that it is not asked again and again. */
export interface Refused {
  /**
   * What the work brings, or what it brought last time, if that was a no and not long ago.
   * @returns undefined when the upstream has no such thing
   * @throws SourceError what the work throws, remembered when it was `refused` or `absent`
   */
  unless<T>(key: string, ttlMs: number, work: () => Promise<T | undefined>): Promise<T | undefined>
}

/** At some hundred bytes each. */
const maxRefusals = 10_000

export function createRefused(): Refused {
  const refusals = createLru<string, SourceError | 'absent'>({ max: maxRefusals })
  const note = (key: string, ttlMs: number, refusal: SourceError | 'absent'): void => {
    // To lru-cache a life of 0 is one without end.
    if (ttlMs > 0) refusals.set(key, refusal, { ttl: ttlMs })
  }
  return {
    async unless(key, ttlMs, work) {
      const refusal = refusals.get(key)
      if (refusal === 'absent') return undefined
      if (refusal !== undefined) throw refusal
      try {
        const result = await work()
        if (result === undefined) note(key, ttlMs, 'absent')
        return result
      } catch (error) {
        if (isRefusal(error)) note(key, ttlMs, error)
        throw error
      }
    },
  }
}

/** Whether an upstream said no, rather than that it cannot answer now. */
export function isRefusal(error: unknown): error is SourceError {
  return error instanceof SourceError && (error.code === 'absent' || error.code === 'refused')
}

/** Whether a failure says nothing about the thing asked for: only then may an old answer stand. */
export function isPassing(error: unknown): error is SourceError {
  // What cannot be right, as the page of a portal in between, is no word of the upstream's either.
  return error instanceof SourceError && !isRefusal(error)
}

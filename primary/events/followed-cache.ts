import { LRUCache } from 'lru-cache'
import type { Follower } from './follower.ts'
import type { Subject } from './subjects.ts'

/** Answers remembered for as long as the log says nothing else. */
export interface FollowedCache<Value> {
  /**
   * The value of `key`, remembered or loaded. It is kept unless it is undefined, the log is not being followed,
   * or something that it depends on changed while it was loaded.
   * @param subjects what the value depends on
   */
  get(
    key: string,
    subjects: (value: Value) => readonly Subject[],
    load: () => Promise<Value | undefined>,
  ): Promise<Value | undefined>
}

export interface FollowedCacheOptions<Value> {
  readonly follower: Pick<Follower, 'isCurrent' | 'onChange'>
  readonly maxEntries: number
  /** With it, entries are bounded by their bytes too. */
  readonly bytes?: { readonly max: number; readonly of: (value: Value) => number }
}

interface Entry<Value> {
  readonly value: Value
  readonly subjects: readonly Subject[]
}

/** A load that is under way, and what changed meanwhile. */
interface Loading {
  readonly changed: Set<Subject>
  everything: boolean
}

export function createFollowedCache<Value>(
  options: FollowedCacheOptions<Value>,
): FollowedCache<Value> {
  const { follower, maxEntries, bytes } = options
  const keysOf = new Map<Subject, Set<string>>()
  const loadings = new Set<Loading>()

  const forget = (key: string, { subjects }: Entry<Value>) => {
    for (const subject of subjects) {
      const keys = keysOf.get(subject)
      keys?.delete(key)
      if (keys?.size === 0) keysOf.delete(subject)
    }
  }
  const entries = new LRUCache<string, Entry<Value>>({
    max: maxEntries,
    ...(bytes && {
      maxSize: bytes.max,
      sizeCalculation: ({ value }: Entry<Value>) => Math.max(1, bytes.of(value)),
    }),
    dispose: (entry, key) => forget(key, entry),
  })

  follower.onChange((subjects) => {
    if (subjects === undefined) entries.clear()
    for (const loading of loadings) {
      if (subjects === undefined) loading.everything = true
      else for (const subject of subjects) loading.changed.add(subject)
    }
    for (const subject of subjects ?? []) {
      for (const key of [...(keysOf.get(subject) ?? [])]) entries.delete(key)
    }
  })

  const keep = (key: string, entry: Entry<Value>) => {
    entries.set(key, entry)
    // A value too large for the cache is refused without a word.
    if (entries.peek(key) !== entry) return
    for (const subject of entry.subjects) {
      const keys = keysOf.get(subject)
      if (keys === undefined) keysOf.set(subject, new Set([key]))
      else keys.add(key)
    }
  }

  return {
    async get(key, subjects, load) {
      if (!follower.isCurrent()) return load()
      const known = entries.get(key)
      if (known !== undefined) return known.value
      const loading: Loading = { changed: new Set(), everything: false }
      loadings.add(loading)
      try {
        const value = await load()
        if (value === undefined || loading.everything || !follower.isCurrent()) return value
        const entry = { value, subjects: subjects(value) }
        if (!entry.subjects.some((subject) => loading.changed.has(subject))) keep(key, entry)
        return value
      } finally {
        loadings.delete(loading)
      }
    },
  }
}

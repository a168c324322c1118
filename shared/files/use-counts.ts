/** How many use a thing now; nothing is remembered of one that nobody uses. */
export interface UseCounts<Key> {
  begin(key: Key): void
  end(key: Key): void
  isUsed(key: Key): boolean
}

export function createUseCounts<Key>(): UseCounts<Key> {
  const counts = new Map<Key, number>()
  return {
    begin: (key) => void counts.set(key, (counts.get(key) ?? 0) + 1),
    end(key) {
      const left = (counts.get(key) ?? 0) - 1
      if (left > 0) counts.set(key, left)
      else counts.delete(key)
    },
    isUsed: (key) => counts.has(key),
  }
}

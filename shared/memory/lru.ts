import { LRUCache } from 'lru-cache'

/**
 * A cache of at most `max` entries, which takes memory as they come. Told their number, lru-cache reserves it for all at
 * once: 2 ms for 10,000 entries, where an edge has a dozen such caches and more, most of them all but empty.
 */
export function createLru<Key extends NonNullable<unknown>, Value extends NonNullable<unknown>>({
  max,
  ...rest
}: {
  readonly max: number
  /** Milliseconds; without end where it is left out. */
  readonly ttl?: number
  readonly updateAgeOnGet?: boolean
}): LRUCache<Key, Value> {
  return new LRUCache<Key, Value>({ ...rest, maxSize: max, sizeCalculation: () => 1 })
}

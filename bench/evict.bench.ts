import { createHash } from 'node:crypto'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setImmediate as nextTurn } from 'node:timers/promises'
import { createGdsf } from '../edge/cache/gdsf.ts'
import { digestOf, type Digest } from '../shared/oci/digest.ts'
import { openTestCache } from '../test/kit/cache.ts'
import type { Bench } from './bench.ts'
import type { Figure } from './report.ts'
import { makeTrace, readTrace, type TraceRequest } from './trace.ts'

const seed = 20170620
/** Of all bytes that the trace asks for. */
const cacheShare = 0.05
const evictions = 10_000

/** Who goes when the cache is full: hits of ours and of LRU on one trace, and what many real evictions do to the loop. */
export const bench: Bench = {
  name: 'evict',
  counts: true,
  async run({ folder, countsOnly, say, trace: file }) {
    say(file === undefined ? 'a made trace of the published shape' : `the trace ${file}`)
    const trace = file === undefined ? makeTrace(seed) : await readTrace(file)
    const figures = compare(trace)
    if (!countsOnly) {
      say(`${evictions} evictions`)
      figures.push(await evictMany(folder))
    }
    return { figures, rounds: '1' }
  },
}

/** Shares of what was asked for that was there. */
interface Hits {
  readonly objects: number
  readonly bytes: number
}

function compare(trace: readonly TraceRequest[]): Figure[] {
  const sizes = new Map(trace.map(({ digest, bytes }) => [digest, bytes]))
  const footprint = [...sizes.values()].reduce((sum, bytes) => sum + bytes, 0)
  const capacity = cacheShare * footprint
  const ours = replay(trace, createGdsfCache(capacity))
  const lru = replay(trace, createLru(capacity))
  const endless = replay(trace, createLru(Infinity))
  const percent = ({ objects, bytes }: Hits): string =>
    `${(100 * objects).toFixed(1)} / ${(100 * bytes).toFixed(1)}`
  const notes = `objects / bytes: ours ${percent(ours)}, LRU ${percent(lru)}, without end ${percent(endless)} %`
  const name = `${100 * cacheShare} % of the footprint`
  return [
    {
      case: name,
      measure: 'hits, points above LRU',
      value: 100 * (ours.objects - lru.objects),
      floor: 8,
      aim: 10,
      notes,
    },
    {
      case: name,
      measure: 'bytes hit, points above LRU',
      value: 100 * (ours.bytes - lru.bytes),
      floor: -2,
      aim: 0,
    },
  ]
}

/** @returns whether the blob was there; it is afterwards */
type SimulatedCache = (request: TraceRequest, now: number) => boolean

function replay(trace: readonly TraceRequest[], ask: SimulatedCache): Hits {
  const [all, hit] = [
    { objects: 0, bytes: 0 },
    { objects: 0, bytes: 0 },
  ]
  for (const [now, request] of trace.entries()) {
    for (const sum of ask(request, now) ? [all, hit] : [all]) {
      sum.objects++
      sum.bytes += request.bytes
    }
  }
  return { objects: hit.objects / all.objects, bytes: hit.bytes / all.bytes }
}

function createGdsfCache(capacity: number): SimulatedCache {
  const gdsf = createGdsf()
  const held = new Set<Digest>()
  let bytes = 0
  return ({ digest, bytes: size }, now) => {
    if (held.has(digest)) {
      gdsf.use(digest, now)
      return true
    }
    // As the edge does, which makes room before it stores.
    while (bytes + size > capacity) {
      const gone = gdsf.giveUp(now, () => false)
      if (gone === undefined) return false
      held.delete(gone.digest)
      bytes -= gone.bytes
    }
    gdsf.add(digest, { bytes: size, now })
    held.add(digest)
    bytes += size
    return false
  }
}

function createLru(capacity: number): SimulatedCache {
  // A map keeps the order: the first is the one that was not used for longest.
  const held = new Map<Digest, number>()
  let bytes = 0
  return ({ digest, bytes: size }) => {
    const wasHeld = held.delete(digest)
    held.set(digest, size)
    if (wasHeld) return true
    bytes += size
    for (const [oldest, itsSize] of held) {
      if (bytes <= capacity) break
      held.delete(oldest)
      bytes -= itsSize
    }
    return false
  }
}

/** The real cache, real files: how long anything else waits while most of it goes. */
async function evictMany(folder: string): Promise<Figure> {
  let capacity = Infinity
  let now = 0
  let gone = 0
  const cache = await openTestCache(folder, {
    capacity: () => Promise.resolve(capacity),
    now: () => now,
    eviction: { evicted: () => gone++, returned: () => undefined },
  })
  const put = async (n: number): Promise<void> => {
    const bytes = createHash('sha256').update(String(n)).digest()
    await cache.blobs.put(digestOf(bytes), bytes)
  }
  try {
    for (let n = 0; n <= evictions; n++) await put(n)
    capacity = 1
    now = 60_000
    const delay = monitorEventLoopDelay({ resolution: 1 })
    delay.enable()
    const startedAt = performance.now()
    await put(-1)
    while (gone < evictions) await nextTurn()
    const ms = performance.now() - startedAt
    delay.disable()
    return {
      case: `${evictions} evictions`,
      measure: 'event loop, p99, ms',
      value: delay.percentile(99) / 1e6,
      floor: 20,
      aim: 20,
      most: true,
      notes: `${(ms / 1000).toFixed(1)} s, the longest ${(delay.max / 1e6).toFixed(0)} ms`,
    }
  } finally {
    await cache.close()
  }
}

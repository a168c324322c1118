import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Digest } from '../shared/oci/digest.ts'
import { blobPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import { startUpstream, type Upstream } from '../test/kit/upstream.ts'
import type { Bench, BenchContext } from './bench.ts'
import { startOutport } from './outport.ts'
import { clientCore, pinSelf } from './processes.ts'
import { downloadPart } from './part-client.ts'
import { checkBytes, expectedOf, patterns, pull, segmentBytes, type Pattern } from './pulls.ts'
import { median, percentile, type BenchResult, type Figure } from './report.ts'

const mib = 2 ** 20
const blobBytes = 32 * mib
const clients = 50
/** Between the starts of two clients. */
const stepMs = 10
/** Fills of each length that count; the bursts of long ones are few. */
const timesOf = { 4: 3, 16: 5 }
/** One in so many checks its bytes: all of them would need more than the clients' core. */
const hashingClients = 10

/** 50 cold clients of one blob at a slow upstream: who asks for what, and who waits for whom. */
export const bench: Bench = {
  name: 'coalesce',
  counts: true,
  async run(context) {
    // Clients and upstream are in this process.
    const unpin = pinSelf(clientCore)
    const upstream = await startUpstream()
    try {
      const outport = await startOutport({
        folder: join(context.folder, 'outport'),
        edge: { upstreams: [{ id: 'origin', url: upstream.url.origin }] },
      })
      try {
        const stand = { upstream, edge: outport.edge.origin }
        // Code that is new is slow, four times in the first pull: this is about those that come when it is warm.
        for (const pattern of [...patterns, ...patterns, ...patterns])
          await pullCold(stand, { pattern, seconds: 1 })
        return await measureAll(context, stand)
      } finally {
        await outport.stop()
      }
    } finally {
      await upstream.close()
      unpin()
    }
  },
}

interface CoalesceStand {
  readonly upstream: Upstream
  readonly edge: URL
}

interface ColdPull {
  readonly pattern: Pattern
  /** How long a direct fetch takes. */
  readonly seconds: number
}

interface ColdPullSeen {
  readonly responsesPerSegment: number
  /** Of the blob's. */
  readonly bytesShare: number
  /**
   * Milliseconds after the upstream's headers, or the client's own request where that was later. A range is not
   * answered with the bytes that it waits for, but at once; no range here is far enough beyond the front for a
   * request of its own. What is left is a queue: all clients follow one front, have their chunk in the same
   * millisecond, and ask for the next one in the next, while what has arrived is being sent to a hundred others.
   * So a p99 of `chunked` is what it takes the edge to answer 50 requests at once, not one.
   */
  readonly headerDelays: readonly number[]
  /** Of a direct fetch's time. */
  readonly doneShare: number
}

/** The counted fills: several times each, since one round's p99 is that of one burst of 50; only 4 seconds where only what is counted matters. */
async function measureAll(
  { countsOnly, say }: BenchContext,
  stand: CoalesceStand,
): Promise<BenchResult> {
  const fills = countsOnly ? ([4] as const) : ([4, 16] as const)
  const figures: Figure[] = []
  for (const seconds of fills) {
    for (const pattern of patterns) {
      const seen: ColdPullSeen[] = []
      for (let round = 1; round <= timesOf[seconds]; round++) {
        say(`${pattern}, ${seconds} s, round ${round}`)
        seen.push(await pullCold(stand, { pattern, seconds }))
      }
      const judged = judge(`${clients} clients, ${pattern}, ${seconds} s`, seen)
      // Where only counts are asked for, times are told and not judged: they are the machine's as much as ours.
      figures.push(...(countsOnly ? judged.map(withoutTimeFloor) : judged))
    }
  }
  const rounds = fills.map((seconds) => `${timesOf[seconds]} of ${seconds} s`).join(', ')
  return { figures, rounds }
}

function judge(name: string, seen: readonly ColdPullSeen[]): Figure[] {
  const counted = (figure: (each: ColdPullSeen) => number): number => Math.max(...seen.map(figure))
  const timed = (figure: (each: ColdPullSeen) => number): number => median(seen.map(figure))
  const most = true
  return [
    {
      case: name,
      measure: 'upstream responses per segment',
      value: counted((each) => each.responsesPerSegment),
      floor: 1,
      aim: 1,
      most,
    },
    {
      case: name,
      measure: "upstream bytes ÷ the blob's",
      value: counted((each) => each.bytesShare),
      floor: 1.01,
      aim: 1.001,
      most,
    },
    {
      case: name,
      measure: "headers after the upstream's, p99, ms",
      value: timed((each) => percentile(each.headerDelays, 0.99)),
      floor: 25,
      aim: 10,
      most,
    },
    {
      case: name,
      measure: 'last client ÷ a direct fetch',
      value: timed((each) => each.doneShare),
      floor: 1.05,
      aim: 1.03,
      most,
    },
  ]
}

function withoutTimeFloor(figure: Figure): Figure {
  if (figure.measure.startsWith('upstream')) return figure
  const { floor: _, ...told } = figure
  return told
}

/** One blob that nobody has seen, pulled directly, and then by all clients through the edge. */
async function pullCold(
  { upstream, edge }: CoalesceStand,
  { pattern, seconds }: ColdPull,
): Promise<ColdPullSeen> {
  const blob = randomBytes(blobBytes)
  const digest = upstream.addBlob('bench/app', blob)
  upstream.setPace(blobBytes / seconds)
  const expected = expectedOf(blob)
  const wanted = { path: pathOf('bench/app', digest), length: blobBytes, hashes: true }
  const direct = await downloadPart({ ...wanted, origin: upstream.url })
  checkBytes(direct, expected.whole)
  upstream.forgetRequests()

  const path = pathOf('origin/bench/app', digest)
  const startedAt = performance.now()
  const all = await Promise.all(
    Array.from({ length: clients }, async (_, i) => {
      await delay(i * stepMs)
      return pull[pattern]({ origin: edge, path, expected, hashes: i % hashingClients === 0 })
    }),
  )
  const parts = all.flat()
  const first = upstream.requests.find(({ reference }) => reference === digest)
  if (first?.headersAt === undefined) throw new Error('the edge never asked the upstream')
  const upstreamAt = first.headersAt
  const lastAt = Math.max(...parts.map(({ doneAt }) => doneAt))
  const segments = upstream.responsesPerSegment(digest, segmentBytes)
  upstream.remove(parseRepositoryName('bench/app'), digest)
  return {
    responsesPerSegment: segments.reduce((sum, count) => sum + count, 0) / segments.length,
    bytesShare: upstream.delivered(digest).bytes / blobBytes,
    headerDelays: parts.map(({ askedAt, headersAt }) => headersAt - Math.max(askedAt, upstreamAt)),
    doneShare: (lastAt - startedAt) / (direct.doneAt - direct.askedAt),
  }
}

function pathOf(repository: string, digest: Digest): string {
  return blobPath(parseRepositoryName(repository), digest)
}

import { randomBytes } from 'node:crypto'
import { setTimeout as delay } from 'node:timers/promises'
import { digestOf, type Digest } from '../shared/oci/digest.ts'
import { blobPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import type { Upstream } from '../test/kit/upstream.ts'
import { downloadPart, type PartWanted } from './part-client.ts'
import { expectedOf, pull, segmentBytes, type Pattern } from './pulls.ts'
import { median, percentile, type Figure } from './report.ts'

/** 50 cold clients of one blob: who asks for what, and who waits for whom. */
export const clients = 50
/** Between the starts of two clients. */
const stepMs = 10
/** One in so many checks its bytes: all of them would need more than the clients' core. */
const hashingClients = 10

/** Where a blob lies, by one of its names. */
type BlobPlace = Pick<PartWanted, 'origin' | 'path' | 'authorization'>

/** A blob that none of the edges has seen, and a second one of that size for the direct fetch beside it. */
export interface ColdOffer {
  readonly digest: Digest
  readonly blob: Buffer
  /** Where the clients pull it, one after the other. */
  readonly places: readonly BlobPlace[]
  readonly direct: BlobPlace
  remove(): void
}

/** Who counts what the edges ask for, and sets the pace. */
export type ColdCounter = Pick<
  Upstream,
  'requests' | 'responsesPerSegment' | 'delivered' | 'setPace'
>

export interface ColdPull {
  readonly pattern: Pattern
  /** How long a direct fetch takes. */
  readonly seconds: number
}

export interface ColdSeen {
  readonly responsesPerSegment: number
  /** Of the blob's. */
  readonly bytesShare: number
  /**
   * Milliseconds after the upstream's headers, or the client's own request where that was later. A range is not
   * answered with the bytes that it waits for, but at once; no range here is far enough beyond the front for a
   * request of its own. What is left is a queue: all clients follow one front, have their chunk in the same
   * millisecond, and ask for the next one in the next, while what has arrived is being sent to a hundred others.
   * So a p99 of `chunked` is what it takes an edge to answer its part of 50 requests at once, not one.
   */
  readonly headerDelays: readonly number[]
  /** Of a direct fetch's time, beside it. */
  readonly doneShare: number
}

/** Puts a blob into repositories of an upstream that edges know by this id. */
export function offerCold(
  upstream: Upstream,
  {
    id,
    edges,
    repositories,
    bytes,
  }: {
    readonly id: string
    readonly edges: readonly URL[]
    readonly repositories: readonly string[]
    readonly bytes: number
  },
): ColdOffer {
  const blob = randomBytes(bytes)
  const names = repositories.map(parseRepositoryName)
  const digest = digestOf(blob)
  for (const name of names) upstream.addBlob(name, blob)
  const beside = parseRepositoryName('bench/direct')
  const other = upstream.addBlob(beside, randomBytes(bytes))
  return {
    digest,
    blob,
    // Each edge gets clients of each.
    places: names.flatMap((name) => {
      const path = blobPath(parseRepositoryName(`${id}/${name}`), digest)
      return edges.map((origin) => ({ origin, path }))
    }),
    direct: { origin: upstream.url, path: blobPath(beside, other) },
    remove() {
      for (const name of names) upstream.remove(name, digest)
      upstream.remove(beside, other)
      upstream.forgetRequests()
    },
  }
}

/** One blob that nobody has seen, pulled by all clients, and beside them another one directly. */
export async function pullCold(
  counter: ColdCounter,
  { digest, blob, places, direct, remove }: ColdOffer,
  { pattern, seconds }: ColdPull,
): Promise<ColdSeen> {
  const bytes = blob.length
  const expected = expectedOf(blob)
  counter.setPace(bytes / seconds)
  const startedAt = performance.now()
  const pulls = Array.from({ length: clients }, async (_, i) => {
    await delay(i * stepMs)
    const place = places[i % places.length]
    if (place === undefined) throw new Error('it is nowhere')
    return pull[pattern]({ ...place, expected, hashes: i % hashingClients === 0 })
  })
  const [directSeen, all] = await Promise.all([
    downloadPart({ ...direct, length: bytes, hashes: false }),
    Promise.all(pulls),
  ])
  const parts = all.flat()
  const first = counter.requests.find(
    ({ reference, method }) => reference === digest && method === 'GET',
  )
  if (first?.headersAt === undefined) throw new Error('nobody asked the upstream')
  const upstreamAt = first.headersAt
  const lastAt = Math.max(...parts.map(({ doneAt }) => doneAt))
  const segments = counter.responsesPerSegment(digest, segmentBytes)
  const seen = {
    responsesPerSegment: segments.reduce((sum, count) => sum + count, 0) / segments.length,
    bytesShare: counter.delivered(digest).bytes / bytes,
    headerDelays: parts.map(({ askedAt, headersAt }) => headersAt - Math.max(askedAt, upstreamAt)),
    doneShare: (lastAt - startedAt) / (directSeen.doneAt - directSeen.askedAt),
  }
  remove()
  return seen
}

/** @param options.copies how many of the blob the upstream has to give, by right */
export function judgeCold(
  name: string,
  seen: readonly ColdSeen[],
  { countsOnly, copies = 1 }: { readonly countsOnly: boolean; readonly copies?: number },
): Figure[] {
  const counted = (figure: (each: ColdSeen) => number): number =>
    Math.max(...seen.map(figure)) / copies
  const timed = (figure: (each: ColdSeen) => number): number => median(seen.map(figure))
  // Where only counts are asked for, times are told and not judged: they are the machine's as much as ours.
  const floor = (value: number) => (countsOnly ? {} : { floor: value })
  const each = copies === 1 ? '' : ` and repository, of ${copies}`
  const most = true
  return [
    {
      case: name,
      measure: `upstream responses per segment${each}`,
      value: counted(({ responsesPerSegment }) => responsesPerSegment),
      floor: 1,
      aim: 1,
      most,
    },
    {
      case: name,
      measure: `upstream bytes ÷ the blob's${each}`,
      value: counted(({ bytesShare }) => bytesShare),
      floor: 1.01,
      aim: 1.001,
      most,
    },
    {
      case: name,
      measure: "headers after the upstream's, p99, ms",
      value: timed(({ headerDelays }) => percentile(headerDelays, 0.99)),
      ...floor(25),
      aim: 10,
      most,
    },
    {
      case: name,
      measure: 'last client ÷ a direct fetch',
      value: timed(({ doneShare }) => doneShare),
      ...floor(1.05),
      aim: 1.03,
      most,
    },
  ]
}

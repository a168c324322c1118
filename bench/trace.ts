import { createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { isDigest, type Digest } from '../shared/oci/digest.ts'
import { createRandom, type Random } from '../test/kit/random.ts'

/** One GET of a blob. */
export interface TraceRequest {
  readonly digest: Digest
  /** Of the blob. */
  readonly bytes: number
}

/** Reads a trace: one `digest size` a line, in order. @throws Error with the number of a line that is not */
export async function readTrace(file: string): Promise<TraceRequest[]> {
  const requests: TraceRequest[] = []
  for await (const line of createInterface({ input: createReadStream(file) })) {
    if (line.trim() === '') continue
    const [digest = '', size = ''] = line.trim().split(/\s+/)
    if (!isDigest(digest) || !/^\d+$/.test(size))
      throw new Error(`${file}: line ${requests.length + 1} is not 'digest size'`)
    requests.push({ digest, bytes: Number(size) })
  }
  return requests
}

/**
 * How often the digests of the IBM registry trace are asked for: shares of all digests, from the most asked for
 * on, and of all GETs that they take. The rest, 68.1 % of the digests, is asked for once.
 * [an extract of 725,242 lines: 81,335 digests, 259,274 GETs; the traces are of Anwar et al., FAST '18]
 */
const digests = 81_335
const gets = 259_274
const popularity = [
  { digests: 0.01, gets: 0.44 },
  { digests: 0.05, gets: 0.552 },
  { digests: 0.1, gets: 0.624 },
  { digests: 0.2, gets: 0.712 },
  { digests: 0.319, gets: 0.786 },
] as const

/** 65 % under 1 MB, 15 % to 10 MB, 20 % to 500 MB; within each class every order of magnitude is as likely. */
const sizeClasses = [
  { share: 0.65, from: 1e3, to: 1e6 },
  { share: 0.15, from: 1e6, to: 1e7 },
  { share: 0.2, from: 1e7, to: 5e8 },
] as const

/**
 * A trace of that shape, the same for the same seed. A digest is asked for during a part of the time, denser at first: the
 * distances between its uses are long, as they are in registries.
 */
export function makeTrace(seed: number): TraceRequest[] {
  const random = createRandom(seed)
  const timed: { readonly at: number; readonly request: TraceRequest }[] = []
  for (const [rank, count] of countsByRank(random).entries()) {
    const digest = `sha256:${(rank + 1).toString(16).padStart(64, '0')}` as Digest
    const request = { digest, bytes: sizeOf(random) }
    const lifetime = 0.05 + 0.6 * random.next()
    const birth = random.next() * (1 - lifetime / 2)
    for (let use = 0; use < count; use++)
      timed.push({ at: birth + lifetime * random.next() ** 2, request })
  }
  return timed.toSorted((one, other) => one.at - other.at).map(({ request }) => request)
}

function countsByRank(random: Random): number[] {
  const counts: number[] = []
  let before: { digests: number; gets: number } = { digests: 0, gets: 0 }
  for (const point of popularity) {
    const ranks = Math.round((point.digests - before.digests) * digests)
    const uses = (point.gets - before.gets) * gets
    // The head falls as Zipf's law does, each step of the tail is level.
    const weights = Array.from({ length: ranks }, (_, rank) =>
      before.digests === 0 ? 1 / (rank + 10) : 1,
    )
    const sum = weights.reduce((all, weight) => all + weight, 0)
    for (const weight of weights) {
      const share = (uses * weight) / sum
      counts.push(Math.max(1, Math.floor(share + random.next())))
    }
    before = point
  }
  while (counts.length < digests) counts.push(1)
  return counts
}

function sizeOf(random: Random): number {
  let left = random.next()
  for (const { share, from, to } of sizeClasses) {
    if (left < share) return Math.round(from * (to / from) ** random.next())
    left -= share
  }
  return sizeClasses[2].to
}

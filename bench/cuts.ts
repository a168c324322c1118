import { setTimeout as delay } from 'node:timers/promises'
import { waitFor } from '../test/kit/clock.ts'
import type { Random } from '../test/kit/random.ts'
import type { Upstream } from '../test/kit/upstream.ts'
import {
  addCold,
  againFigure,
  coldBytes,
  errorFigure,
  removeCold,
  sentAgain,
  type ColdBlob,
  type ColdStand,
} from './cold-blobs.ts'
import { pull, segmentBytes } from './pulls.ts'
import type { Figure } from './report.ts'

const mib = 2 ** 20
/** How many blobs are cut, each at an offset of its own. */
export const cuts = 10
/** How long an upstream is away after a cut. */
const awayMs = 2000
/** Two seconds for a blob of which nothing is cut. */
const bytesPerSecond = 16 * mib

interface CutSeen {
  readonly clients: readonly PromiseSettledResult<unknown>[]
  readonly againMib: number
}

/** A client of each kind from the start, and one that comes while the upstream may be away. */
async function pullByThree(
  { edge: origin }: ColdStand,
  { expected, path }: ColdBlob,
  lateMs: number,
): Promise<readonly PromiseSettledResult<unknown>[]> {
  const wanted = { origin, path, expected, hashes: true }
  return Promise.allSettled([
    pull.plain(wanted),
    pull.chunked(wanted),
    delay(lateMs).then(() => pull.plain(wanted)),
  ])
}

/** Cuts every answer at this byte of the blob from now on. @returns what waits for the first cut, and what ends it */
function cutAt(upstream: Upstream, { digest }: ColdBlob, offset: number) {
  const heal = upstream.fault({ digest, method: 'GET' }, { cutAt: offset })
  const isCut = (): boolean =>
    upstream.requests.some(
      (each) => each.reference === digest && each.offset + each.bytes >= offset,
    )
  return { heal, cut: () => waitFor(`the cut at ${offset}`, isCut, { timeoutMs: 60_000 }) }
}

async function stayAway(upstream: Upstream): Promise<void> {
  await upstream.down()
  await delay(awayMs)
}

/** Each blob has an upstream of its own, so that none hears of the others' trouble. */
export async function cutEach(
  stands: readonly ColdStand[],
  random: Random,
  seed: number,
): Promise<Figure[]> {
  const offsets = stands.map(() => random.between(1, coldBytes - 1))
  const seen = await Promise.all(
    stands.map(async (stand, i): Promise<CutSeen> => {
      const { upstream } = stand
      const offset = offsets[i] ?? 0
      const blob = addCold(stand)
      upstream.setPace(bytesPerSecond)
      const { heal, cut } = cutAt(upstream, blob, offset)
      const pulls = pullByThree(stand, blob, random.between(0, 2 * awayMs))
      await cut()
      await stayAway(upstream)
      heal()
      await upstream.up()
      const clients = await pulls
      const againMib = sentAgain(stand, blob)
      removeCold(stand, blob)
      return { clients, againMib }
    }),
  )
  const told = offsets.map((offset) => (offset / mib).toFixed(1)).join(' ')
  return judgeCuts(`${cuts} upstreams, each cut, then ${awayMs / 1000} s away`, seen, [
    `seed ${seed}, cut at MiB ${told}`,
    'with no second source',
  ])
}

/** Each blob has a mirror of its own, which is cut and gone, and the upstream behind it, which goes on. */
export async function cutMirrors(
  stands: readonly (ColdStand & { readonly second: Upstream })[],
  random: Random,
): Promise<Figure[]> {
  const offsets = stands.map(() => random.between(1, coldBytes - 1))
  const seconds: number[] = []
  const seen = await Promise.all(
    stands.map(async (stand, i): Promise<CutSeen> => {
      const { upstream, second } = stand
      const blob = addCold(stand)
      for (const each of [upstream, second]) each.setPace(bytesPerSecond)
      const { heal, cut } = cutAt(upstream, blob, offsets[i] ?? 0)
      const pulls = pullByThree(stand, blob, random.between(0, 2 * awayMs))
      await cut()
      await upstream.down()
      const clients = await pulls
      heal()
      await upstream.up()
      const againMib = sentAgain(stand, blob)
      seconds.push(second.delivered(blob.digest).bytes / mib)
      removeCold(stand, blob)
      return { clients, againMib }
    }),
  )
  const told = offsets.map((offset) => (offset / mib).toFixed(1)).join(' ')
  const asked = seconds.filter((sent) => sent > 0).length
  return judgeCuts(`${cuts} mirrors, each cut and gone, with a second source`, seen, [
    `cut at MiB ${told}`,
    `${asked} seconds went on`,
  ])
}

/**
 * All layers of an image at once, as a client pulls them: the upstream goes away under all of them at their own
 * offsets, which they reach in the same moment because they started one after another.
 */
export async function cutAll(stand: ColdStand, random: Random): Promise<Figure[]> {
  const { upstream } = stand
  upstream.setPace(bytesPerSecond)
  const layers = Array.from({ length: cuts }, () => {
    const blob = addCold(stand)
    const offset = random.between(1, coldBytes - 1)
    return { blob, offset, ...cutAt(upstream, blob, offset), lateMs: random.between(0, awayMs) }
  })
  const pulls = layers.map(async ({ blob, offset, lateMs }) => {
    await delay(((coldBytes - offset) / bytesPerSecond) * 1000)
    return pullByThree(stand, blob, lateMs)
  })
  await Promise.all(layers.map(({ cut }) => cut()))
  await stayAway(upstream)
  for (const { heal } of layers) heal()
  await upstream.up()
  const seen: CutSeen[] = []
  for (const [i, clients] of (await Promise.all(pulls)).entries()) {
    const blob = layers[i]?.blob
    if (blob === undefined) continue
    seen.push({ clients, againMib: sentAgain(stand, blob) })
    removeCold(stand, blob)
  }
  upstream.forgetRequests()
  return judgeCuts(`${cuts} blobs of one upstream, cut, then ${awayMs / 1000} s away`, seen)
}

function judgeCuts(
  name: string,
  seen: readonly CutSeen[],
  notes: readonly string[] = [],
): Figure[] {
  const clients = seen.flatMap((each) => each.clients)
  const whose = [`of ${clients.length} clients`, ...notes].join('; ')
  const sentMib = seen.map(({ againMib }) => againMib)
  const bounds = { floor: segmentBytes / mib, aim: 1 }
  return [
    errorFigure(name, clients, whose),
    againFigure({ case: name, measure: 'MiB sent again by a cut', ...bounds }, sentMib),
  ]
}

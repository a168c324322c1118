import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createImage, layerOf, pushImage, type Content } from '../test/kit/images.ts'
import type { Bench, BenchContext } from './bench.ts'
import { createRule } from '../test/kit/api.ts'
import { networkSite, startNetwork, type Network } from '../test/kit/network.ts'
import {
  about,
  blobBytes,
  bytesPerSecond,
  edges,
  processes,
  receivedFrom,
  uplinkSeconds,
} from './narrow-site.ts'
import { median, type BenchResult } from './report.ts'

/** In a process of its own, so that it can be stopped alone. */
const stopped = edges - 1
const slow = edges - 2
/** Pushes in each network. */
const rounds = 3
const pollMs = 50
const patienceMs = 240_000

/** A push that a rule brings to all edges of a site, each with a narrow uplink: when the last one has it, and what the primary gave. */
export const bench: Bench = {
  name: 'spread',
  counts: false,
  async run(context) {
    const healthy = await measure(context, { isHealthy: true })
    const ill = await measure(context, { isHealthy: false })
    const name = `${about.blob} to ${about.edges}`
    const withIll = `${name}, one at 1 %, one stopped`
    const most = true
    const result: BenchResult = {
      rounds: String(rounds),
      figures: [
        {
          case: name,
          measure: "bytes from the primary ÷ the blob's",
          value: healthy.egress,
          floor: 1.1,
          aim: 1.02,
          most,
        },
        {
          case: name,
          measure: 'last edge ÷ an uplink for the blob',
          value: healthy.seconds / uplinkSeconds,
          floor: 2,
          aim: 1.2,
          most,
          notes: `${healthy.seconds.toFixed(1)} s; the first one after all were started ${healthy.firstSeconds.toFixed(1)} s`,
        },
        {
          case: withIll,
          measure: 'last of the others ÷ without',
          value: ill.seconds / healthy.seconds,
          floor: 1.1,
          aim: 1.05,
          most,
          notes: `${ill.seconds.toFixed(1)} s`,
        },
        {
          case: withIll,
          measure: "bytes from the primary ÷ the blob's",
          value: ill.egress,
          aim: 1.1,
          most,
        },
        {
          case: 'the stopped one, after it goes on',
          measure: 'seconds until it has all',
          value: ill.convergedSeconds,
          floor: 2,
          aim: 1,
          most,
        },
        {
          case: 'the stopped one, after it goes on',
          measure: "bytes that it received ÷ the blob's",
          value: ill.convergedBytes,
          floor: 1.05,
          aim: 1,
          most,
        },
      ],
    }
    return result
  },
}

interface Push {
  /** From the push to the last edge that is well. */
  readonly seconds: number
  /** What all of them had from the primary, to the size of the blob. */
  readonly egress: number
  readonly convergedSeconds: number
  readonly convergedBytes: number
}

/** Of several: the median of what took time, the most of what was sent. */
interface Measured extends Push {
  /** As `seconds`, of another push before, when no edge had ever spoken to another and no code had run. */
  readonly firstSeconds: number
}

async function measure(
  { folder, say }: BenchContext,
  { isHealthy }: { readonly isHealthy: boolean },
): Promise<Measured> {
  say(isHealthy ? 'all are well' : 'one is slow, one is stopped')
  const network = await startNetwork({
    folder: join(folder, isHealthy ? 'well' : 'ill'),
    edges,
    processOf: (edge) => (edge === stopped ? processes : edge % processes),
    peersOf: (edge) => ({
      upload_rate: String(!isHealthy && edge === slow ? bytesPerSecond / 100 : bytesPerSecond),
    }),
  })
  try {
    await bringAll(network)
    const all = Array.from({ length: edges }, (_, edge) => edge)
    const wells = isHealthy ? all : all.filter((edge) => edge !== slow && edge !== stopped)
    const have = (some: readonly number[], { digest }: Content): Promise<unknown> =>
      Promise.all(some.map((edge) => until(() => network.hasBlob(edge, digest))))
    const push = async (seed: string): Promise<Content> => {
      const image = createImage({ seed, layers: 1, layerBytes: blobBytes })
      await pushImage(network.primary, 'library/app', image, seed)
      return layerOf(image, blobBytes)
    }
    const secondsSince = (at: number): number => (performance.now() - at) / 1000

    const first = await push('first')
    const firstAt = performance.now()
    await have([...wells, stopped], first)
    const firstSeconds = secondsSince(firstAt)
    say(`the first push: ${firstSeconds.toFixed(1)} s`)

    const pushOnce = async (round: number): Promise<Push> => {
      const before = await Promise.all(all.map((edge) => receivedFrom(network, edge, 'primary')))
      const stoppedBefore = await received(network, stopped)
      // It sees the push, gets some of it, and is gone.
      const stops = async (): Promise<void> => {
        await until(async () => (await received(network, stopped)) > stoppedBefore + bytesPerSecond)
        network.signal(stopped, 'SIGSTOP')
      }
      const blob = await push(`round-${round}`)
      const startedAt = performance.now()
      await Promise.all([isHealthy ? undefined : stops(), have(wells, blob)])
      const seconds = secondsSince(startedAt)
      const from = await Promise.all(wells.map((edge) => receivedFrom(network, edge, 'primary')))
      const sent = wells.reduce((sum, edge, n) => sum + (from[n] ?? 0) - (before[edge] ?? 0), 0)
      const egress = sent / blobBytes
      say(`${seconds.toFixed(1)} s, ${egress.toFixed(3)} × from the primary`)
      if (isHealthy) return { seconds, egress, convergedSeconds: NaN, convergedBytes: NaN }
      const backAt = performance.now()
      network.signal(stopped, 'SIGCONT')
      await have([stopped], blob)
      const convergedSeconds = secondsSince(backAt)
      const convergedBytes = ((await received(network, stopped)) - stoppedBefore) / blobBytes
      await have(all, blob)
      return { seconds, egress, convergedSeconds, convergedBytes }
    }
    const pushes: Push[] = []
    for (let round = 1; round <= rounds; round++) pushes.push(await pushOnce(round))
    const each = (figure: keyof Push): number[] => pushes.map((push) => push[figure])
    return {
      firstSeconds,
      seconds: median(each('seconds')),
      egress: Math.max(...each('egress')),
      convergedSeconds: median(each('convergedSeconds')),
      convergedBytes: Math.max(...each('convergedBytes')),
    }
  } finally {
    network.signal(stopped, 'SIGCONT')
    await network.stop()
  }
}

/** A rule that brings everything to all edges. */
async function bringAll({ primary }: Network): Promise<void> {
  await createRule(primary, {
    name: randomBytes(4).toString('hex'),
    repositories: 'library/**',
    sites: [networkSite],
    serve: 'complete',
  })
}

/** Bodies that an edge received, of blobs and manifests. */
async function received(network: Network, edge: number): Promise<number> {
  return (
    (await receivedFrom(network, edge, 'primary')) + (await receivedFrom(network, edge, 'peers'))
  )
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + patienceMs
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error('it takes too long')
    await delay(pollMs)
  }
}

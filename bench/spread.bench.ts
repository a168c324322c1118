import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createImage, pushImage, type Content, type Image } from '../test/kit/images.ts'
import type { Bench, BenchContext } from './bench.ts'
import { createRule } from '../test/kit/api.ts'
import { networkSite, startNetwork, type Network } from '../test/kit/network.ts'
import type { BenchResult } from './report.ts'

const mib = 2 ** 20
const blobBytes = 64 * mib
const edges = 32
const processes = 8
const bytesPerSecond = 4 * mib
/** What an uplink needs for the blob once, in seconds. */
const limit = blobBytes / bytesPerSecond
/** In a process of its own, so that it can be stopped alone. */
const stopped = edges - 1
const slow = edges - 2
const pollMs = 50
const patienceMs = 240_000

/** A push that a rule brings to all edges of a site, each with a narrow uplink: when the last one has it, and what the primary gave. */
export const bench: Bench = {
  name: 'spread',
  counts: false,
  async run(context) {
    const healthy = await measure(context, { isHealthy: true })
    const ill = await measure(context, { isHealthy: false })
    const about = `${blobBytes / mib} MiB to ${edges} edges at ${bytesPerSecond / mib} MiB/s`
    const withIll = `${about}, one at 1 %, one stopped`
    const most = true
    const result: BenchResult = {
      rounds: '1',
      figures: [
        {
          case: about,
          measure: "bytes from the primary ÷ the blob's",
          value: healthy.egress,
          floor: 1.1,
          aim: 1.02,
          most,
        },
        {
          case: about,
          measure: 'last edge ÷ an uplink for the blob',
          value: healthy.seconds / limit,
          floor: 2,
          aim: 1.2,
          most,
          notes: `${healthy.seconds.toFixed(1)} s`,
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

interface Measured {
  /** From the push to the last edge that is well. */
  readonly seconds: number
  /** What all of them had from the primary, to the size of the blob. */
  readonly egress: number
  readonly convergedSeconds: number
  readonly convergedBytes: number
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
    const image = createImage({ seed: 'spread', layers: 1, layerBytes: blobBytes })
    const { digest } = layerOf(image)
    const isWell = (edge: number) => isHealthy || (edge !== slow && edge !== stopped)
    // It sees the push, gets some of it, and is gone.
    const stops = async (): Promise<void> => {
      await until(async () => (await received(network, stopped)) > 4 * mib)
      network.signal(stopped, 'SIGSTOP')
    }
    await pushImage(network.primary, 'library/app', image, 'v1')
    const startedAt = performance.now()
    const stopping = isHealthy ? Promise.resolve() : stops()
    const wells = Array.from({ length: edges }, (_, edge) => edge).filter(isWell)
    await Promise.all([
      stopping,
      ...wells.map((edge) => until(() => network.hasBlob(edge, digest))),
    ])
    const seconds = (performance.now() - startedAt) / 1000
    const from = await Promise.all(wells.map((edge) => received(network, edge, 'primary')))
    const egress = from.reduce((sum, bytes) => sum + bytes, 0) / blobBytes
    say(`${seconds.toFixed(1)} s, ${egress.toFixed(3)} × from the primary`)
    if (isHealthy) return { seconds, egress, convergedSeconds: NaN, convergedBytes: NaN }
    const backAt = performance.now()
    network.signal(stopped, 'SIGCONT')
    await until(() => network.hasBlob(stopped, digest))
    const convergedSeconds = (performance.now() - backAt) / 1000
    const convergedBytes = (await received(network, stopped)) / blobBytes
    return { seconds, egress, convergedSeconds, convergedBytes }
  } finally {
    network.signal(stopped, 'SIGCONT')
    await network.stop()
  }
}

function layerOf({ blobs }: Image): Content {
  const layer = blobs.find(({ bytes }) => bytes.length === blobBytes)
  if (layer === undefined) throw new Error('the image has no layer')
  return layer
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
async function received(network: Network, edge: number, from?: string): Promise<number> {
  const of = async (upstream: string): Promise<number> =>
    (await network.metric(edge, 'outport_edge_upstream_bytes_total', `upstream="${upstream}"`)) || 0
  return from === undefined ? (await of('primary')) + (await of('peers')) : of(from)
}

async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + patienceMs
  while (!(await holds())) {
    if (performance.now() > deadline) throw new Error('it takes too long')
    await delay(pollMs)
  }
}

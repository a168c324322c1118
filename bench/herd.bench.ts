import { join } from 'node:path'
import { digestOf } from '../shared/oci/digest.ts'
import type { RepositoryName } from '../shared/oci/reference.ts'
import { waitFor } from '../test/kit/clock.ts'
import { createImage, layerOf, pushImage, type Content } from '../test/kit/images.ts'
import { startNetwork, type Network } from '../test/kit/network.ts'
import { pieceListOf } from '../test/kit/piece-lists.ts'
import type { Bench, BenchContext } from './bench.ts'
import {
  about,
  blobBytes,
  bytesPerSecond,
  edges,
  processes,
  receivedFrom,
  uplinkSeconds,
} from './narrow-site.ts'
import { downloadPart } from './part-client.ts'
import { createRegistryClient } from './registry.ts'
import type { BenchResult } from './report.ts'

const repository = 'library/app' as RepositoryName

/** A client at each edge of a site asks for the same large blob, which none of them has and no rule brought. */
export const bench: Bench = {
  name: 'herd',
  counts: false,
  async run({ folder, say }: BenchContext) {
    const network = await startNetwork({
      folder: join(folder, 'network'),
      edges,
      processOf: (edge) => edge % processes,
      peersOf: () => ({ upload_rate: String(bytesPerSecond) }),
    })
    try {
      const first = await pullEverywhere(network, await pushListed(network, 'first'))
      say(`the first one: ${first.seconds.toFixed(1)} s`)
      const { seconds, egress } = await pullEverywhere(network, await pushListed(network, 'second'))
      const name = `${about.blob} asked for at ${about.edges}`
      const result: BenchResult = {
        rounds: '1',
        figures: [
          {
            case: name,
            measure: "bytes from the primary ÷ the blob's",
            value: egress,
            floor: 1.1,
            aim: 1.02,
            most: true,
          },
          {
            case: name,
            measure: 'last client ÷ an uplink for the blob',
            value: seconds / uplinkSeconds,
            floor: 2.5,
            aim: 1.2,
            most: true,
            notes: `${seconds.toFixed(1)} s; the first one after all were started ${first.seconds.toFixed(1)} s`,
          },
        ],
      }
      return result
    } finally {
      await network.stop()
    }
  },
}

/** Pushes an image, and waits until all edges know the list of its layer's pieces. */
async function pushListed(network: Network, seed: string): Promise<Content> {
  const image = createImage({ seed, layers: 1, layerBytes: blobBytes })
  await pushImage(network.primary, repository, image, seed)
  const layer = layerOf(image, blobBytes)
  const path = `/v2/${repository}/blobs/${digestOf(pieceListOf(layer.bytes))}`
  await waitFor(
    'the list of its pieces',
    async () => (await network.primary.request('HEAD', path)).status === 200,
    { timeoutMs: 60_000 },
  )
  const seqs = () =>
    Promise.all(network.edges.map((_, edge) => network.metric(edge, 'outport_edge_log_seq')))
  let known: readonly number[] = []
  await waitFor(
    'all edges to know of it',
    async () => {
      const before = Math.max(0, ...known)
      known = await seqs()
      return known.every((seq) => seq === before)
    },
    { timeoutMs: 60_000 },
  )
  return layer
}

/** @returns how long the last client took, and what all edges had from the primary, to the size of the blob */
async function pullEverywhere(
  network: Network,
  { digest, bytes }: Content,
): Promise<{ readonly seconds: number; readonly egress: number }> {
  const received = async (): Promise<number> => {
    const each = network.edges.map((_, edge) => receivedFrom(network, edge, 'primary'))
    return (await Promise.all(each)).reduce((sum, count) => sum + count, 0)
  }
  const clients = await Promise.all(
    network.edges.map(async (origin) => {
      const client = createRegistryClient({ name: 'edge', origin }, { repository })
      return { origin, authorization: await client.authorize('pull') }
    }),
  )
  const before = await received()
  const startedAt = performance.now()
  await Promise.all(
    clients.map((client) =>
      downloadPart({
        ...client,
        path: `/v2/${repository}/blobs/${digest}`,
        length: bytes.length,
        hashes: false,
      }),
    ),
  )
  const seconds = (performance.now() - startedAt) / 1000
  return { seconds, egress: ((await received()) - before) / bytes.length }
}

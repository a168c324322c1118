import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { blobPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import { contentOf, pushBlob } from '../test/kit/images.ts'
import type { Network } from '../test/kit/network.ts'
import { startUpstream, type Upstream } from '../test/kit/upstream.ts'
import type { Bench, BenchContext } from './bench.ts'
import {
  clients,
  judgeCold,
  offerCold,
  pullCold,
  type ColdOffer,
  type ColdPull,
  type ColdSeen,
} from './cold-clients.ts'
import { startFront, type Front } from './front.ts'
import { clientCore, pinSelf, serverCore, spawnPinned } from './processes.ts'
import { patterns, type Pattern } from './pulls.ts'
import { createRegistryClient } from './registry.ts'
import { percentile, type BenchResult, type Figure } from './report.ts'
import { siteEdges, startTree } from './tree.ts'

const mib = 2 ** 20
const blobBytes = 32 * mib
/** That have one blob together. */
const sharers = ['one', 'two', 'three']
/** How often each length is measured; once where only counts matter. */
const timesOf = new Map([
  [4, 3],
  [16, 2],
  [60, 1],
])
const countedSeconds = 4
/** Pulls of each kind before the first that is measured: edges run for weeks, and code that is new is slow. */
const warmUps = 6

/** 50 cold clients of one blob, over the edges of one site and the parent behind it: what all of them ask the upstream for, and who waits for whom. */
export const bench: Bench = {
  name: 'site',
  counts: true,
  async run(context) {
    const unpin = pinSelf(clientCore)
    const upstream = await startUpstream()
    let front: Front | undefined
    try {
      const network = await startTree({
        folder: join(context.folder, 'network'),
        spawn: (command, options) => spawnPinned(serverCore, command, options),
        upstreams: [{ id: 'origin', url: upstream.url.origin }],
        // On a machine that has much else to do an edge may send nothing for the usual three seconds, and be passed by.
        edge: context.countsOnly ? { peer_wait: '60s' } : {},
        between: {
          async clients(primary) {
            front = await startFront(primary)
            return front.url
          },
        },
      })
      try {
        if (front === undefined) throw new Error('nothing stands before the primary')
        return await measureAll(context, { upstream, network, front })
      } finally {
        await network.stop()
      }
    } finally {
      await front?.close()
      await upstream.close()
      unpin()
    }
  },
}

interface Stand {
  readonly upstream: Upstream
  readonly network: Network
  readonly front: Front
}

async function measureAll(context: BenchContext, stand: Stand): Promise<BenchResult> {
  const { countsOnly, say } = context
  const { upstream } = stand
  const names = sharers.map((name) => `bench/${name}`)
  const one = (how: ColdPull) => pullCold(upstream, offerAt(stand, ['bench/app']), how)
  // Who may read what a third party gave another repository, its answer alone says: each has its own copy.
  const apart = (how: ColdPull) => pullCold(upstream, offerAt(stand, names), how)
  const together = async (how: ColdPull) => pullCold(stand.front, await offerAtPrimary(stand), how)
  const figures: Figure[] = []
  for (let time = 1; time <= (countsOnly ? 1 : warmUps); time++) {
    say(`the network has run before, ${time}`)
    for (const pattern of patterns) {
      const seen = await one({ pattern, seconds: 1 })
      if (time === 1) figures.push(firstOf(pattern, seen))
      if (countsOnly) continue
      await apart({ pattern, seconds: 1 })
      await together({ pattern, seconds: 1 })
    }
  }
  const rounds: string[] = []
  for (const [seconds, times] of countsOnly ? [[countedSeconds, 1] as const] : timesOf) {
    rounds.push(`${times} of ${seconds} s`)
    for (const pattern of patterns)
      figures.push(...(await measure(context, { times, pattern, seconds }, 1, one)))
  }
  for (const pattern of patterns) {
    const how = { times: 1, pattern, seconds: countedSeconds }
    figures.push(...(await measure(context, how, sharers.length, apart, 'third party')))
    figures.push(...(await measure(context, how, 1, together, 'primary')))
  }
  return { figures, rounds: rounds.join(', ') }
}

/** Told, not judged: programs that have just started run code that is not compiled yet. */
const firstOf = (pattern: Pattern, { headerDelays }: ColdSeen): Figure => ({
  case: `the first pull after all have started, ${pattern}, 1 s`,
  measure: "headers after the upstream's, p99, ms",
  value: percentile(headerDelays, 0.99),
  most: true,
})

/** @param copies how many of the blob the upstream has to give */
async function measure(
  { countsOnly, say }: BenchContext,
  { times, ...how }: ColdPull & { readonly times: number },
  copies: number,
  pullOnce: (how: ColdPull) => Promise<ColdSeen>,
  shared?: string,
): Promise<Figure[]> {
  const { pattern, seconds } = how
  const about = shared === undefined ? '' : `${sharers.length} repositories of a ${shared}, `
  const name = `${about}${clients} clients, ${siteEdges} edges and a parent, ${pattern}, ${seconds} s`
  const seen: ColdSeen[] = []
  for (let round = 1; round <= times; round++) {
    say(`${name}, round ${round}`)
    seen.push(await pullOnce(how))
  }
  return judgeCold(name, seen, { countsOnly, copies })
}

function offerAt({ upstream, network }: Stand, repositories: readonly string[]): ColdOffer {
  const edges = network.edges.slice(0, siteEdges)
  return offerCold(upstream, { id: 'origin', edges, repositories, bytes: blobBytes })
}

/** Pushes a blob to several repositories of the primary, and one for the direct fetch to another. */
async function offerAtPrimary({ network, front }: Stand): Promise<ColdOffer> {
  const { primary, admin } = network
  const push = async (name: string, bytes: Buffer) => {
    const content = contentOf(bytes)
    const { status } = await pushBlob(primary, name, content)
    if (status !== 201) throw new Error(`the primary answered ${status}`)
    return content.digest
  }
  const placeAt = async (
    origin: URL,
    name: string,
    digest: ReturnType<typeof contentOf>['digest'],
  ) => {
    const repository = parseRepositoryName(name)
    const client = createRegistryClient({ name, origin }, { repository, credentials: admin })
    const authorization = await client.authorize('pull')
    return { origin, path: blobPath(repository, digest), authorization }
  }
  const blob = randomBytes(blobBytes)
  const { digest } = contentOf(blob)
  const names = sharers.map((name) => `library/${name}`)
  for (const name of names) await push(name, blob)
  const beside = await push('library/direct', randomBytes(blobBytes))
  const edges = network.edges.slice(0, siteEdges)
  const places = []
  for (const name of names) for (const edge of edges) places.push(await placeAt(edge, name, digest))
  return {
    digest,
    blob,
    places,
    direct: await placeAt(front.url, 'library/direct', beside),
    remove: () => front.forgetRequests(),
  }
}

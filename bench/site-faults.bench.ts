import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createHomes } from '../shared/site/home.ts'
import { waitFor } from '../test/kit/clock.ts'
import type { Network } from '../test/kit/network.ts'
import { chooseSeed, createRandom, type Random } from '../test/kit/random.ts'
import { startUpstream, type Upstream } from '../test/kit/upstream.ts'
import type { Bench } from './bench.ts'
import {
  addCold,
  againFigure,
  coldBytes,
  errorFigure,
  removeCold,
  sentAgain,
  type ColdBlob,
} from './cold-blobs.ts'
import type { PartSeen } from './part-client.ts'
import { clientCore, pinSelf, serverCore, spawnPinned } from './processes.ts'
import { pull, segmentBytes } from './pulls.ts'
import { median, type Figure } from './report.ts'
import { siteEdges, startTree } from './tree.ts'

const mib = 2 ** 20
/** Each at an offset of its own. So slow that all hops keep up: what a killed edge had not passed on yet is lost. */
const all = { cuts: 10, bytesPerSecond: 8 * mib }
/** Where only counts matter. */
const few = { cuts: 2, bytesPerSecond: 16 * mib }
/** After the others, into whatever has become of it. */
const lateMs = 1000

/** Of a site: the upstream, the home or the parent goes away in the middle of a blob, and does not come back. */
export const bench: Bench = {
  name: 'site-faults',
  counts: true,
  async run({ folder, countsOnly, say }) {
    const seed = chooseSeed()
    say(`OUTPORT_SEED=${seed}`)
    const random = createRandom(seed)
    const { cuts, bytesPerSecond } = countsOnly ? few : all
    const unpin = pinSelf(clientCore)
    // The one that stays, and those that are cut, each once: nobody hears of the others' trouble.
    const common = await startUpstream()
    const upstreams: Upstream[] = []
    try {
      while (upstreams.length < cuts) upstreams.push(await startUpstream())
      const network = await startTree({
        folder: join(folder, 'network'),
        spawn: (command, options) => spawnPinned(serverCore, command, options),
        isQuiet: true,
        upstreams: [
          { id: commonId, url: common.url.origin },
          ...upstreams.map(({ url }, i) => ({ id: firstIdOf(i), url: url.origin })),
          ...upstreams.map((_, i) => {
            return { id: idOf(i), url: common.url.origin, mirrors: [firstIdOf(i)] }
          }),
        ],
      })
      const stand = { network, common, random }
      try {
        for (const upstream of [common, ...upstreams]) upstream.setPace(bytesPerSecond)
        const uncutMs = await pullUncut(stand)
        const figures: Figure[] = []
        const each = async (name: string, once: (i: number) => Promise<CutSeen>): Promise<void> => {
          const seen: CutSeen[] = []
          for (let i = 0; i < cuts; i++) {
            say(`${name}, ${i + 1} of ${cuts}`)
            seen.push(await once(i))
          }
          figures.push(...judge(`${cuts} times ${name}`, seen, { seed, countsOnly, uncutMs }))
        }
        await each('the first source, cut and dead', (i) =>
          cutUpstream(stand, { i, first: upstreams[i] ?? common }),
        )
        await each('the home, killed', () => killHome(stand))
        await each('the parent, killed', () => killParent(stand))
        return { figures, rounds: '1' }
      } finally {
        await network.stop()
      }
    } finally {
      await Promise.all([common, ...upstreams].map((upstream) => upstream.close()))
      unpin()
    }
  },
}

const commonId = 'origin'
/** Behind those of the site. */
const parentNumber = siteEdges
const siteNumbers = Array.from({ length: siteEdges }, (_, edge) => edge)
const ofCommon = { edges: siteNumbers, sources: [commonId] }
/** As all edges of the site name it. */
const homes = createHomes(siteNumbers.map((edge) => ({ id: `edge-${edge + 1}`, edge })))

/** Of an upstream that is asked behind the one that is cut. */
function idOf(i: number): string {
  return `mirrored-${i}`
}

function firstIdOf(i: number): string {
  return `cut-${i}`
}

interface Stand {
  readonly network: Network
  readonly common: Upstream
  readonly random: Random
}

interface SitePull {
  readonly clients: readonly PromiseSettledResult<readonly PartSeen[]>[]
  /** What came more than once to an edge, of that to which most did. */
  readonly receivedAgainMib: number
}

interface CutSeen extends SitePull {
  readonly offset: number
  readonly sentAgainMib: number
}

/** Some times, because code that is new is slow. @returns the longest wait of the last time */
async function pullUncut({ network, common }: Stand): Promise<number> {
  const stand = { upstream: common, id: commonId }
  let uncutMs = NaN
  for (let i = 0; i < 3; i++) {
    const blob = addCold(stand)
    uncutMs = longestWait(await pullBySite(network, blob, ofCommon))
    removeCold(stand, blob)
  }
  return uncutMs
}

/** At each of these edges a client of each kind from the start, and one that comes later. */
async function pullBySite(
  network: Network,
  { expected, path }: ColdBlob,
  { edges, sources }: { readonly edges: readonly number[]; readonly sources: readonly string[] },
): Promise<SitePull> {
  const before = await Promise.all(edges.map((edge) => receivedBytes(network, edge, sources)))
  const clients = await Promise.allSettled(
    edges.flatMap((edge) => {
      const origin = network.edges[edge]
      if (origin === undefined) throw new Error(`there is no edge ${edge}`)
      const wanted = { origin, path, expected, hashes: true }
      return [
        pull.plain(wanted),
        pull.chunked(wanted),
        delay(lateMs).then(() => pull.plain(wanted)),
      ]
    }),
  )
  const after = await Promise.all(edges.map((edge) => receivedBytes(network, edge, sources)))
  const again = after.map((bytes, i) => bytes - (before[i] ?? 0) - expected.bytes)
  if (again.some((bytes) => bytes < 0)) throw new Error('an edge does not have all of the blob')
  return { clients, receivedAgainMib: Math.max(...again) / mib }
}

/** Bodies that came to an edge, whoever gave them. */
async function receivedBytes(
  network: Network,
  edge: number,
  sources: readonly string[],
): Promise<number> {
  const from = async (source: string): Promise<number> => {
    const label = `upstream="${source}"`
    return (await network.metric(edge, 'outport_edge_upstream_bytes_total', label)) || 0
  }
  const bytes = await Promise.all(['peers', ...sources].map(from))
  return bytes.reduce((sum, each) => sum + each, 0)
}

/** Its last bytes are not cut: they would be there before anything is dead. */
const chooseOffset = (random: Random): number => random.between(1, coldBytes - 4 * mib)

async function cutUpstream(
  { network, common, random }: Stand,
  { i, first }: { readonly i: number; readonly first: Upstream },
): Promise<CutSeen> {
  const stand = { upstream: first, second: common, id: idOf(i) }
  const offset = chooseOffset(random)
  const blob = addCold(stand)
  first.fault({ digest: blob.digest, method: 'GET' }, { cutAt: offset })
  const pulls = pullBySite(network, blob, {
    edges: siteNumbers,
    sources: [idOf(i), firstIdOf(i)],
  })
  await waitFor('the cut', () => first.delivered(blob.digest).bytes >= offset)
  await first.down()
  const seen = { ...(await pulls), offset, sentAgainMib: sentAgain(stand, blob) }
  if (common.delivered(blob.digest).bytes === 0) throw new Error('the second source was not asked')
  removeCold(stand, blob)
  return seen
}

async function killHome(stand: Stand): Promise<CutSeen> {
  const { common } = stand
  const blob = addCold({ upstream: common, id: commonId })
  const home = homes.home(blob)?.edge ?? 0
  const others = siteNumbers.filter((edge) => edge !== home)
  return killAt(stand, { blob, edge: home, others })
}

function killParent(stand: Stand): Promise<CutSeen> {
  const blob = addCold({ upstream: stand.common, id: commonId })
  return killAt(stand, { blob, edge: parentNumber, others: siteNumbers })
}

/** It has some of the blob, and nobody gets anything from it afterwards. */
async function killAt(
  { network, common, random }: Stand,
  {
    blob,
    edge,
    others,
  }: { readonly blob: ColdBlob; readonly edge: number; readonly others: readonly number[] },
): Promise<CutSeen> {
  const stand = { upstream: common, id: commonId }
  const offset = chooseOffset(random)
  const name = `edge-${edge + 1}` as const
  // It has no clients: what comes to it somebody asked it for.
  const asked = () => receivedBytes(network, edge, [commonId])
  const before = await asked()
  const pulls = pullBySite(network, blob, { edges: others, sources: [commonId] })
  await waitFor('the fill', () => common.delivered(blob.digest).bytes >= offset)
  const wasAsked = (await asked()) > before
  await network.kill(name)
  const seen = { ...(await pulls), offset, sentAgainMib: sentAgain(stand, blob) }
  removeCold(stand, blob)
  if (!wasAsked) throw new Error(`${name} was not asked, and its end says nothing`)
  await network.start(name)
  const isFresh = () => network.metric(edge, 'outport_edge_log_fresh')
  await waitFor('it to be back', async () => (await isFresh()) === 1, { timeoutMs: 60_000 })
  return seen
}

function longestWait({ clients }: SitePull): number {
  const parts = clients.flatMap((client) => (client.status === 'fulfilled' ? client.value : []))
  return Math.max(...parts.map((part) => part.longestWaitMs))
}

function judge(
  name: string,
  seen: readonly CutSeen[],
  {
    seed,
    countsOnly,
    uncutMs,
  }: { readonly seed: number; readonly countsOnly: boolean; readonly uncutMs: number },
): Figure[] {
  const clients = seen.flatMap((each) => each.clients)
  const told = seen.map(({ offset }) => (offset / mib).toFixed(1)).join(' ')
  const waits = seen.map(longestWait)
  const segment = segmentBytes / mib
  // Times, and what a killed edge had not passed on in time, are told and not judged where only counts are asked for.
  const floor = (value: number) => (countsOnly ? {} : { floor: value })
  return [
    errorFigure(name, clients, `of ${clients.length} clients; seed ${seed}, at MiB ${told}`),
    againFigure(
      { case: name, measure: 'MiB that an edge received again', floor: segment, aim: 1 },
      seen.map((each) => each.receivedAgainMib),
    ),
    againFigure(
      { case: name, measure: 'MiB sent again by the upstreams', ...floor(segment), aim: 1 },
      seen.map((each) => each.sentAgainMib),
    ),
    {
      case: name,
      measure: 'longest wait of a client in its body, ms',
      value: median(waits),
      lowest: Math.min(...waits),
      highest: Math.max(...waits),
      // 200 ms, and a connection of TLS to whoever is next.
      ...floor(250),
      aim: 100,
      most: true,
      notes: `${uncutMs.toFixed(0)} where nothing is cut`,
    },
  ]
}

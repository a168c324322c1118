import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import { leaseMs } from '../shared/replication/lease.ts'
import { callApi, createRule } from '../test/kit/api.ts'
import { waitFor } from '../test/kit/clock.ts'
import { contentOf, createImage, pushBlob, pushImage, pushManifest } from '../test/kit/images.ts'
import type { Content } from '../test/kit/images.ts'
import { networkSite, startNetwork, type Network } from '../test/kit/network.ts'
import type { Bench, BenchContext } from './bench.ts'
import { startFront, type Front } from './front.ts'
import { openRecordsOf } from './outport.ts'
import { createRegistryClient } from './registry.ts'
import { startRelay, type Relay } from './relay.ts'
import { median, percentile, type Figure } from './report.ts'
import { createTagClient, type TagClient } from './tag-client.ts'

/** Of the operations each may be the one that goes back. */
const all = { edges: 20, operations: 100_000 }
/** Where only what is counted matters: they start sooner. */
const few = { edges: 4, operations: 20_000 }
const moves = 30
/** Between two questions while a tag is waited for. */
const askMs = 20
const patienceMs = 10_000

const repository = parseRepositoryName('library/app')
const path = `/v2/${repository}/manifests/latest`
const large = { repository: 'library/large', bytes: 20 * 2 ** 30, bytesPerSecond: 256 * 1024 }

/** At each edge, each asking as soon as it was answered. */
const askers = 2
const movePauseMs = 20
/** Between two cuts of the feed, while all that is asked. */
const cutPauseMs = 700

/** A tag that moves at the primary: when each of many edges answers where it points now, and whether it ever goes back. */
export const bench: Bench = {
  name: 'fresh',
  counts: true,
  async run(context) {
    const { countsOnly, folder } = context
    const { edges, operations } = countsOnly ? few : all
    let front: Front | undefined
    let relay: Relay | undefined
    const clients: TagClient[] = []
    try {
      const network = await startNetwork({
        folder: join(folder, 'network'),
        edges,
        between: {
          clients: async (primary) => (front = await startFront(primary)).url,
          internal: async (listener) => (relay = await startRelay(listener)).url,
        },
      })
      try {
        if (front === undefined || relay === undefined) throw new Error('nothing stands between')
        const open = (edge: URL): TagClient => {
          const client = openClient(network, edge)
          clients.push(client)
          return client
        }
        const stand = { network, front, relay, open }
        const figures: Figure[] = []
        if (!countsOnly) {
          const ruleId = await bringLarge(context, stand)
          figures.push(...(await moveTag(context, stand)))
          figures.push(await cutFeed(context, stand))
          await letGoOfLarge(context, network, ruleId)
        }
        figures.push(await neverBack(context, stand, operations))
        return { figures, rounds: '1' }
      } finally {
        for (const client of clients) client.close()
        await network.stop()
      }
    } finally {
      await relay?.close()
      await front?.close()
    }
  },
}

interface Stand {
  readonly network: Network
  readonly front: Front
  readonly relay: Relay
  /** A client of one of the edges. */
  readonly open: (edge: URL) => TagClient
}

function openClient({ admin: credentials }: Network, origin: URL): TagClient {
  const client = createRegistryClient({ name: origin.host, origin }, { repository, credentials })
  return createTagClient({ origin, path, authorize: () => client.authorize('pull') })
}

/** Has a rule bring an image to all edges of which the layer is said to have 20 GiB, and comes slowly. */
async function bringLarge(
  { folder, say }: BenchContext,
  { network, front }: Stand,
): Promise<number> {
  const { primary } = network
  const image = createImage({ seed: 'large', layers: 1 })
  const [layer] = image.blobs.filter(({ mediaType }) => mediaType.includes('layer'))
  if (layer === undefined) throw new Error('the image has no layer')
  for (const blob of image.blobs) await pushBlob(primary, large.repository, blob)
  const { digest } = layer
  front.declare(digest, large)
  const records = await openRecordsOf(join(folder, 'network', 'primary'), { poolSize: 1 })
  try {
    await records.query('UPDATE blobs SET size = $1 WHERE digest = $2', [large.bytes, digest])
  } finally {
    await records.close()
  }
  const text = image.manifest.bytes.toString()
  const declared = text.replace(
    `"${digest}","size":${layer.bytes.length}`,
    `"${digest}","size":${large.bytes}`,
  )
  const rule = { name: 'large', repositories: 'library/large', sites: [networkSite] }
  const ruleId = await createRule(primary, rule)
  await put(network, large.repository, manifestOf(declared))
  await waitFor(
    'the large blob to come to all edges',
    async () => (await largeBytes(network)).every((bytes) => bytes > large.bytesPerSecond),
    { timeoutMs: 60_000 },
  )
  say('20 GiB are on their way to each edge')
  return ruleId
}

/** Together the edges bring it at twenty times its pace: it would fill a disk while answers are counted. */
async function letGoOfLarge(
  { say }: BenchContext,
  network: Network,
  ruleId: number,
): Promise<void> {
  const rulePath = `/replication/policies/${ruleId}`
  const rule = (await callApi(network.primary, 'GET', rulePath)).json() as object
  await callApi(network.primary, 'PUT', rulePath, { ...rule, enabled: false })
  let before = await largeBytes(network)
  const isStill = async (): Promise<boolean> => {
    await delay(1000)
    const now = await largeBytes(network)
    const moved = now.some((bytes, edge) => bytes !== before[edge])
    before = now
    return !moved
  }
  await waitFor('the large blob to be let go', isStill, { timeoutMs: 120_000 })
  say('nothing of the 20 GiB comes any more')
}

/** What came to each edge, most of it of the large blob. */
function largeBytes({ edges, metric }: Network): Promise<number[]> {
  const name = 'outport_edge_upstream_bytes_total'
  return Promise.all(
    edges.map(async (_, edge) => {
      const own = (await metric(edge, name, 'upstream="primary"')) || 0
      return own + ((await metric(edge, name, 'upstream="peers"')) || 0)
    }),
  )
}

function manifestOf(text: string): Content {
  return contentOf(Buffer.from(text), { mediaType: 'application/vnd.oci.image.manifest.v1+json' })
}

async function put({ primary }: Network, name: string, manifest: Content): Promise<void> {
  const { status, body } = await pushManifest(primary, name, manifest, 'latest')
  if (status !== 201) throw new Error(`the primary answered ${status}: ${String(body)}`)
}

/** Two images that all edges hold: what is measured is about the tag. */
const images = ['one', 'two'].map((seed) => createImage({ seed }))

function imageOf(move: number): Content {
  const image = images[move % images.length]
  if (image === undefined) throw new Error('there are no images')
  return image.manifest
}

async function moveTag({ say }: BenchContext, stand: Stand): Promise<Figure[]> {
  const { network, open } = stand
  const clients = network.edges.map(open)
  for (let move = 0; move < images.length; move++) {
    const image = images[move]
    if (image !== undefined) await pushImage(network.primary, repository, image, 'latest')
    await Promise.all(clients.map((client) => seenAt(client, imageOf(move).digest)))
  }
  const before = await largeBytes(network)
  const delays: number[] = []
  for (let move = 0; move < moves; move++) {
    if (move % 10 === 0) say(`move ${move + 1} of ${moves}`)
    const manifest = imageOf(move)
    await put(network, repository, manifest)
    const at = performance.now()
    const seen = await Promise.all(clients.map((client) => seenAt(client, manifest.digest)))
    delays.push(...seen.map((each) => each - at))
  }
  const came = (await largeBytes(network)).map((bytes, edge) => bytes - (before[edge] ?? 0))
  if (came.some((bytes) => bytes <= 0)) throw new Error('the large blob did not come meanwhile')
  const mib = came.reduce((sum, bytes) => sum + bytes, 0) / came.length / 2 ** 20
  return [
    {
      case: `${clients.length} edges, ${moves} moves, 20 GiB on their way`,
      measure: 'moved tag answered, p99, ms',
      value: percentile(delays, 0.99),
      floor: 250,
      aim: 150,
      most: true,
      notes: `median ${median(delays).toFixed(0)}; ${mib.toFixed(1)} MiB came to each edge meanwhile`,
    },
  ]
}

/** When an edge first answers this digest, give or take a question. */
async function seenAt(
  client: TagClient,
  digest: string,
  { from = 0, waitMs = patienceMs }: { readonly from?: number; readonly waitMs?: number } = {},
): Promise<number> {
  const startedAt = performance.now()
  for (;;) {
    if ((await client.ask()) === digest) return performance.now()
    const passed = performance.now() - startedAt
    if (passed > waitMs) throw new Error('an edge never heard of the moved tag')
    await delay(passed < from ? 10 * askMs : askMs)
  }
}

/** The tag moves in the moment in which nothing comes to the edges any more, and nobody is told. */
async function cutFeed({ say }: BenchContext, { network, relay, open }: Stand): Promise<Figure> {
  say(`the feed is cut, for ${leaseMs / 1000} s`)
  const clients = network.edges.map(open)
  const manifest = imageOf(moves)
  relay.silence()
  await put(network, repository, manifest)
  const at = performance.now()
  // A lease that was just given has a third of its time behind it at most.
  const wait = { from: leaseMs / 2, waitMs: 2 * leaseMs }
  const seen = await Promise.all(
    clients.map((client) => seenAt(client, manifest.digest, wait)),
  ).finally(() => relay.heal())
  const delays = seen.map((each) => each - at)
  await waitFor(
    'all edges to follow again',
    async () => {
      const fresh = network.edges.map((_, edge) => network.metric(edge, 'outport_edge_log_fresh'))
      return (await Promise.all(fresh)).every((each) => each === 1)
    },
    { timeoutMs: 60_000 },
  )
  return {
    case: `${clients.length} edges, the feed silently cut`,
    measure: `moved tag answered, last edge, ms after the lease of ${leaseMs / 1000} s`,
    value: Math.max(...delays) - leaseMs,
    floor: 50,
    aim: 0,
    most: true,
    notes: `first edge ${(Math.min(...delays) / 1000).toFixed(1)} s after the move`,
  }
}

/** Asked by many while the tag moves on and the feed is cut again and again. */
async function neverBack({ say }: BenchContext, stand: Stand, operations: number): Promise<Figure> {
  const { network, relay, open } = stand
  say(`${operations} operations`)
  const image = createImage({ seed: 'on and on', annotations: { number: 'N' } })
  for (const blob of image.blobs) await pushBlob(network.primary, repository, blob)
  const numberOf = new Map<string, number>()
  const counts = { done: 0, asked: 0, answered: 0, moves: 0, cuts: 0, back: 0 }
  const isOver = (): boolean => counts.done >= operations

  const move = async (): Promise<void> => {
    const text = image.manifest.bytes.toString().replace('"N"', `"${numberOf.size}"`)
    const manifest = manifestOf(text)
    // Before it is there: an edge may be quicker than the primary's answer.
    numberOf.set(manifest.digest, numberOf.size)
    await put(network, repository, manifest)
    counts.moves++
    counts.done++
  }
  const ask = async (client: TagClient, last: { number: number }): Promise<void> => {
    const least = last.number
    const digest = await client.ask()
    counts.done++
    counts.asked++
    if (digest === undefined) return
    const number = numberOf.get(digest)
    if (number === undefined) throw new Error(`an edge answers ${digest}, which nobody pushed`)
    counts.answered++
    if (number < least) counts.back++
    last.number = Math.max(last.number, number)
  }
  const repeat = async (once: () => unknown, pauseMs?: number): Promise<void> => {
    while (!isOver()) {
      await once()
      if (pauseMs !== undefined) await delay(pauseMs)
    }
  }

  await move()
  const [first] = numberOf.keys()
  const asking: Promise<void>[] = []
  for (const edge of network.edges) {
    const clients = Array.from({ length: askers }, () => open(edge))
    for (const client of clients) await seenAt(client, first ?? '')
    // Of all that was answered by this edge before a question was asked.
    const last = { number: 0 }
    asking.push(...clients.map((client) => repeat(() => ask(client, last))))
  }
  const cut = (): void => {
    relay.cut()
    counts.cuts++
    counts.done++
  }
  await Promise.all([...asking, repeat(move, movePauseMs), repeat(cut, cutPauseMs)])
  const { asked, answered, cuts } = counts
  if (answered < 0.99 * asked) throw new Error(`${answered} of ${asked} questions were answered`)
  return {
    case: `${network.edges.length} edges, ${operations} operations`,
    measure: 'answers that went back',
    value: counts.back,
    floor: 0,
    aim: 0,
    most: true,
    notes: `${counts.moves} moves, ${cuts} cuts of the feed`,
  }
}

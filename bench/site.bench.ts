import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { blobPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import { startUpstream, type Upstream } from '../test/kit/upstream.ts'
import type { Bench, BenchContext } from './bench.ts'
import { startNetwork, type Network } from '../test/kit/network.ts'
import { clientCore, pinSelf, serverCore, spawnPinned } from './processes.ts'
import { downloadPart } from './part-client.ts'
import { expectedOf, patterns, pull, segmentBytes, type Pattern } from './pulls.ts'
import { median, type BenchResult, type Figure } from './report.ts'

const mib = 2 ** 20
const blobBytes = 32 * mib
const edges = 4
const clients = 50
const stepMs = 10
const rounds = 3
/** Every one would need more than the clients' core. */
const hashingClients = 10

/** 50 cold clients of one blob, over the edges of one site: what the site asks its upstream for. */
export const bench: Bench = {
  name: 'site',
  counts: true,
  async run(context) {
    const unpin = pinSelf(clientCore)
    const upstream = await startUpstream()
    try {
      const network = await startNetwork({
        folder: join(context.folder, 'network'),
        edges,
        spawn: (command, options) => spawnPinned(serverCore, command, options),
        upstreams: [{ id: 'origin', url: upstream.url.origin }],
      })
      try {
        return await measureAll(context, { upstream, network })
      } finally {
        await network.stop()
      }
    } finally {
      await upstream.close()
      unpin()
    }
  },
}

interface Stand {
  readonly upstream: Upstream
  readonly network: Network
}

interface Seen {
  readonly responsesPerSegment: number
  readonly bytesShare: number
  /** Of a direct fetch's time. */
  readonly doneShare: number
}

async function measureAll({ countsOnly, say }: BenchContext, stand: Stand): Promise<BenchResult> {
  for (const pattern of patterns) await pullCold(stand, { pattern, seconds: 1 })
  const figures: Figure[] = []
  const fills = countsOnly ? [4] : [4, 16]
  for (const seconds of fills)
    for (const pattern of patterns) {
      const seen: Seen[] = []
      for (let round = 1; round <= rounds; round++) {
        say(`${pattern}, ${seconds} s, round ${round}`)
        seen.push(await pullCold(stand, { pattern, seconds }))
      }
      const name = `${clients} clients, ${edges} edges, ${pattern}, ${seconds} s`
      const most = true
      figures.push(
        {
          case: name,
          measure: 'upstream responses per segment',
          value: Math.max(...seen.map((each) => each.responsesPerSegment)),
          floor: 1,
          aim: 1,
          most,
        },
        {
          case: name,
          measure: "upstream bytes ÷ the blob's",
          value: Math.max(...seen.map((each) => each.bytesShare)),
          floor: 1.01,
          aim: 1.001,
          most,
        },
        {
          case: name,
          measure: 'last client ÷ a direct fetch',
          value: median(seen.map((each) => each.doneShare)),
          ...(!countsOnly && { floor: 1.05 }),
          aim: 1.03,
          most,
        },
      )
    }
  return { figures, rounds: String(rounds) }
}

/** One blob that nobody has seen, pulled directly, and then by all clients, each at one of the edges. */
async function pullCold(
  { upstream, network }: Stand,
  { pattern, seconds }: { readonly pattern: Pattern; readonly seconds: number },
): Promise<Seen> {
  const blob = randomBytes(blobBytes)
  const repository = parseRepositoryName('bench/app')
  const digest = upstream.addBlob(repository, blob)
  upstream.setPace(blobBytes / seconds)
  const expected = expectedOf(blob)
  const direct = await downloadPart({
    origin: upstream.url,
    path: blobPath(repository, digest),
    length: blobBytes,
    hashes: false,
  })
  upstream.forgetRequests()
  const path = blobPath(parseRepositoryName('origin/bench/app'), digest)
  const startedAt = performance.now()
  const parts = await Promise.all(
    Array.from({ length: clients }, async (_, i) => {
      await delay(i * stepMs)
      const origin = network.edges[i % edges]
      if (origin === undefined) throw new Error('there is no such edge')
      return pull[pattern]({ origin, path, expected, hashes: i % hashingClients === 0 })
    }),
  )
  const lastAt = Math.max(...parts.flat().map(({ doneAt }) => doneAt))
  const segments = upstream.responsesPerSegment(digest, segmentBytes)
  const seen = {
    responsesPerSegment: segments.reduce((sum, count) => sum + count, 0) / segments.length,
    bytesShare: upstream.delivered(digest).bytes / blobBytes,
    doneShare: (lastAt - startedAt) / (direct.doneAt - direct.askedAt),
  }
  upstream.remove(repository, digest)
  return seen
}

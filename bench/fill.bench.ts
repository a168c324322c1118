import { randomBytes } from 'node:crypto'
import { link, mkdir, readdir, rm, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Digest } from '../shared/oci/digest.ts'
import { blobPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import { startUpstream, type Upstream } from '../test/kit/upstream.ts'
import type { Bench, BenchContext } from './bench.ts'
import { startClient, type Client } from './client.ts'
import { makeBlob, renewBlob, type BlobFile } from './content.ts'
import { treeCpuSeconds } from './cpu.ts'
import { startOutport } from './outport.ts'
import { downloadPart } from './part-client.ts'
import { MissingPeer } from './peers.ts'
import { startDistributionCache, startNginxCache, startOrigin } from './proxies.ts'
import { median, percentile, ratioFigure, type Figure } from './report.ts'
import { costRatios, interleave, medianOf, type Side } from './rounds.ts'
import type { Server } from './servers.ts'

const mib = 2 ** 20
const largeBytes = 512 * mib
/** One blob of each in turn; of one below 64 KiB nothing is given out before it is proved. */
const quickSizes = [16 * 1024, mib / 4, mib, 4 * mib, 16 * mib]
const quickBlobs = 100
const warmingBlobs = 10
/** How long a server may take to put away what it has sent. */
const settleMs = 30_000

/** Large blobs come from files, quick ones from the stand-in, which knows when it sent what. */
const repositories = { large: 'bench/app', quick: 'quick/app' } as const

/** A cold blob on its way through: CPU per byte, and how long the first byte takes. */
export const bench: Bench = {
  name: 'fill',
  counts: false,
  async run(context) {
    const stops: Stops = []
    try {
      const stand = await startStand(context, stops)
      const figures = [
        ...(await compareLarge(context, stand)),
        ...(await compareFirstBytes(context, stand)),
      ]
      return { figures, failures: stand.missing }
    } catch (error) {
      if (error instanceof MissingPeer) return { figures: [], failures: [error.message] }
      throw error
    } finally {
      for (const stop of stops.reverse()) await stop()
    }
  },
}

type Kind = keyof typeof repositories
type Stops = (() => Promise<void>)[]

/** A cache before the origins, as a client and as its disk see it. */
interface Proxy {
  readonly server: Server
  /** What the path of a blob begins with there. */
  readonly prefix: string
  readonly folder: string
  /** Which files in its folder are whole blobs. */
  readonly stored: RegExp
}

interface FillStand {
  readonly client: Client
  /** The folder whose files the origin of large blobs serves. */
  readonly root: string
  /** The origin of quick ones. */
  readonly upstream: Upstream
  readonly proxies: Readonly<Record<Kind, readonly Proxy[]>>
  /** The lines of peers that are not there. */
  readonly missing: readonly string[]
}

/** Starts everything, and adds to `stops` what ends it. @throws MissingPeer without nginx, which is the origin too */
async function startStand({ folder, say }: BenchContext, stops: Stops): Promise<FillStand> {
  say('starting the servers')
  const upstream = await startUpstream()
  stops.push(() => upstream.close())
  const origin = await startOrigin(join(folder, 'origin'))
  stops.push(() => origin.stop())
  const origins: Record<Kind, URL> = { large: origin.origin, quick: upstream.url }

  const upstreams = Object.entries(origins).map(([id, url]) => ({ id, url: url.origin }))
  const outport = await startOutport({ folder: join(folder, 'outport'), edge: { upstreams } })
  stops.push(() => outport.stop())
  const edgeFor = (kind: Kind): Proxy => ({
    server: outport.edge,
    prefix: `${kind}/`,
    folder: join(folder, 'outport', 'data', 'edge'),
    stored: /\/blobs\//,
  })

  const nginx = await startNginxCache(join(folder, 'nginx'), {
    [`/v2/${repositories.large}/`]: origins.large,
    [`/v2/${repositories.quick}/`]: origins.quick,
  })
  stops.push(() => nginx.stop())
  const nginxCache: Proxy = {
    server: nginx,
    prefix: '',
    folder: join(folder, 'nginx', 'cache'),
    // A file that is not whole yet has a number behind its name.
    stored: /\/[0-9a-f]{32}$/,
  }

  // distribution has one origin.
  const missing = new Set<string>()
  const distributionFor = async (kind: Kind): Promise<readonly Proxy[]> => {
    const itsFolder = join(folder, `distribution-${kind}`)
    try {
      const server = await startDistributionCache(itsFolder, origins[kind])
      stops.push(() => server.stop())
      return [{ server, prefix: '', folder: itsFolder, stored: /\/blobs\// }]
    } catch (error) {
      if (!(error instanceof MissingPeer)) throw error
      missing.add(error.message)
      return []
    }
  }
  const proxies = {
    large: [edgeFor('large'), nginxCache, ...(await distributionFor('large'))],
    quick: [edgeFor('quick'), nginxCache, ...(await distributionFor('quick'))],
  }
  const client = startClient()
  stops.push(() => client.close())
  return { client, root: join(folder, 'origin', 'root'), upstream, proxies, missing: [...missing] }
}

/** CPU per byte of one client's pull of a blob that nobody has asked for before. */
async function compareLarge({ rounds, say }: BenchContext, stand: FillStand): Promise<Figure[]> {
  say('512 MiB')
  const source = await makeBlob(join(stand.root, 'blob'), largeBytes)
  const sides = stand.proxies.large.map((proxy) => sideOf(stand, proxy, source))
  const samples = await interleave(sides, rounds)
  const costOf = (name: string): string =>
    `${name} ${(medianOf(samples, name, (sample) => sample.cost) * 1e9).toPrecision(3)} s/GB`
  const busyOf = (name: string): string =>
    medianOf(samples, name, (sample) => sample.clientBusy).toFixed(2)
  return sides
    .map(({ name }) => name)
    .filter((name) => name !== 'edge')
    .map((peer) =>
      ratioFigure(costRatios(samples, 'edge', peer), {
        case: '512 MiB, cold, 1 client',
        measure: `× ${peer}`,
        ...(peer === 'nginx' ? { floor: 0.2, aim: 0.33 } : {}),
        notes: `${costOf('edge')}, ${costOf(peer)}; client ${busyOf('edge')}, ${busyOf(peer)}`,
      }),
    )
}

function sideOf({ client, root }: FillStand, proxy: Proxy, source: BlobFile): Side {
  const { server, folder, stored } = proxy
  let path = ''
  return {
    name: server.name,
    pids: [server.pid],
    async prepare() {
      const { digest } = await renewBlob(source)
      path = pathOf('large', digest, proxy.prefix)
      const there = join(root, pathOf('large', digest))
      await mkdir(dirname(there), { recursive: true })
      await link(source.path, there)
      // Last, so that the page cache has this memory again: what is touched for the first time costs more than all else.
      for (const each of await storedFiles(folder, stored)) await rm(each)
    },
    async run() {
      const asking = { server, path, connections: 1, total: 1 }
      const { bodyBytes, seconds, cpuSeconds } = await client.download(asking)
      if (bodyBytes !== largeBytes) throw new Error(`${server.name}: ${bodyBytes} bytes of ${path}`)
      await settle(proxy)
      return { amount: largeBytes, seconds, clientCpuSeconds: cpuSeconds }
    },
  }
}

/** Putting the blob away is a part of the work: waits until it is there, and the server rests. */
async function settle({ server, folder, stored }: Proxy): Promise<void> {
  const deadline = performance.now() + settleMs
  let used = treeCpuSeconds(server.pid)
  for (;;) {
    await delay(100)
    const before = used
    used = treeCpuSeconds(server.pid)
    const rests = used - before < 0.005
    if (rests && (await storedFiles(folder, stored)).length > 0) return
    if (performance.now() > deadline) throw new Error(`${server.name} does not keep what it gave`)
  }
}

/** The large blobs that a cache holds. */
async function storedFiles(folder: string, stored: RegExp): Promise<string[]> {
  const found: string[] = []
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    const path = join(entry.parentPath, entry.name)
    if (!entry.isFile() || !stored.test(path)) continue
    if ((await stat(path)).size >= largeBytes) found.push(path)
  }
  return found
}

/** Milliseconds from the upstream's headers to a client's first byte of the body. */
async function compareFirstBytes({ say }: BenchContext, stand: FillStand): Promise<Figure[]> {
  say(`the first byte of ${quickBlobs} blobs`)
  const delays = new Map(stand.proxies.quick.map((proxy) => [proxy, [] as number[]]))
  for (let n = -warmingBlobs; n < quickBlobs; n++) {
    for (const [proxy, itsDelays] of delays) {
      const ms = await firstByteAfter(stand.upstream, proxy, sizeOf(n + warmingBlobs))
      if (n >= 0) itsDelays.push(ms)
    }
  }
  const told = (share: number): string =>
    [...delays]
      .map(([{ server }, ms]) => `${server.name} ${percentile(ms, share).toFixed(1)}`)
      .join(', ')
  const [ours = []] = delays.values()
  const figureOf = (measure: string, value: number, share: number): Figure => ({
    case: '16 KiB–16 MiB, cold, 1 client',
    measure: `first byte after the upstream's, ${measure}, ms`,
    value,
    floor: 25,
    aim: 5,
    most: true,
    notes: told(share),
  })
  return [figureOf('median', median(ours), 0.5), figureOf('p99', percentile(ours, 0.99), 0.99)]
}

function sizeOf(n: number): number {
  return quickSizes[n % quickSizes.length] ?? mib
}

async function firstByteAfter(upstream: Upstream, proxy: Proxy, size: number): Promise<number> {
  const digest = upstream.addBlob(repositories.quick, randomBytes(size))
  const path = pathOf('quick', digest, proxy.prefix)
  const origin = proxy.server.origin
  const { firstByteAt } = await downloadPart({ origin, path, length: size, hashes: false })
  const sent = upstream.requests.find(
    ({ method, reference }) => method === 'GET' && reference === digest,
  )
  if (sent?.headersAt === undefined) throw new Error(`${proxy.server.name} asked for nothing`)
  const delayMs = firstByteAt - sent.headersAt
  upstream.remove(parseRepositoryName(repositories.quick), digest)
  upstream.forgetRequests()
  return delayMs
}

function pathOf(kind: Kind, digest: Digest, prefix = ''): string {
  return blobPath(parseRepositoryName(`${prefix}${repositories[kind]}`), digest)
}

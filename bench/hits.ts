import { link, mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { digestOf } from '../shared/oci/digest.ts'
import { blobPath, manifestPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import type { BenchContext } from './bench.ts'
import { makeTlsFiles } from './certificates.ts'
import { startClient, type Asking, type Client } from './client.ts'
import type { BenchManifest, BlobFile } from './content.ts'
import { startOutport } from './outport.ts'
import { MissingPeer, startDistribution, startNginx, type TlsFiles } from './peers.ts'
import { createRegistryClient } from './registry.ts'
import { ratioFigure, type Figure } from './report.ts'
import { costRatios, interleave, medianOf, type Side } from './rounds.ts'
import type { Server } from './servers.ts'

/** An image with a tag: what is served. */
export interface BenchImage {
  readonly blobs: readonly BlobFile[]
  readonly manifest: BenchManifest
  readonly tag: string
}

/** Outport and its peers with the same image in place, held by each as it holds what it serves often. */
export interface HitStand {
  readonly client: Client
  readonly servers: readonly HitServer[]
  /** The lines of peers that are not there. */
  readonly missing: readonly string[]
  stop(): Promise<void>
}

export interface HitServer extends Server {
  /** Logs in as a client does. @returns the header that pulls send, for some minutes */
  authorize(): Promise<string | undefined>
}

/** One thing to ask for, and what to compare. */
export interface HitCase {
  readonly name: string
  readonly path: string
  readonly method?: 'GET' | 'HEAD'
  readonly connections: number
  /** Answers of a round; of requests those of the first, after which each server's rounds last as long. */
  readonly total: number
  /** Bytes of one answer's body. */
  readonly bodyBytes: number
  /** What the cost is counted by. */
  readonly per: 'byte' | 'request'
  readonly bounds: Readonly<Record<string, { readonly floor: number; readonly aim: number }>>
}

const repository = parseRepositoryName('library/bench')

export function pathOfBlob({ digest }: BlobFile): string {
  return blobPath(repository, digest)
}

export function pathOfManifest({ digest }: BenchManifest): string {
  return manifestPath(repository, { kind: 'digest', digest })
}

export function pathOfTag({ tag }: BenchImage): string {
  return `/v2/${repository}/manifests/${tag}`
}

/** Starts everything; the caller stops it. */
export async function startHitStand(
  context: BenchContext,
  image: BenchImage,
  { secure }: { secure: boolean },
): Promise<HitStand> {
  const { folder, say } = context
  const servers: HitServer[] = []
  const missing: string[] = []
  const stops: (() => Promise<void>)[] = []
  const stop = async (): Promise<void> => {
    for (const each of stops.reverse()) await each()
  }
  try {
    const tls = secure ? await makeTlsFiles(folder) : undefined
    say('starting the servers and putting the image in place')
    const outport = await startOutport({ folder: join(folder, 'outport'), tls })
    stops.push(() => outport.stop())
    await push(outport.primary, image, outport.admin)
    for (const server of [outport.edge, outport.primary])
      servers.push({ ...server, authorize: await warm(server, image) })
    for (const start of [startNginxWith, startDistributionWith]) {
      try {
        const server = await start({ folder, image, tls })
        stops.push(() => server.stop())
        servers.push({ ...server, authorize: await warm(server, image) })
      } catch (error) {
        if (!(error instanceof MissingPeer)) throw error
        missing.push(error.message)
      }
    }
    const client = startClient()
    stops.push(() => client.close())
    return { client, servers, missing, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

interface PeerStart {
  readonly folder: string
  readonly image: BenchImage
  readonly tls: TlsFiles | undefined
}

/** The image as files at the paths of their URLs. */
async function startNginxWith({ folder, image, tls }: PeerStart): Promise<Server> {
  const server = await startNginx(join(folder, 'nginx'), tls)
  const place = async (path: string, put: (to: string) => Promise<void>): Promise<void> => {
    const to = join(folder, 'nginx', 'root', path)
    await mkdir(dirname(to), { recursive: true })
    await put(to)
  }
  for (const blob of image.blobs) await place(pathOfBlob(blob), (to) => link(blob.path, to))
  for (const path of [pathOfManifest(image.manifest), pathOfTag(image)])
    await place(path, (to) => writeFile(to, image.manifest.bytes))
  return server
}

async function startDistributionWith({ folder, image, tls }: PeerStart): Promise<Server> {
  const server = await startDistribution(join(folder, 'distribution'), tls)
  try {
    await push(server, image)
    return server
  } catch (error) {
    await server.stop()
    throw error
  }
}

async function push(
  server: Server,
  image: BenchImage,
  credentials?: { username: string; password: string },
): Promise<void> {
  const registry = createRegistryClient(server, {
    repository,
    ...(credentials === undefined ? {} : { credentials }),
  })
  await registry.authorize('pull,push')
  for (const blob of image.blobs) await registry.pushBlob(blob)
  await registry.pushManifest(image.manifest, image.tag)
}

/** Pulls all of it once, and checks the bytes. @returns how later pulls log in */
async function warm(server: Server, image: BenchImage): Promise<HitServer['authorize']> {
  const registry = createRegistryClient(server, { repository })
  await registry.authorize('pull')
  for (const path of [pathOfTag(image), pathOfManifest(image.manifest)])
    check(server, path, (await registry.get(path)).equals(image.manifest.bytes))
  for (const blob of image.blobs) {
    const path = pathOfBlob(blob)
    check(server, path, digestOf(await registry.get(path)) === blob.digest)
  }
  return () => registry.authorize('pull')
}

function check(server: Server, path: string, right: boolean): void {
  if (!right) throw new Error(`${server.name}: ${path} brings other bytes`)
}

/** Measures a case and judges our edge by it; the primary's ratios are told too. */
export async function compareHits(
  { client, servers }: HitStand,
  hit: HitCase,
  rounds: number,
): Promise<Figure[]> {
  const sides = servers.map((server) => sideOf(client, server, hit))
  const samples = await interleave(sides, rounds)
  const [scale, unit] = hit.per === 'byte' ? [1e9, 's/GB'] : [1e6, 'µs']
  const costOf = (name: string): string =>
    `${name} ${(medianOf(samples, name, (sample) => sample.cost) * scale).toPrecision(3)} ${unit}`
  const busyOf = (name: string): string =>
    medianOf(samples, name, (sample) => sample.clientBusy).toFixed(2)
  return ['edge', 'primary'].flatMap((ours) =>
    Object.entries(hit.bounds)
      .filter(([peer]) => servers.some(({ name }) => name === peer))
      .map(([peer, bounds]) =>
        ratioFigure(costRatios(samples, ours, peer), {
          case: `${hit.name}${ours === 'edge' ? '' : ` (${ours})`}`,
          measure: `× ${peer}`,
          ...(ours === 'edge' ? bounds : {}),
          notes: `${costOf(ours)}, ${costOf(peer)}; client ${busyOf(ours)}, ${busyOf(peer)}`,
        }),
      ),
  )
}

/**
 * What a round of small requests lasts: as many requests of each would have the quick servers measured for a moment, before
 * their caches, heaps and compilers have settled.
 */
const roundSeconds = 2.5

function sideOf(client: Client, server: HitServer, hit: HitCase): Side {
  const { path, method = 'GET', connections, bodyBytes, per } = hit
  let { total } = hit
  let authorization: string | undefined
  return {
    name: server.name,
    pids: [server.pid],
    async prepare() {
      authorization = await server.authorize()
    },
    async run() {
      const amount = total
      const asking: Asking = { server, path, method, connections, total, authorization }
      const result = await (per === 'byte' ? client.download(asking) : client.ask(asking))
      const wanted = method === 'HEAD' ? 0 : bodyBytes * amount
      if (result.responses !== amount || result.bodyBytes !== wanted)
        throw new Error(`${server.name}: ${path} brought ${result.bodyBytes} bytes, not ${wanted}`)
      if (per === 'request') total = Math.ceil((amount / result.seconds) * roundSeconds)
      return {
        amount: per === 'byte' ? result.bodyBytes : amount,
        seconds: result.seconds,
        clientCpuSeconds: result.cpuSeconds,
      }
    },
  }
}

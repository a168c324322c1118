import { readdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import type { Bench, BenchContext } from './bench.ts'
import { makeBlob, type BlobFile } from './content.ts'
import { startOutport } from './outport.ts'
import { MissingPeer, startDistribution } from './peers.ts'
import { createRegistryClient } from './registry.ts'
import { ratioFigure, type Figure } from './report.ts'
import { costRatios, interleave, medianOf, type Side } from './rounds.ts'
import type { Server } from './servers.ts'

const mib = 2 ** 20
const blobBytes = 512 * mib
const chunkBytes = 8 * mib
const bounds = { floor: 0.8, aim: 1.2 }

const ways = ['monolithic', 'chunked'] as const

/** A large blob pushed to the primary, synced before it answers: CPU per byte, PostgreSQL's included. */
export const bench: Bench = {
  name: 'push',
  counts: false,
  async run(context) {
    const { folder, rounds, say } = context
    const outport = await startOutport({ folder: join(folder, 'outport') })
    try {
      const peer = await startDistribution(join(folder, 'distribution'))
      try {
        const credentials = outport.admin
        const figures: Figure[] = []
        for (const way of ways) {
          say(way)
          const sides = [
            sideOf(context, { server: outport.primary, data: 'outport', way, credentials }),
            sideOf(context, { server: peer, data: 'distribution', way }),
          ]
          const samples = await interleave(sides, rounds)
          const costOf = (name: string): string =>
            `${name} ${(medianOf(samples, name, (sample) => sample.cost) * 1e9).toPrecision(3)} s/GB`
          figures.push(
            ratioFigure(costRatios(samples, 'primary', 'distribution'), {
              case: `512 MiB, ${way}`,
              measure: '× distribution',
              ...bounds,
              notes: `${costOf('primary')}, ${costOf('distribution')}`,
            }),
          )
        }
        return { figures }
      } finally {
        await peer.stop()
      }
    } catch (error) {
      if (error instanceof MissingPeer) return { figures: [], failures: [error.message] }
      throw error
    } finally {
      await outport.stop()
    }
  },
}

/** Each round pushes a blob of its own: one that is there already would cost nothing. */
function sideOf(
  { folder }: BenchContext,
  {
    server,
    data,
    way,
    credentials,
  }: {
    server: Server
    /** The folder that it stores into. */
    data: string
    way: (typeof ways)[number]
    credentials?: { readonly username: string; readonly password: string }
  },
): Side {
  const registry = createRegistryClient(server, {
    repository: parseRepositoryName('library/bench'),
    ...(credentials === undefined ? {} : { credentials }),
  })
  let blob: BlobFile | undefined
  return {
    name: server.name,
    pids: [server.pid],
    async prepare() {
      await removeBlobs(join(folder, data))
      await registry.authorize('pull,push')
      blob = await makeBlob(join(folder, `${server.name}.blob`), blobBytes)
    },
    async run() {
      if (blob === undefined) throw new Error('nothing is prepared')
      const startedAt = performance.now()
      if (way === 'monolithic') await registry.pushBlob(blob)
      else await registry.pushBlobInChunks(blob, chunkBytes)
      return { amount: blobBytes, seconds: (performance.now() - startedAt) / 1000 }
    },
  }
}

/**
 * Removes what earlier rounds left, behind the server's back: the page cache then uses the same memory again.
 * Where memory is virtual, a page that is touched for the first time costs more than all the rest.
 */
async function removeBlobs(folder: string): Promise<void> {
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    const path = join(entry.parentPath, entry.name)
    if (entry.isFile() && (await stat(path)).size === blobBytes) await rm(path)
  }
}

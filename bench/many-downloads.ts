import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { blobPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import { residentBytes } from '../test/kit/process-figures.ts'
import { startUpstream } from '../test/kit/upstream.ts'
import type { BenchContext } from './bench.ts'
import { makeBlob } from './content.ts'
import { prepareEdge } from './edge.ts'
import { holdFiles } from './held-blobs.ts'
import type { BenchResult } from './report.ts'
import { startSlowClient, type SlowClient } from './slow-client.ts'

const mib = 2 ** 20
const clients = 1000
/** Clients that come in the same moment. */
const together = 50
const bytesPerSecond = 16 * 1024
const blobs = 4
/** More than a client reads, and than the kernel takes on its way. */
const blobBytes = 64 * mib
const watchMs = 30_000
const lookMs = 250
/** Less than this share of their rate says that the clients were slow, and not the edge. */
const leastRate = 0.9

/** A thousand clients that take their time over blobs that the edge holds: what it needs for them. */
export async function measureDownloads({ folder, say }: BenchContext): Promise<BenchResult> {
  const upstream = await startUpstream()
  const edge = await prepareEdge({ folder: join(folder, 'downloads'), upstream: upstream.url })
  const running: SlowClient[] = []
  try {
    // For its folders.
    await edge.start()
    await edge.stop()
    const held = await Promise.all(
      Array.from({ length: blobs }, (_, i) => makeBlob(join(folder, `blob-${i}`), blobBytes)),
    )
    await holdFiles({ folder: edge.cache, repository: parseRepositoryName('bench/app') }, held)
    await edge.start()
    const atEdge = parseRepositoryName('origin/bench/app')
    const paths = held.map(({ digest }) => blobPath(atEdge, digest))
    const rest = residentBytes(edge.pid())
    say(`${clients} downloads of ${bytesPerSecond / 1024} KiB/s`)
    let highest = rest
    const look = (): void => {
      highest = Math.max(highest, residentBytes(edge.pid()))
    }
    while (running.length < clients) {
      const path = paths[(running.length / together) % paths.length] ?? ''
      const started = Array.from({ length: together }, () =>
        startSlowClient(edge.origin, path, bytesPerSecond),
      )
      running.push(...(await Promise.all(started)))
      look()
    }
    const before = running.map(({ bytes }) => bytes)
    const startedAt = performance.now()
    while (performance.now() - startedAt < watchMs) {
      await delay(lookMs)
      look()
    }
    const seconds = (performance.now() - startedAt) / 1000
    const all = running.reduce((sum, { bytes }, i) => sum + bytes - (before[i] ?? 0), 0)
    const rate = all / clients / seconds
    const cut = running.filter(({ isCut }) => isCut).length
    return {
      figures: [
        {
          case: `${clients} slow downloads`,
          measure: 'memory of the edge, MB',
          value: highest / 1e6,
          floor: 300,
          aim: 200,
          most: true,
          notes: `at rest ${(rest / 1e6).toFixed(0)} MB; each ${(rate / 1024).toFixed(1)} KiB/s for ${seconds.toFixed(0)} s`,
        },
      ],
      failures: [
        ...(cut > 0 ? [`${cut} of the slow downloads were cut`] : []),
        ...(rate < leastRate * bytesPerSecond
          ? [`the slow downloads got ${rate.toFixed(0)} bytes a second, not ${bytesPerSecond}`]
          : []),
      ],
    }
  } finally {
    for (const client of running) client.end()
    await edge.stop()
    await upstream.close()
  }
}

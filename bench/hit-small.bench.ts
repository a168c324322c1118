import { join } from 'node:path'
import type { Bench } from './bench.ts'
import { makeBlob, makeManifest } from './content.ts'
import { compareHits, pathOfBlob, pathOfManifest, pathOfTag, startHitStand } from './hits.ts'
import type { Figure } from './report.ts'

const blobBytes = 100 * 1024
const manifestBytes = 2048

/** Cached small things through the edge, asked for with a bearer token: CPU per request. */
export const bench: Bench = {
  name: 'hit-small',
  counts: false,
  async run(context) {
    const { folder, rounds, say } = context
    const config = await makeBlob(join(folder, 'config'), 500)
    const layer = await makeBlob(join(folder, 'layer'), blobBytes)
    const manifest = makeManifest(config, [layer], manifestBytes)
    const image = { blobs: [config, layer], manifest, tag: 'v1' }
    const manifestBounds = {
      nginx: { floor: 0.25, aim: 0.4 },
      distribution: { floor: 2, aim: 4 },
    }
    const cases = [
      {
        name: '100 KiB blob',
        path: pathOfBlob(layer),
        bodyBytes: blobBytes,
        total: 10_000,
        bounds: { nginx: { floor: 0.25, aim: 0.65 }, distribution: { floor: 8, aim: 20 } },
      },
      {
        name: '2 KiB manifest by digest',
        path: pathOfManifest(manifest),
        bodyBytes: manifestBytes,
        total: 20_000,
        bounds: manifestBounds,
      },
      {
        name: '2 KiB manifest by tag',
        path: pathOfTag(image),
        bodyBytes: manifestBytes,
        total: 20_000,
        bounds: manifestBounds,
      },
      {
        name: 'HEAD of a manifest by tag',
        path: pathOfTag(image),
        method: 'HEAD' as const,
        bodyBytes: manifestBytes,
        total: 20_000,
        bounds: { nginx: { floor: 0.15, aim: 0.25 }, distribution: { floor: 1.5, aim: 3 } },
      },
    ]
    const stand = await startHitStand(context, image, { secure: false })
    const figures: Figure[] = []
    try {
      for (const each of cases) {
        say(each.name)
        const hit = { ...each, connections: 16, per: 'request' as const }
        figures.push(...(await compareHits(stand, hit, rounds)))
      }
      return { figures, failures: stand.missing }
    } finally {
      await stand.stop()
    }
  },
}

import { join } from 'node:path'
import type { Bench } from './bench.ts'
import { makeBlob, makeManifest } from './content.ts'
import { compareHits, pathOfBlob, startHitStand } from './hits.ts'
import type { Figure } from './report.ts'

const gib = 2 ** 30
const layerBytes = gib / 16

/** A cached large blob through the edge over TLS: CPU per byte. */
export const bench: Bench = {
  name: 'hit-tls',
  counts: false,
  async run(context) {
    const { folder, rounds, say } = context
    const config = await makeBlob(join(folder, 'config'), 500)
    const layer = await makeBlob(join(folder, 'layer'), layerBytes)
    const manifest = makeManifest(config, [layer], 2048)
    const image = { blobs: [config, layer], manifest, tag: 'v1' }
    const stand = await startHitStand(context, image, { secure: true })
    const figures: Figure[] = []
    try {
      for (const connections of [1, 4, 16]) {
        const name = `64 MiB over TLS, ${connections} clients`
        say(name)
        const hit = {
          name,
          path: pathOfBlob(layer),
          connections,
          total: gib / layerBytes,
          bodyBytes: layerBytes,
          per: 'byte' as const,
          bounds: { nginx: { floor: 0.55, aim: 1.3 }, distribution: { floor: 1.1, aim: 1.6 } },
        }
        figures.push(...(await compareHits(stand, hit, rounds)))
      }
      return { figures, failures: stand.missing }
    } finally {
      await stand.stop()
    }
  },
}

import { join } from 'node:path'
import type { Bench } from './bench.ts'
import { makeBlob, makeManifest } from './content.ts'
import { compareHits, pathOfBlob, startHitStand } from './hits.ts'
import { network } from './namespace.ts'
import type { Figure } from './report.ts'

const gib = 2 ** 30
const sizes = [
  { label: '64 MiB', bytes: gib / 16 },
  { label: '1 GiB', bytes: gib },
]

/** Cached large blobs through the edge: CPU per byte. */
export const bench: Bench = {
  name: 'hit-large',
  counts: false,
  async run(context) {
    const { folder, rounds, say } = context
    const config = await makeBlob(join(folder, 'config'), 500)
    const layers = await Promise.all(
      sizes.map(({ bytes }) => makeBlob(join(folder, `layer-${bytes}`), bytes)),
    )
    const manifest = makeManifest(config, layers, 2048)
    const image = { blobs: [config, ...layers], manifest, tag: 'v1' }
    const stand = await startHitStand(context, image, { secure: false })
    const figures: Figure[] = []
    try {
      for (const [i, { label, bytes }] of sizes.entries()) {
        for (const connections of [1, 4, 16]) {
          const name = `${label}, ${connections} clients`
          say(name)
          const hit = {
            name,
            path: pathOfBlob(layers[i] ?? config),
            connections,
            total: Math.max(connections, gib / bytes),
            bodyBytes: bytes,
            per: 'byte' as const,
            bounds: {
              // bbr paces nginx's small bursts, which makes it dearer: less is won by copying nothing.
              nginx: { floor: network() === 'reno' ? 0.2 : 0.35, aim: 0.37 },
              distribution: { floor: 1.2, aim: 2 },
            },
          }
          figures.push(...(await compareHits(stand, hit, rounds)))
        }
      }
      return { figures, failures: stand.missing }
    } finally {
      await stand.stop()
    }
  },
}

import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createImage, pushImage, pushManifest } from '../test/kit/images.ts'
import { createRegistryClient, type RegistryClient } from '../test/kit/registry-client.ts'
import type { Bench } from './bench.ts'
import { startNetwork } from '../test/kit/network.ts'
import { median, percentile } from './report.ts'

const edges = 20
const moves = 30
const path = '/v2/library/app/manifests/latest'

/** A tag that moves at the primary: when each of many edges answers where it points now. */
export const bench: Bench = {
  name: 'fresh',
  counts: false,
  async run({ folder, say }) {
    const network = await startNetwork({ folder: join(folder, 'network'), edges })
    const clients = network.edges.map((baseUrl) =>
      createRegistryClient({ baseUrl, credentials: network.admin, scheme: 'bearer' }),
    )
    try {
      const images = ['one', 'two'].map((seed) => createImage({ seed }))
      for (const image of images) await pushImage(network.primary, 'library/app', image, 'latest')
      // Both manifests are held: this is about the tag.
      for (const client of clients)
        for (const { manifest } of images)
          await client.request('GET', `/v2/library/app/manifests/${manifest.digest}`)
      const delays: number[] = []
      let backwards = 0
      for (let move = 0; move < moves; move++) {
        if (move % 10 === 0) say(`move ${move + 1} of ${moves}`)
        const image = images[move % images.length]
        if (image === undefined) throw new Error('there are no images')
        const { digest } = image.manifest
        const pushed = await pushManifest(network.primary, 'library/app', image.manifest, 'latest')
        if (pushed.status !== 201) throw new Error(`the primary answered ${pushed.status}`)
        const at = performance.now()
        delays.push(
          ...(await Promise.all(
            clients.map(async (client) => (await seenAt(client, digest)) - at),
          )),
        )
        for (const client of clients) if ((await answered(client)) !== digest) backwards++
      }
      return {
        figures: [
          {
            case: `${edges} edges, ${moves} moves`,
            measure: 'moved tag answered, p99, ms',
            value: percentile(delays, 0.99),
            floor: 250,
            aim: 150,
            most: true,
            notes: `median ${median(delays).toFixed(0)}`,
          },
          {
            case: `${edges} edges, ${moves} moves`,
            measure: 'answers that went back',
            value: backwards,
            floor: 0,
            aim: 0,
            most: true,
          },
        ],
      }
    } finally {
      for (const client of clients) client.close()
      await network.stop()
    }
  },
}

async function answered(client: RegistryClient): Promise<unknown> {
  return (await client.request('HEAD', path)).headers['docker-content-digest']
}

/** Between two questions: who asked at once would keep the edges from hearing of anything. */
const askMs = 20

/** When an edge first answers this digest, give or take a question. */
async function seenAt(client: RegistryClient, digest: string): Promise<number> {
  const deadline = performance.now() + 10_000
  for (;;) {
    if ((await answered(client)) === digest) return performance.now()
    if (performance.now() > deadline) throw new Error('an edge never heard of the moved tag')
    await delay(askMs)
  }
}

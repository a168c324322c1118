import { join } from 'node:path'
import { startUpstream, type Upstream } from '../test/kit/upstream.ts'
import type { Bench, BenchContext } from './bench.ts'
import {
  clients,
  judgeCold,
  offerCold,
  pullCold,
  type ColdPull,
  type ColdSeen,
} from './cold-clients.ts'
import { startOutport } from './outport.ts'
import { clientCore, pinSelf } from './processes.ts'
import { patterns } from './pulls.ts'
import type { BenchResult, Figure } from './report.ts'

const mib = 2 ** 20
const blobBytes = 32 * mib
/** Fills of each length that count; the bursts of long ones are few. */
const timesOf = { 4: 3, 16: 5 }

/** 50 cold clients of one blob at a slow upstream: who asks for what, and who waits for whom. */
export const bench: Bench = {
  name: 'coalesce',
  counts: true,
  async run(context) {
    // Clients and upstream are in this process.
    const unpin = pinSelf(clientCore)
    const upstream = await startUpstream()
    try {
      const outport = await startOutport({
        folder: join(context.folder, 'outport'),
        edge: { upstreams: [{ id: 'origin', url: upstream.url.origin }] },
      })
      try {
        const stand = { upstream, edge: outport.edge.origin }
        // Code that is new is slow, four times in the first pull: this is about those that come when it is warm.
        for (const pattern of [...patterns, ...patterns, ...patterns])
          await pullOne(stand, { pattern, seconds: 1 })
        return await measureAll(context, stand)
      } finally {
        await outport.stop()
      }
    } finally {
      await upstream.close()
      unpin()
    }
  },
}

interface CoalesceStand {
  readonly upstream: Upstream
  readonly edge: URL
}

/** The counted fills: several times each, since one round's p99 is that of one burst of 50; only 4 seconds where only what is counted matters. */
async function measureAll(
  { countsOnly, say }: BenchContext,
  stand: CoalesceStand,
): Promise<BenchResult> {
  const fills = countsOnly ? ([4] as const) : ([4, 16] as const)
  const figures: Figure[] = []
  for (const seconds of fills) {
    for (const pattern of patterns) {
      const seen: ColdSeen[] = []
      for (let round = 1; round <= timesOf[seconds]; round++) {
        say(`${pattern}, ${seconds} s, round ${round}`)
        seen.push(await pullOne(stand, { pattern, seconds }))
      }
      figures.push(
        ...judgeCold(`${clients} clients, ${pattern}, ${seconds} s`, seen, { countsOnly }),
      )
    }
  }
  const rounds = fills.map((seconds) => `${timesOf[seconds]} of ${seconds} s`).join(', ')
  return { figures, rounds }
}

function pullOne({ upstream, edge }: CoalesceStand, how: ColdPull): Promise<ColdSeen> {
  const offer = offerCold(upstream, {
    id: 'origin',
    edges: [edge],
    repositories: ['bench/app'],
    bytes: blobBytes,
  })
  return pullCold(upstream, offer, how)
}

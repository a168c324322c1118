import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { waitFor } from '../test/kit/clock.ts'
import { createImage, pushImage, pushManifest } from '../test/kit/images.ts'
import { startNetwork, type Network } from '../test/kit/network.ts'
import { residentBytes } from '../test/kit/process-figures.ts'
import type { Bench } from './bench.ts'
import { treeCpuSeconds } from './cpu.ts'
import { enrol, startIdleEdge, type IdleEdge } from './idle-edges.ts'
import { clientCore, pinSelf, serverCore, spawnPinned } from './processes.ts'
import { median, type Figure } from './report.ts'

const count = 1000
/** From here on memory is counted. */
const few = 200
/** Edges join one after another; what hundreds of handshakes at once leave behind is measured by the restart. */
const joinAtOnce = 20
const events = 10
/** Each edge has its lease renewed in this time. */
const idleMs = 25_000

/** A primary with a thousand edges that are connected and idle: what they cost, an event to all, and its restart. */
export const bench: Bench = {
  name: 'connected',
  counts: false,
  async run({ folder, say }) {
    const network = await startNetwork({
      folder: join(folder, 'network'),
      edges: 0,
      spawn: (command, options) => spawnPinned(serverCore, command, options),
    })
    const unpin = pinSelf(clientCore)
    let edges: readonly IdleEdge[] = []
    try {
      const image = createImage({ seed: 'one' })
      await pushImage(network.primary, 'library/app', image, 'latest')
      const enrolled = await enrol(network.primary, count, say)
      say('connecting')
      // What a process takes for having any is not for each of them.
      edges = enrolled.slice(0, few).map((edge) => startIdleEdge(edge, network.internal))
      await connected(edges)
      await delay(idleMs)
      const before = await figuresOf(network)
      for (let next = few; next < count; next += joinAtOnce) {
        const joining = enrolled.slice(next, next + joinAtOnce)
        edges = [...edges, ...joining.map((edge) => startIdleEdge(edge, network.internal))]
        await connected(edges)
      }
      const from = await figuresOf(network)
      await delay(idleMs)
      const idle = await figuresOf(network)
      say('events')
      const delays: number[] = []
      for (let event = 0; event < events; event++)
        delays.push(await told(network, edges, { image, tag: `event-${event}` }))
      say('restart')
      await network.kill('primary')
      const restartedAt = performance.now()
      await network.start('primary')
      await connected(edges)
      const backMs = performance.now() - restartedAt
      const back = await figuresOf(network)
      await delay(idleMs)
      const later = await figuresOf(network)
      const share = (a: Figures, b: Figures) => (100 * (b.cpu - a.cpu)) / (b.at - a.at)
      const figure = (measure: string, value: number, floor?: number, notes?: string): Figure => ({
        case: `${count} edges`,
        measure,
        value,
        most: true,
        ...(floor !== undefined && { floor, aim: floor }),
        ...(notes !== undefined && { notes }),
      })
      return {
        figures: [
          figure(
            'memory for each, KB',
            (idle.bytes - before.bytes) / (count - few) / 1000,
            100,
            `${few} to ${count}, ${joinAtOnce} at a time; ${(later.bytes / 1e6).toFixed(0)} MB in all after the restart`,
          ),
          figure(
            'an event at all of them, worst, ms',
            Math.max(...delays),
            1000,
            `median ${median(delays).toFixed(0)}`,
          ),
          figure('killed, and all connected again, s', backMs / 1000, 60),
          figure(
            'memory 25 s after that × before',
            later.bytes / idle.bytes,
            1.2,
            `${(back.cpu / (backMs / 1000)).toFixed(2)} CPU s a second meanwhile`,
          ),
          figure(
            'CPU of primary and database while idle, % of a core',
            share(from, idle),
            undefined,
            `${share(back, later).toFixed(1)} after the restart`,
          ),
        ],
      }
    } finally {
      await Promise.all(edges.map((edge) => edge.stop()))
      unpin()
      await network.stop()
    }
  },
}

interface Figures {
  /** Seconds. */
  readonly at: number
  /** Of the primary's process alone. */
  readonly bytes: number
  /** Seconds, the database's included. */
  readonly cpu: number
}

async function figuresOf(network: Network): Promise<Figures> {
  const pid = await network.pidOf('primary')
  return { at: performance.now() / 1000, bytes: residentBytes(pid), cpu: treeCpuSeconds(pid) }
}

const connected = (edges: readonly IdleEdge[]): Promise<unknown> =>
  waitFor('all edges to be connected', () => edges.every(({ seq }) => seq !== undefined), {
    timeoutMs: 180_000,
  })

/** Pushes a tag. @returns milliseconds from the answer until the last edge has heard of it */
async function told(
  { primary }: Network,
  edges: readonly IdleEdge[],
  { image, tag }: { readonly image: ReturnType<typeof createImage>; readonly tag: string },
): Promise<number> {
  const before = Math.max(...edges.map(({ seq = 0 }) => seq))
  const pushed = await pushManifest(primary, 'library/app', image.manifest, tag)
  if (pushed.status !== 201) throw new Error(`the primary answered ${pushed.status}`)
  const at = performance.now()
  await waitFor('all to hear of it', () => edges.every(({ seq = 0 }) => seq > before), {
    timeoutMs: 30_000,
  })
  return Math.max(...edges.map(({ heardAt }) => heardAt)) - at
}

import { setTimeout as delay } from 'node:timers/promises'
import type { TestContext } from 'node:test'
import { callApi, createRule } from './api.ts'
import { waitFor } from './clock.ts'
import { createMovingTags, type MovingTags, type WatchedEdge } from './moving-tags.ts'
import { networkSite, startNetwork, type Network, type NetworkProcess } from './network.ts'
import { createRandom } from './random.ts'
import { createRegistryClient, type RegistryClient } from './registry-client.ts'
import { tempFolder } from './temp.ts'

const tags = [
  { repository: 'whole/app', tag: 'latest', isComplete: true },
  { repository: 'secret/app', tag: 'latest', isComplete: false },
  { repository: 'secret/tool', tag: 'v1', isComplete: false },
]

/** A process that the network needs and does not start. */
export interface Neighbour {
  readonly url: URL
  /** The running process. */
  pid(): number
  /** Ends it by SIGKILL. */
  kill(): Promise<void>
  /** Starts it again where it was. */
  start(): Promise<void>
}

/**
 * A primary and edges of one site, under pushes and pulls: one after another its processes are killed, or
 * stopped for a while, and started again; the Consul that is given each second time. Rejects when an edge said what may not be, or does not reach the present.
 */
export async function killNetwork(
  t: TestContext,
  {
    edges,
    kills,
    seed,
    consul,
    pauseMs = { push: 60, watch: 50 },
  }: {
    readonly edges: number
    readonly kills: number
    readonly seed: number
    /** Between two pushes, and two looks at each edge. */
    readonly pauseMs?: { readonly push: number; readonly watch: number }
    readonly consul?: Neighbour
  },
): Promise<void> {
  const network = await startNetwork({
    folder: await tempFolder(t),
    edges,
    isQuiet: true,
    consul: consul?.url,
  })
  t.after(() => network.stop())
  const clients: RegistryClient[] = []
  t.after(() => clients.forEach((client) => client.close()))
  const open = (baseUrl: URL, credentials: Network['admin'] | undefined): RegistryClient => {
    const client = createRegistryClient({ baseUrl, credentials, scheme: 'bearer' })
    clients.push(client)
    return client
  }
  const robot = await prepare(network)
  const moving = createMovingTags(tags, seed)
  const watched = network.edges.map((url, n): WatchedEdge => ({
    name: `edge-${n + 1}`,
    client: open(url, robot),
    stranger: open(url, undefined),
  }))
  const pushes = moving.push(network.primary, pauseMs.push)
  const watches = watched.map((edge) => moving.watch(edge, pauseMs.watch))
  const random = createRandom(seed)
  const names: readonly NetworkProcess[] = [
    'primary',
    'postgres',
    ...watched.map((_, n): NetworkProcess => `edge-${n + 1}`),
  ]
  try {
    for (let kill = 0; kill < kills; kill++) {
      const before = watches.map(({ answers }) => answers())
      await waitFor(
        'all edges to answer',
        () => watches.every(({ answers }, n) => answers() > (before[n] ?? 0)),
        { timeoutMs: 60_000 },
      )
      await delay(random.between(0, 300))
      const name = random.pick(names)
      const victim = kill % 2 === 0 && consul !== undefined ? consul : processOf(network, name)
      await disturb(victim, random)
    }
  } finally {
    const stops = [pushes, ...watches].map((each) => each.stop())
    // All of them end, whatever one of them has seen.
    await Promise.allSettled(stops)
    await Promise.all(stops)
  }
  for (const edge of watched) await untilCurrent(moving, edge)
  const answers = watches.reduce((sum, watch) => sum + watch.answers(), 0)
  t.diagnostic(`${moving.count} images pushed, ${answers} pulled`)
}

/** @throws Error with what it is instead, after a minute */
async function untilCurrent(moving: MovingTags, edge: WatchedEdge): Promise<void> {
  let behind: string | undefined
  const isCurrent = async (): Promise<boolean> => {
    behind = await moving.behindAt(edge)
    return behind === undefined
  }
  await waitFor(`${edge.name} to be as it should`, isCurrent, { timeoutMs: 60_000 }).catch(
    (cause: unknown) => {
      throw new Error(`${edge.name}: ${behind}`, { cause })
    },
  )
}

interface Victim {
  pid(): number | Promise<number>
  kill(): Promise<void>
  start(): Promise<void>
}

function processOf(network: Network, name: NetworkProcess): Victim {
  return {
    pid: () => network.pidOf(name),
    kill: () => network.kill(name),
    // The primary looks after its database.
    start: () => (name === 'postgres' ? Promise.resolve() : network.start(name)),
  }
}

/** Kills a process and starts it again, or has it stand still for a moment. */
async function disturb(victim: Victim, random: ReturnType<typeof createRandom>): Promise<void> {
  if (random.between(0, 3) === 0) {
    const pid = await victim.pid()
    process.kill(pid, 'SIGSTOP')
    await delay(random.between(100, 1500))
    process.kill(pid, 'SIGCONT')
    return
  }
  await victim.kill()
  await delay(random.between(0, 500))
  await victim.start()
}

/** Projects that not everybody may read, a rule for one of them, and who may pull. */
async function prepare({ primary }: Network): Promise<Network['admin']> {
  const post = (path: string, body: object) => callApi(primary, 'POST', path, body)
  for (const project_name of ['whole', 'secret'])
    await post('/projects', { project_name, metadata: { public: 'false' } })
  await createRule(primary, {
    name: 'whole',
    repositories: 'whole/**',
    sites: [networkSite],
    serve: 'complete',
  })
  const access = [{ resource: 'repository', action: 'pull' }]
  const robot = await post('/robots', {
    name: 'puller',
    level: 'system',
    duration: -1,
    permissions: ['whole', 'secret'].map((namespace) => ({ kind: 'project', namespace, access })),
  })
  const { name: username, secret: password } = robot.json() as Record<'name' | 'secret', string>
  return { username, password }
}

import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { createRegistryClient, type RegistryClient } from '../test/kit/registry-client.ts'
import { waitFor } from '../test/kit/clock.ts'
import { freePort, listening, serverCore, spawnPinned, stopProcess } from './processes.ts'

const launcher = resolve(import.meta.dirname, '../deploy/launch.mjs')
const hostedPorts = 21_000
const edgeHost = resolve(import.meta.dirname, 'edge-host.ts')

/** A primary and edges of one site that follow it, each a process of its own on the servers' core. */
export interface Network {
  readonly edges: readonly URL[]
  /** Its administrator. */
  readonly primary: RegistryClient
  readonly admin: { readonly username: string; readonly password: string }
  /** The value of a metric at an edge: the first that has this in its labels; NaN of none. */
  metric(edge: number, name: string, label?: string): Promise<number>
  /** Sends a signal to the process of an edge. */
  signal(edge: number, signal: NodeJS.Signals): void
  stop(): Promise<void>
}

export interface NetworkOptions {
  readonly folder: string
  readonly edges: number
  /** Whether all of them share one core; true if left out. */
  readonly isPinned?: boolean
  /** Besides the primary. */
  readonly upstreams?: readonly object[]
  /** The number of the process that an edge shares with others; each has its own if left out. */
  readonly processOf?: (edge: number) => number
  /** What an edge has as its `peers`, besides the port. */
  readonly peersOf?: (edge: number) => object
}

/** Starts them, and waits until each edge knows all that there is, the others included. */
export async function startNetwork({
  folder,
  edges,
  isPinned = true,
  upstreams,
  processOf,
  peersOf = () => ({}),
}: NetworkOptions): Promise<Network> {
  const children: ChildProcess[] = []
  const stop = async () => {
    await Promise.all(children.toReversed().map(stopProcess))
  }
  const run = (args: readonly string[]): ChildProcess => {
    const stdio = ['ignore', 'inherit', 'inherit'] as const
    const child = isPinned
      ? spawnPinned(serverCore, [process.execPath, launcher, ...args], { stdio: [...stdio] })
      : spawn(process.execPath, [launcher, ...args], { stdio: [...stdio] })
    children.push(child)
    return child
  }
  const write = async (name: string, config: object): Promise<string> => {
    const file = join(folder, `${name}.yaml`)
    // JSON is YAML.
    await writeFile(
      file,
      JSON.stringify({ data: join(folder, name), log: { level: 'warn' }, ...config }),
    )
    return file
  }
  const start = async (name: string, config: object, port: number): Promise<ChildProcess> => {
    const program = name === 'primary' ? 'primary' : 'edge'
    const child = run([program, '--config', await write(name, config)])
    await listening(child, port)
    return child
  }
  try {
    await mkdir(folder, { recursive: true })
    const password = randomBytes(16).toString('hex')
    const admin = { username: 'admin', password }
    const ids = Array.from({ length: edges }, (_, n) => `edge-${n + 1}`)
    const secrets = new Map(ids.map((id) => [id, join(folder, `${id}.secret`)]))
    for (const file of secrets.values())
      await writeFile(file, randomBytes(16).toString('hex'), { mode: 0o600 })
    const ports = { primary: await freePort(), internal: await freePort() }
    const edgesOfPrimary = ids.map((id) => ({
      id,
      credential_file: secrets.get(id),
      scope: ['*'],
      accept_people: true,
    }))
    await start(
      'primary',
      {
        primary: {
          listeners: [{ port: ports.primary }],
          internal: { port: ports.internal },
          metrics: { port: 0 },
          admin_password: password,
          edges: edgesOfPrimary,
        },
      },
      ports.primary,
    )
    const url = `http://127.0.0.1:${ports.primary}`
    const primary = createRegistryClient({ baseUrl: url, credentials: admin })
    const urls: URL[] = []
    const metrics: number[] = []
    const processes: ChildProcess[] = []
    const hosted = new Map<number, { readonly file: string; readonly port: number }[]>()
    for (const [edge, id] of ids.entries()) {
      await primary.request('PUT', `/api/v2.0/edges/${id}`, {
        body: Buffer.from(JSON.stringify({ site: 'bench' })),
        headers: { 'Content-Type': 'application/json' },
      })
      // Many that are to be bound only later must not be those of outgoing connections.
      const port = processOf === undefined ? await freePort() : hostedPorts + 2 * edge
      const metricsPort = processOf === undefined ? await freePort() : port + 1
      const config = {
        edge: {
          id,
          credential_file: secrets.get(id),
          primary: { url },
          listeners: [{ name: 'edge', port, default: 'primary', ping: 'challenge' }],
          metrics: { port: metricsPort },
          peers: { port: 0, ...peersOf(edge) },
          ...(upstreams && { upstreams }),
        },
      }
      if (processOf === undefined) processes[edge] = await start(id, config, port)
      else {
        const host = hosted.get(processOf(edge)) ?? []
        hosted.set(processOf(edge), [...host, { file: await write(id, config), port }])
      }
      urls.push(new URL(`http://127.0.0.1:${port}`))
      metrics.push(metricsPort)
    }
    for (const [host, edgesOfHost] of hosted) {
      const child = run(['--run', edgeHost, ...edgesOfHost.map(({ file }) => file)])
      for (const { port } of edgesOfHost) await listening(child, port)
      ids.forEach((_, edge) => {
        if (processOf?.(edge) === host) processes[edge] = child
      })
    }
    const metric = async (edge: number, name: string, label = ''): Promise<number> => {
      // Its clients are let in before its metrics are there.
      const answer = await fetch(`http://127.0.0.1:${metrics[edge] ?? 0}/metrics`).catch(
        () => undefined,
      )
      const text = (await answer?.text()) ?? ''
      const line = text
        .split('\n')
        .find((each) => each.startsWith(`${name}{`) && each.includes(label))
      return Number(line?.split(' ').at(-1))
    }
    const everyEdge = async (holds: (edge: number) => Promise<boolean>): Promise<boolean> =>
      (await Promise.all(urls.map((_, edge) => holds(edge)))).every(Boolean)
    // Each says where it is, and hears of all the others.
    await waitFor('all edges to know each other', async () => {
      const places = await Promise.all(
        urls.map((_, edge) => metric(edge, 'outport_edge_site_members')),
      )
      return places.every((members) => members === edges)
    })
    await waitFor('all edges to know all there is', () =>
      everyEdge(async (edge) => (await metric(edge, 'outport_edge_log_fresh')) === 1),
    )
    return {
      edges: urls,
      primary,
      admin,
      metric,
      signal: (edge, signal) => void processes[edge]?.kill(signal),
      async stop() {
        primary.close()
        await stop()
      },
    }
  } catch (error) {
    await stop()
    throw error
  }
}

import { spawn, type ChildProcess, type SpawnOptions } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { withoutOutport } from '../deploy/program.ts'
import { blobFile } from '../../edge/cache/blob-files.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { callApi } from './api.ts'
import { waitFor } from './clock.ts'
import { freePort, isAlive, listening, stopProcess } from './processes.ts'
import { createRegistryClient, type Credentials, type RegistryClient } from './registry-client.ts'

const launcher = resolve(import.meta.dirname, '../../deploy/launch.mjs')
const edgeHost = resolve(import.meta.dirname, 'edge-host.ts')
const hostedPorts = 21_000

/** Where all of its edges are, if nothing else is said. */
export const networkSite = 'site'

/** A process of it: `edge-1` is the first edge; `postgres` the primary's own. */
export type NetworkProcess = 'primary' | 'postgres' | `edge-${number}`

/** A primary and edges of one site that follow it, each a process of its own. */
export interface Network {
  readonly edges: readonly URL[]
  /** Its administrator. */
  readonly primary: RegistryClient
  readonly admin: Credentials
  /** Where edges come for events. */
  readonly internal: URL
  /** The value of a metric at an edge: the first that has this in its labels; NaN of none. */
  metric(edge: number, name: string, label?: string): Promise<number>
  /** Whether an edge has this blob, proved and in its place: it costs the edge nothing. */
  hasBlob(edge: number, digest: Digest): boolean
  /** Sends a signal to the process of an edge. */
  signal(edge: number, signal: NodeJS.Signals): void
  /** The running process; PostgreSQL is waited for, if the primary starts it again. @throws Error when there is none */
  pidOf(name: NetworkProcess): Promise<number>
  /** Ends it by SIGKILL, and waits for its end. A primary starts its PostgreSQL again by itself. */
  kill(name: NetworkProcess): Promise<void>
  /** Starts it again on its data and its ports, and waits until it listens. */
  start(name: Exclude<NetworkProcess, 'postgres'>): Promise<void>
  stop(): Promise<void>
}

export interface NetworkOptions {
  readonly folder: string
  readonly edges: number
  /** How a process is started: on a core of its own, for example. */
  readonly spawn?: (command: readonly [string, ...string[]], options: SpawnOptions) => ChildProcess
  /** Nothing that they say is printed: they are killed, and complain. */
  readonly isQuiet?: boolean
  /** Where the primary and the edges say where they are, and edges look for others. */
  readonly consul?: URL | undefined
  /** Of each edge, besides its primary. */
  readonly upstreams?: readonly object[]
  /** The number of the process that an edge shares with others; each has its own if left out. */
  readonly processOf?: (edge: number) => number
  /** What an edge has as its `peers`, besides the port. */
  readonly peersOf?: (edge: number) => object
  /** Where an edge is. */
  readonly siteOf?: (edge: number) => string
  /** More of an edge's configuration. */
  readonly edgeOf?: (edge: number) => object
  /** Puts something before the listeners of the primary. @returns where edges reach it then */
  readonly between?: {
    readonly clients?: (primary: URL) => Promise<URL>
    readonly internal?: (listener: URL) => Promise<URL>
  }
}

/** Starts them, and waits until each edge knows all that there is, the others included. */
export async function startNetwork({
  folder,
  edges,
  spawn: spawnProcess = ([file, ...args], options) => spawn(file, args, options),
  isQuiet = false,
  consul,
  upstreams,
  processOf,
  peersOf = () => ({}),
  siteOf = () => networkSite,
  edgeOf = () => ({}),
  between = {},
}: NetworkOptions): Promise<Network> {
  const children = new Map<string, ChildProcess>()
  const portOf = new Map<string, number>()
  const stop = async () => {
    await Promise.all([...children.values()].toReversed().map(stopProcess))
  }
  const fileOf = (name: string) => join(folder, `${name}.yaml`)
  const run = (name: string, args: readonly string[]): ChildProcess => {
    const output = isQuiet ? 'ignore' : 'inherit'
    const child = spawnProcess([process.execPath, launcher, ...args], {
      env: withoutOutport(process.env),
      stdio: ['ignore', output, output],
    })
    children.set(name, child)
    return child
  }
  const start = async (name: string): Promise<void> => {
    const program = name === 'primary' ? 'primary' : 'edge'
    const child = run(name, [program, '--config', fileOf(name)])
    await listening(child, portOf.get(name) ?? 0)
  }
  const configure = async (name: string, config: object, port: number): Promise<void> => {
    portOf.set(name, port)
    // JSON is YAML.
    const text = JSON.stringify({ data: join(folder, name), log: { level: 'warn' }, ...config })
    await writeFile(fileOf(name), text)
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
    const url = `http://127.0.0.1:${ports.primary}`
    const internal = new URL(`https://127.0.0.1:${ports.internal}`)
    const front = await between.clients?.(new URL(url))
    const internalFront = await between.internal?.(internal)
    const edgesOfPrimary = ids.map((id) => ({
      id,
      credential_file: secrets.get(id),
      scope: ['*'],
      accept_people: true,
    }))
    await configure(
      'primary',
      {
        primary: {
          listeners: [{ port: ports.primary }],
          ...(front !== undefined && { external_url: front.origin }),
          internal: {
            port: ports.internal,
            ...(internalFront !== undefined && { external_url: internalFront.origin }),
          },
          metrics: { port: 0 },
          admin_password: password,
          edges: edgesOfPrimary,
          ...(consul && { consul: { address: consul.origin } }),
        },
      },
      ports.primary,
    )
    await start('primary')
    const primary = createRegistryClient({ baseUrl: url, credentials: admin })
    const urls: URL[] = []
    const metrics: number[] = []
    const hosted = new Map<string, number[]>()
    const processNames = ids.map((id, edge) =>
      processOf === undefined ? id : `host-${processOf(edge)}`,
    )
    for (const [edge, id] of ids.entries()) {
      await callApi(primary, 'PUT', `/edges/${id}`, { site: siteOf(edge) })
      // Many that are to be bound only later must not be those of outgoing connections.
      const port = processOf === undefined ? await freePort() : hostedPorts + 2 * edge
      const metricsPort = processOf === undefined ? await freePort() : port + 1
      await configure(
        id,
        {
          edge: {
            id,
            credential_file: secrets.get(id),
            primary: { url: front?.origin ?? url },
            listeners: [{ name: 'edge', port, default: 'primary', ping: 'challenge' }],
            metrics: { port: metricsPort },
            peers: { port: 0, ...peersOf(edge) },
            ...(consul && { consul: { address: consul.origin, site: networkSite } }),
            ...(upstreams && { upstreams }),
            ...edgeOf(edge),
          },
        },
        port,
      )
      if (processOf === undefined) await start(id)
      else {
        const host = processNames[edge] ?? ''
        hosted.set(host, [...(hosted.get(host) ?? []), edge])
      }
      urls.push(new URL(`http://127.0.0.1:${port}`))
      metrics.push(metricsPort)
    }
    for (const [host, edgesOfHost] of hosted) {
      const files = edgesOfHost.map((edge) => fileOf(ids[edge] ?? ''))
      const child = run(host, ['--run', edgeHost, ...files])
      for (const edge of edgesOfHost) await listening(child, portOf.get(ids[edge] ?? '') ?? 0)
    }
    const metric = async (edge: number, name: string, label = ''): Promise<number> => {
      const url = `http://127.0.0.1:${metrics[edge] ?? 0}/metrics`
      const text = await fetch(url).then(
        (answer) => answer.text(),
        () => '',
      )
      const line = text
        .split('\n')
        .find((each) => each.startsWith(`${name}{`) && each.includes(label))
      return Number(line?.split(' ').at(-1))
    }
    const pidOf = async (name: NetworkProcess): Promise<number> => {
      if (name === 'postgres') return runningPostmaster(join(folder, 'primary', postmasterFile))
      const pid = children.get(name)?.pid
      if (pid === undefined) throw new Error(`there is no ${name}`)
      return pid
    }
    const everyEdge = async (holds: (edge: number) => Promise<boolean>): Promise<boolean> =>
      (await Promise.all(urls.map((_, edge) => holds(edge)))).every(Boolean)
    const sites = ids.map((_, edge) => siteOf(edge))
    const membersOf = (edge: number) => sites.filter((site) => site === sites[edge]).length
    // Each says where it is, and hears of all the others.
    await waitFor(
      'all edges to know each other, and all there is',
      () =>
        everyEdge(
          async (edge) =>
            (await metric(edge, 'outport_edge_site_members')) === membersOf(edge) &&
            (await metric(edge, 'outport_edge_log_fresh')) === 1,
        ),
      { timeoutMs: 60_000 },
    )
    return {
      edges: urls,
      primary,
      admin,
      internal,
      metric,
      hasBlob: (edge, digest) =>
        existsSync(blobFile(join(folder, ids[edge] ?? '', 'edge'), digest)),
      pidOf,
      signal: (edge, signal) => void children.get(processNames[edge] ?? '')?.kill(signal),
      async kill(name) {
        const child = children.get(name)
        process.kill(await pidOf(name), 'SIGKILL')
        await waitFor(`the end of ${name}`, () => child === undefined || child.signalCode !== null)
      },
      start,
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

const postmasterFile = 'postgres/cluster/postmaster.pid'

/** One that was killed leaves its file until another one is started in its place, which is waited for. */
function runningPostmaster(file: string): Promise<number> {
  return waitFor('a running PostgreSQL', async () => {
    const pid = Number((await readFile(file, 'utf8').catch(() => '')).split('\n')[0])
    return pid > 0 && isAlive(pid) && pid
  })
}

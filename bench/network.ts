import { spawn, type ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { createRegistryClient, type RegistryClient } from '../test/kit/registry-client.ts'
import { waitFor } from '../test/kit/clock.ts'
import { freePort, listening, serverCore, spawnPinned, stopProcess } from './processes.ts'

const launcher = resolve(import.meta.dirname, '../deploy/launch.mjs')

/** A primary and edges of one site that follow it, each a process of its own on the servers' core. */
export interface Network {
  readonly edges: readonly URL[]
  /** Its administrator. */
  readonly primary: RegistryClient
  readonly admin: { readonly username: string; readonly password: string }
  /** The value of a metric at an edge. */
  metric(edge: number, name: string): Promise<number>
  stop(): Promise<void>
}

export interface NetworkOptions {
  readonly folder: string
  readonly edges: number
  /** Whether all of them share one core; true if left out. */
  readonly isPinned?: boolean
  /** Besides the primary. */
  readonly upstreams?: readonly object[]
}

/** Starts them, and waits until each edge knows all that there is, the others included. */
export async function startNetwork({
  folder,
  edges,
  isPinned = true,
  upstreams,
}: NetworkOptions): Promise<Network> {
  const children: ChildProcess[] = []
  const stop = async () => {
    await Promise.all(children.toReversed().map(stopProcess))
  }
  const start = async (name: string, config: object, port: number): Promise<void> => {
    const data = join(folder, name)
    const file = `${data}.yaml`
    // JSON is YAML.
    await writeFile(file, JSON.stringify({ log: { level: 'warn' }, ...config }))
    const program = name === 'primary' ? 'primary' : 'edge'
    const args = [process.execPath, launcher, program, '--config', file, '--data', data] as const
    const stdio = ['ignore', 'inherit', 'inherit'] as const
    const child = isPinned
      ? spawnPinned(serverCore, [...args], { stdio: [...stdio] })
      : spawn(process.execPath, args.slice(1), { stdio: [...stdio] })
    children.push(child)
    await listening(child, port)
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
    for (const id of ids) {
      await primary.request('PUT', `/api/v2.0/edges/${id}`, {
        body: Buffer.from(JSON.stringify({ site: 'bench' })),
        headers: { 'Content-Type': 'application/json' },
      })
      const port = await freePort()
      const metricsPort = await freePort()
      await start(
        id,
        {
          edge: {
            id,
            credential_file: secrets.get(id),
            primary: { url },
            listeners: [{ name: 'edge', port, default: 'primary', ping: 'challenge' }],
            metrics: { port: metricsPort },
            peers: { port: 0 },
            ...(upstreams && { upstreams }),
          },
        },
        port,
      )
      urls.push(new URL(`http://127.0.0.1:${port}`))
      metrics.push(metricsPort)
    }
    const metric = async (edge: number, name: string): Promise<number> => {
      const text = await (await fetch(`http://127.0.0.1:${metrics[edge] ?? 0}/metrics`)).text()
      const line = text.split('\n').find((each) => each.startsWith(`${name}{`))
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

import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { freePort, stopProcess } from '../test/kit/processes.ts'
import { serverCore, spawnPinned } from './processes.ts'

/** The real edge alone, as `outport edge` runs it, at ports that stay; the caller stops it. */
export interface BenchEdge {
  readonly origin: URL
  /** The folder of its cache. */
  readonly cache: string
  /** @throws Error when it does not run */
  pid(): number
  /** @returns milliseconds until it said that it is ready */
  start(): Promise<number>
  /** Ends it as the kernel would, by SIGKILL, and waits for the end. */
  kill(): Promise<void>
  stop(): Promise<void>
  /** Whether nothing is on its way to its disk: what has come is held, and not only here. */
  hasStored(): Promise<boolean>
}

export interface BenchEdgeOptions {
  /** Its own; the data lies in it. */
  readonly folder: string
  /** Where the upstream `origin` is, the only one. */
  readonly upstream: URL
  /** More of that upstream's entry. */
  readonly entry?: Readonly<Record<string, unknown>>
  /** Of `edge.cache`. */
  readonly cache?: Readonly<Record<string, unknown>>
}

const launcher = fileURLToPath(new URL('../deploy/launch.mjs', import.meta.url))
const startMs = 60_000
const pollMs = 5

/** Chooses the ports and writes the configuration; nothing runs before `start`. */
export async function prepareEdge({
  folder,
  upstream,
  entry,
  cache = {},
}: BenchEdgeOptions): Promise<BenchEdge> {
  const [port, metricsPort] = [await freePort(), await freePort()]
  const [config, data] = [join(folder, 'outport.yaml'), join(folder, 'data')]
  const edge = {
    ready_made: [],
    upstreams: [{ id: 'origin', url: upstream.origin, ...entry }],
    listeners: [{ name: 'edge', port, default: 'origin', ping: 'open' }],
    metrics: { port: metricsPort },
    cache,
  }
  await mkdir(folder, { recursive: true })
  // JSON is YAML too.
  await writeFile(config, JSON.stringify({ log: { level: 'warn' }, edge }))
  let child: ChildProcess | undefined

  const isReady = async (): Promise<boolean> => {
    try {
      const answer = await fetch(`http://127.0.0.1:${metricsPort}/readyz`)
      await answer.arrayBuffer()
      return answer.ok
    } catch {
      return false
    }
  }

  return {
    origin: new URL(`http://127.0.0.1:${port}`),
    cache: join(data, 'edge'),
    pid() {
      const pid = child?.pid
      if (pid === undefined) throw new Error('the edge does not run')
      return pid
    },
    async start() {
      const startedAt = performance.now()
      // Its log goes nowhere: what goes wrong here is made to.
      const started = spawnPinned(
        serverCore,
        [process.execPath, launcher, 'edge', '--config', config, '--data', data],
        { stdio: ['ignore', 'ignore', 'inherit'] },
      )
      child = started
      while (!(await isReady())) {
        if (started.exitCode !== null || started.signalCode !== null)
          throw new Error('the edge ended at its start')
        if (performance.now() - startedAt > startMs) {
          await stopProcess(started)
          throw new Error(`the edge was not ready within ${startMs} ms`)
        }
        await delay(pollMs)
      }
      return performance.now() - startedAt
    },
    async kill() {
      if (child === undefined || child.exitCode !== null || child.signalCode !== null) return
      const exited = once(child, 'exit')
      child.kill('SIGKILL')
      await exited
    },
    async stop() {
      if (child !== undefined) await stopProcess(child)
    },
    async hasStored() {
      const answer = await fetch(`http://127.0.0.1:${metricsPort}/metrics`)
      return /^outport_edge_cache_reserved_bytes(\{.*\})? 0$/m.test(await answer.text())
    },
  }
}

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { edgeSection, type EdgeConfig } from '../../edge/config.ts'
import { startEdge } from '../../edge/main.ts'
import type { Running } from '../../shared/observability/program.ts'
import { loadConfig } from '../../shared/config/load.ts'
import { createRecordingLog, type LogLine } from './http-server.ts'
import { cheapPasswords } from './passwords.ts'
import {
  createRegistryClient,
  type ClientOptions,
  type Credentials,
  type RegistryClient,
} from './registry-client.ts'

export interface TestEdgeOptions {
  /** Merged into the configuration's `edge` part. */
  readonly edge?: Readonly<Record<string, unknown>>
  /** Besides the usual two. */
  readonly listeners?: readonly Readonly<Record<string, unknown>>[]
  /** A folder that an earlier edge left; a new one without. */
  readonly data?: string
}

/** A whole edge in this process. */
export interface TestEdge {
  /** The challenging listener, whose default is the primary. */
  readonly url: URL
  /** The open listener, whose default is docker.io. */
  readonly mirror: URL
  readonly metricsUrl: URL
  /** Of a listener that the options name. */
  listener(name: string): URL
  readonly data: string
  readonly log: readonly LogLine[]
  /** A client of the challenging listener that ends with the edge; anonymous without credentials. */
  client(credentials?: Credentials, scheme?: ClientOptions['scheme']): RegistryClient
  /** A client of the open listener. */
  mirrorClient(): RegistryClient
  /** The value of a metric with these labels, 0 when it was never counted. */
  metric(name: string, labels?: Readonly<Record<string, string>>): Promise<number>
  stop(): Promise<void>
}

/** How to stop the edges that were started on a folder, one after another. */
const stopsOf = new Map<string, (() => Promise<void>)[]>()

/** Starts an edge; when the test is over, all edges on its folder are stopped before that is removed. */
export async function startTestEdge(
  t: Pick<TestContext, 'after'>,
  options: TestEdgeOptions = {},
): Promise<TestEdge> {
  const data = options.data ?? (await mkdtemp(join(tmpdir(), 'outport-edge-')))
  // Before the start, which may fail.
  t.after(async () => {
    for (const stopOne of stopsOf.get(data) ?? []) await stopOne()
    stopsOf.delete(data)
    await rm(data, { recursive: true, force: true })
  })
  const { log, lines } = createRecordingLog()
  const running = await startEdge(configOf(data, options), {
    log,
    processMetrics: false,
    passwordCost: cheapPasswords,
  })
  const clients: RegistryClient[] = []
  const clientOf = (options: ClientOptions) => {
    const client = createRegistryClient(options)
    clients.push(client)
    return client
  }
  let stopped: Promise<void> | undefined
  const stop = () =>
    (stopped ??= (async () => {
      for (const client of clients) client.close()
      await running.stop(1000)
    })())
  const stops = stopsOf.get(data) ?? []
  stopsOf.set(data, [...stops, stop])
  const url = urlOf(running, 'edge')
  const mirror = urlOf(running, 'mirror')
  const listener = (name: string) => urlOf(running, name)
  const metricsUrl = new URL(running.metrics)
  return {
    url,
    mirror,
    metricsUrl,
    listener,
    data,
    log: lines,
    client: (credentials, scheme) =>
      clientOf({ baseUrl: url, credentials, ...(scheme !== undefined && { scheme }) }),
    mirrorClient: () => clientOf({ baseUrl: mirror }),
    metric: (name, labels = {}) => readMetric(metricsUrl, name, labels),
    stop,
  }
}

/** Stops an edge and starts the next one on its folder. */
export async function restartTestEdge(
  t: Pick<TestContext, 'after'>,
  edge: TestEdge,
  options: TestEdgeOptions,
): Promise<TestEdge> {
  await edge.stop()
  return startTestEdge(t, { ...options, data: edge.data })
}

function urlOf({ urls }: Running, name: string): URL {
  const url = urls[name]
  if (url === undefined) throw new Error(`the edge has no listener ${name}`)
  return new URL(url)
}

function configOf(
  data: string,
  { edge = {}, listeners = [] }: Pick<TestEdgeOptions, 'edge' | 'listeners'>,
): EdgeConfig {
  return loadConfig({
    sections: [edgeSection],
    env: {},
    flags: {
      data,
      edge: {
        metrics: { port: 0 },
        // Most tests are about what an edge does that nobody tells anything.
        follow: false,
        listeners: [
          { name: 'edge', port: 0, default: 'primary', ping: 'challenge' },
          { name: 'mirror', port: 0, default: 'docker.io', ping: 'open' },
          ...listeners,
        ],
        ...edge,
      },
    },
  })
}

async function readMetric(
  url: URL,
  name: string,
  labels: Readonly<Record<string, string>>,
): Promise<number> {
  const text = await (await fetch(new URL('/metrics', url))).text()
  let sum = 0
  for (const line of text.split('\n')) {
    const [, found, list = '', value] = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? []
    if (found !== name) continue
    if (Object.entries(labels).every(([key, label]) => list.includes(`${key}="${label}"`)))
      sum += Number(value)
  }
  return sum
}

import assert from 'node:assert/strict'
import { request as sendRequest, type IncomingHttpHeaders } from 'node:http'
import type { TestContext } from 'node:test'
import { waitFor } from './clock.ts'
import { startTestEdge, type TestEdge } from './edge.ts'
import { startUpstream, type Fault, type Upstream, type UpstreamOptions } from './upstream.ts'

/** What a client got of an answer, up to its end or to where it was cut. */
export interface Received {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
  /** False when the connection was cut before the end that the headers promised. */
  readonly isWhole: boolean
}

export interface PullOptions {
  readonly method?: 'GET' | 'HEAD'
  readonly headers?: Readonly<Record<string, string>>
}

/** An edge whose docker.io is a stand-in that is about to misbehave. */
export interface Mirror {
  readonly upstream: Upstream
  readonly edge: TestEdge
  /** Asks the open listener. @throws when it does not answer at all, or not to an end in time */
  pull(path: string, options?: PullOptions): Promise<Received>
  /** Waits until a path is answered whole, with these bytes. */
  recovers(path: string, content: Buffer): Promise<Received>
  /** Waits for the fills to end, and fails if anything of them was kept. */
  keptNothing(): Promise<void>
  /** Waits until one blob is held. */
  kept(): Promise<void>
}

export interface MirrorOptions {
  readonly upstream?: UpstreamOptions
  /** Of docker.io's entry in the table. */
  readonly entry?: Readonly<Record<string, unknown>>
  /** Entries besides it. */
  readonly more?: readonly object[]
  readonly edge?: Readonly<Record<string, unknown>>
  /** How long an upstream may send nothing; a connection may take a second. */
  readonly noProgress?: string
}

/** Short where nothing comes; else longer than a busy machine takes for what does. */
export function noProgressFor({ stallHeaders, stallAt }: Fault): string {
  return stallHeaders === true || stallAt !== undefined ? '600ms' : '5s'
}

/** A client that waits longer than this would call it a hang. */
const patienceMs = 20_000

/** Starts both; they end with the test, which fails if the edge told anybody of a fault of its own. */
export async function startMirror(
  t: TestContext,
  {
    upstream: options = {},
    entry = {},
    more = [],
    edge = {},
    noProgress = '5s',
  }: MirrorOptions = {},
): Promise<Mirror> {
  const upstream = await startUpstream(options)
  t.after(() => upstream.close())
  const hub = { id: 'docker.io', url: upstream.url.origin, tag_ttl: '0s', negative_ttl: '0s' }
  const started = await startTestEdge(t, {
    edge: {
      upstreams: [{ ...hub, ...entry }, ...more],
      fill: { no_progress: noProgress, connect: '1s' },
      ...edge,
    },
  })
  t.after(() => assertNoFaults(started))
  const pull = (path: string, how: PullOptions = {}) => receive(new URL(path, started.mirror), how)
  return {
    upstream,
    edge: started,
    pull,
    recovers: (path, content) =>
      waitFor(`the right content of ${path}`, async () => {
        const got = await pull(path)
        return got.status === 200 && got.isWhole && got.body.equals(content) && got
      }),
    async kept() {
      await waitFor(
        'one blob to be kept',
        async () => (await started.metric('outport_edge_cache_blobs')) === 1,
      )
    },
    async keptNothing() {
      await waitFor('the fills to end', async () => {
        return (await started.metric('outport_edge_fills_running')) === 0
      })
      assert.equal(await started.metric('outport_edge_cache_blobs'), 0, 'something was kept')
    },
  }
}

/** An upstream's faults are none of ours: clients are told of them, and they are not logged as errors, but for lies. */
function assertNoFaults({ log }: TestEdge): void {
  for (const line of log) {
    assert.notEqual(line['status'], 500, JSON.stringify(line))
    const isFault = line.level === 'error' && !/^an upstream sent other bytes/.test(line.msg)
    assert.ok(!isFault, JSON.stringify(line))
  }
}

/** Sends a request on a connection of its own, and reads whatever comes. */
function receive(url: URL, { method = 'GET', headers = {} }: PullOptions = {}): Promise<Received> {
  const signal = AbortSignal.timeout(patienceMs)
  return new Promise((resolve, reject) => {
    const outgoing = sendRequest(url, { method, headers, agent: false, signal })
    outgoing.once('error', reject)
    outgoing.once('response', (incoming) => {
      const chunks: Buffer[] = []
      incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
      // What was cut has come as far as it has come.
      incoming.on('error', () => undefined)
      incoming.once('close', () => {
        if (signal.aborted) return reject(new Error(`${url.pathname} hangs`))
        const { statusCode: status = 0, complete: isWhole } = incoming
        resolve({ status, headers: incoming.headers, body: Buffer.concat(chunks), isWhole })
      })
    })
    outgoing.end()
  })
}

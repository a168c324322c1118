import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client'
import { createHistogram } from './histogram.ts'

/** The house buckets of durations, in seconds: from a hit in memory to a large layer over a thin link. */
export const secondsBuckets = [
  0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 120, 600,
] as const

/** A program's metrics: its registry, which rooms register theirs at, and what the HTTP servers count. */
export interface Metrics {
  readonly registry: Registry
  readonly http: HttpMetrics
}

/** One finished request. */
interface FinishedRequest {
  /** The kind of route: a bounded set of words, never a path that a client chose. */
  readonly route: string
  readonly method: string
  readonly status: number
  readonly seconds: number
  readonly receivedBytes: number
  readonly sentBytes: number
}

export interface HttpMetrics {
  started(): void
  /** Requests that are being answered. */
  running(): number
  finished(request: FinishedRequest): void
}

/**
 * Makes a program's own registry with the metrics of the process and of HTTP.
 * @param program the label `program` of every metric
 * @param processMetrics false leaves out the process's own, for tests that start many programs in one process
 */
export function createMetrics(
  program: 'primary' | 'edge',
  { processMetrics = true }: { readonly processMetrics?: boolean } = {},
): Metrics {
  const registry = new Registry()
  registry.setDefaultLabels({ program })
  if (processMetrics) collectDefaultMetrics({ register: registry })
  return { registry, http: createHttpMetrics(registry) }
}

interface Tally {
  readonly labels: { readonly route: string; readonly method: string; readonly status: string }
  requests: number
  receivedBytes: number
  sentBytes: number
  readonly observeSeconds: (seconds: number) => void
}

/**
 * Counts into plain numbers and hands them over when they are collected: prom-client's labels cost half a
 * microsecond each, and a hot request takes fifty.
 */
function createHttpMetrics(registry: Registry): HttpMetrics {
  const all: Tally[] = []
  // By route, method and status: a key of all three would be a new text for each request.
  const tallies = new Map<string, Map<string, Map<string, Tally>>>()
  let running = 0
  const labelNames = ['route', 'method', 'status'] as const
  const counter = (name: string, help: string, value: (tally: Tally) => number) =>
    new Counter({
      name,
      help,
      labelNames,
      registers: [registry],
      collect() {
        this.reset()
        for (const tally of all) this.inc(tally.labels, value(tally))
      },
    })
  counter('outport_http_requests_total', 'Requests answered.', ({ requests }) => requests)
  counter(
    'outport_http_received_bytes_total',
    'Bytes received, headers included.',
    (t) => t.receivedBytes,
  )
  counter('outport_http_sent_bytes_total', 'Bytes sent, headers included.', (t) => t.sentBytes)
  new Gauge({
    name: 'outport_http_requests_running',
    help: 'Requests that are being answered.',
    registers: [registry],
    collect() {
      this.set(running)
    },
  })
  const seconds = createHistogram({
    registry,
    name: 'outport_http_request_seconds',
    help: 'From the end of the request headers to the end of the response.',
    labelNames: ['route', 'method'],
    buckets: secondsBuckets,
  })
  const tallyOf = (route: string, method: string, status: string): Tally => {
    const ofRoute = tallies.get(route) ?? new Map<string, Map<string, Tally>>()
    const ofMethod = ofRoute.get(method) ?? new Map<string, Tally>()
    const known = ofMethod.get(status)
    if (known !== undefined) return known
    const tally = {
      labels: { route, method, status },
      requests: 0,
      receivedBytes: 0,
      sentBytes: 0,
      observeSeconds: seconds.series({ route, method }),
    }
    tallies.set(route, ofRoute.set(method, ofMethod.set(status, tally)))
    all.push(tally)
    return tally
  }
  return {
    started() {
      running++
    },
    running: () => running,
    finished(request) {
      running--
      const tally = tallyOf(request.route, methodLabel(request.method), statusClass(request.status))
      tally.requests++
      tally.receivedBytes += request.receivedBytes
      tally.sentBytes += request.sentBytes
      tally.observeSeconds(request.seconds)
    },
  }
}

const methods = new Set(['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'])

function methodLabel(method: string): string {
  return methods.has(method) ? method : 'other'
}

const statusClasses = ['cut', '1xx', '2xx', '3xx', '4xx', '5xx'] as const

/** `2xx`; a response that was cut before its headers counts as `cut`. */
function statusClass(status: number): string {
  return statusClasses[Math.floor(status / 100)] ?? 'other'
}

/** One number that is looked up when metrics are collected. */
export interface GaugeSource {
  readonly name: string
  readonly help: string
  readonly value: () => number
}

/** Registers gauges without labels. */
export function registerGauges(registry: Registry, sources: readonly GaugeSource[]): void {
  for (const { name, help, value } of sources) {
    new Gauge({
      name,
      help,
      registers: [registry],
      collect() {
        this.set(value())
      },
    })
  }
}

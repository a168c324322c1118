import { Counter, Histogram, type Registry } from 'prom-client'
import type { BlobSender } from '../shared/http/send-blob.ts'
import { registerGauges, secondsBuckets } from '../shared/observability/metrics.ts'
import type { AppliedReport } from './store/pull-reports.ts'

/** What the primary counts beside its HTTP servers. No label names a repository, an account or a digest. */
export interface PrimaryMetrics {
  /** A statement was answered. */
  queried(milliseconds: number): void
  /** Body bytes of a blob went to a client. */
  blobSent(source: 'memory' | 'disk', bytes: number): void
  /** An upload became a blob. */
  blobReceived(bytes: number): void
}

export interface PrimaryMetricsDeps {
  readonly registry: Registry
  readonly sender: Pick<BlobSender, 'stats'>
  /** Requests that receive bytes now. */
  readonly uploadsRunning: () => number
  /** Whether the caches may be believed. */
  readonly isFollowing: () => boolean
  /** Whether the log is less than it once was. */
  readonly isBehind: () => boolean
  /** Whether a list of keys waits for a root that is kept offline. */
  readonly waitsForRoot: () => boolean
}

/** The timing of statements, which begins before anything else of the primary exists. */
export function createDatabaseMetrics(registry: Registry): Pick<PrimaryMetrics, 'queried'> {
  const seconds = new Histogram({
    name: 'outport_primary_database_query_seconds',
    help: 'From sending a statement to its answer.',
    buckets: [...secondsBuckets],
    registers: [registry],
  })
  return { queried: (milliseconds) => seconds.observe(milliseconds / 1000) }
}

/** Registers what becomes of the pulls that edges report. */
export function createReportMetrics(registry: Registry): (applied: AppliedReport) => void {
  const lines = new Counter({
    name: 'outport_primary_pull_report_lines_total',
    help: "Lines of edges' reports of pulls: counted, cut (more than it can have served), out_of_scope, unknown (no such manifest).",
    labelNames: ['outcome'],
    registers: [registry],
  })
  const reports = new Counter({
    name: 'outport_primary_pull_reports_total',
    help: "Edges' reports of pulls: new, or repeated since the answer was lost.",
    labelNames: ['outcome'],
    registers: [registry],
  })
  return ({ isRepeated, lines: { counted, cut, outOfScope, unknown } }) => {
    reports.inc({ outcome: isRepeated ? 'repeated' : 'new' })
    const outcomes = { counted, cut, out_of_scope: outOfScope, unknown }
    for (const [outcome, count] of Object.entries(outcomes)) lines.inc({ outcome }, count)
  }
}

/** Registers the primary's metrics. */
export function createPrimaryMetrics(deps: PrimaryMetricsDeps): Omit<PrimaryMetrics, 'queried'> {
  const registers = [deps.registry]
  const sent = new Counter({
    name: 'outport_primary_blob_sent_bytes_total',
    help: 'Body bytes of blobs sent to clients, by where they came from.',
    labelNames: ['source'],
    registers,
  })
  const received = new Counter({
    name: 'outport_primary_blob_received_bytes_total',
    help: 'Bytes of uploads that became blobs.',
    registers,
  })
  registerGauges(deps.registry, [
    {
      name: 'outport_primary_uploads_running',
      help: 'Requests that receive bytes.',
      value: deps.uploadsRunning,
    },
    {
      name: 'outport_primary_transfers_running',
      help: 'Blobs that are being sent.',
      value: () => deps.sender.stats().transfers,
    },
    {
      name: 'outport_primary_log_followed',
      help: 'Whether the event log is read in time, so that caches are used: 1 or 0.',
      value: () => (deps.isFollowing() ? 1 : 0),
    },
    {
      name: 'outport_primary_log_behind',
      help: 'Whether the database is older than it was, so that edges are told nothing: 1 or 0.',
      value: () => (deps.isBehind() ? 1 : 0),
    },
    {
      name: 'outport_primary_keys_unsigned',
      help: 'Whether a list of keys waits to be signed by a root that is kept offline: 1 or 0.',
      value: () => (deps.waitsForRoot() ? 1 : 0),
    },
  ])
  return {
    blobSent: (source, bytes) => sent.inc({ source }, bytes),
    blobReceived: (bytes) => received.inc(bytes),
  }
}

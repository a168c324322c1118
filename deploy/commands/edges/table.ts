import type { ShownEdge, ShownPrune, ShownStatus } from '../../admin-api.ts'
import { onOneLine } from '../../one-line.ts'

/** Edges as a table for people: one a line. */
export function formatEdges(edges: readonly ShownEdge[]): string {
  const head = 'ID NAME SITE REGION STATE VERSION LAG CACHE HITS LABELS'.split(' ')
  const rows = edges.map(({ status, ...edge }) => [
    edge.id,
    edge.name,
    edge.site,
    edge.region,
    edge.state,
    status?.version ?? '',
    status === undefined ? '' : formatLag(status),
    status === undefined ? '' : formatCache(status),
    formatRatio(status?.hitRatio),
    formatLabels(edge.labels),
  ])
  return formatColumns([head, ...rows])
}

/** One edge, all that is known of it. */
export function formatEdge(edge: ShownEdge): string {
  return formatColumns([
    ['id', edge.id],
    ['name', edge.name],
    ['site', edge.site],
    ['region', edge.region],
    ['labels', formatLabels(edge.labels)],
    ['projects', edge.scope === '*' ? 'all' : edge.scope.join(', ')],
    ['people', edge.acceptPeople ? 'may log in through it' : 'may not log in through it'],
    ['state', edge.reason === '' ? edge.state : `${edge.state}: ${edge.reason}`],
    ...(edge.status === undefined ? [] : statusRows(edge.status)),
    ['known by', edge.enrolled ? 'a join token' : "the primary's configuration"],
    ['created', edge.created],
    ['changed', edge.updated],
  ])
}

function statusRows(status: ShownStatus): readonly (readonly string[])[] {
  const { heldLagEvents, waitingBytes, clockSkewMs = 0, failures = 0 } = status
  const side = clockSkewMs < 0 ? 'behind' : 'ahead'
  return [
    ['version', status.version],
    ['last heard of', status.lastSeen],
    ['lag', formatLag(status)],
    ['rules', `${heldLagEvents ?? '?'} events, ${formatBytes(waitingBytes)} to come`],
    ['cache', formatCache(status)],
    ['hit ratio', formatRatio(status.hitRatio)],
    ['served', formatBytes(status.servedBytes)],
    ['clock', `${formatSeconds(Math.abs(clockSkewMs) / 1000)} ${side}`],
    ['transfers', status.transfers === undefined ? '' : `${status.transfers} running`],
    ['could not get', failures === 0 ? '' : `${failures} manifests that rules bring`],
    ['prune', status.prune === undefined ? '' : formatPrune(status.prune)],
    ['last error', formatError(status)],
  ]
}

/** What would go because nothing keeps it, and what went last. */
function formatPrune({ outcome, at, blobs, bytes, removed }: ShownPrune): string {
  const left =
    blobs === 0
      ? 'nothing would go'
      : `${blobs ?? '?'} blobs (${formatBytes(bytes)}) ${outcome === 'refused' ? 'are more than may go at once' : 'would go'}`
  const went =
    removed === undefined
      ? ''
      : `; ${removed.blobs ?? '?'} blobs (${formatBytes(removed.bytes)}) went at ${removed.at}`
  return `${left}, as of ${at}${went}`
}

/** `0`, or `12 (3s)`. */
function formatLag({ lagEvents, lagSeconds }: ShownStatus): string {
  if (lagEvents === undefined || lagEvents === 0) return lagEvents === 0 ? '0' : ''
  return lagSeconds === undefined ? `${lagEvents}` : `${lagEvents} (${formatSeconds(lagSeconds)})`
}

/** What went wrong last, and when by the edge's own clock. */
function formatError({ lastError, lastErrorAt }: ShownStatus): string {
  return lastError === '' || lastErrorAt === '' ? lastError : `${lastErrorAt}: ${lastError}`
}

function formatCache({ cacheBytes, cacheSizeBytes }: ShownStatus): string {
  return `${formatBytes(cacheBytes)}/${formatBytes(cacheSizeBytes)}`
}

function formatRatio(ratio: number | undefined): string {
  return ratio === undefined ? '' : `${Math.round(ratio * 100)}%`
}

/** Rounded, with its largest unit: `90s`, `5m`, `3d`. */
function formatSeconds(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)}s`
  if (seconds < 7200) return `${Math.round(seconds / 60)}m`
  return seconds < 172_800 ? `${Math.round(seconds / 3600)}h` : `${Math.round(seconds / 86_400)}d`
}

/** Rounded, with its largest unit: `1.5GiB`. */
function formatBytes(bytes: number | undefined): string {
  if (bytes === undefined) return '?'
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let [amount, unit] = [bytes, 0]
  while (amount >= 1024 && unit < units.length - 1) {
    amount /= 1024
    unit++
  }
  return `${amount < 10 && unit > 0 ? amount.toFixed(1) : Math.round(amount)}${units[unit]}`
}

function formatLabels(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .sort()
    .join(',')
}

/** Rows under one another; what is empty is a dash, and nothing writes over the terminal. */
export function formatColumns(rows: readonly (readonly string[])[]): string {
  const cells = rows.map((row) => row.map((cell) => onOneLine(cell) || '-'))
  const widths = (cells[0] ?? []).map((_cell, column) =>
    Math.max(...cells.map((row) => row[column]?.length ?? 0)),
  )
  return cells
    .map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  '))
    .map((line) => `${line.trimEnd()}\n`)
    .join('')
}

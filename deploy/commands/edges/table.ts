import type { ShownEdge } from '../../admin-api.ts'
import { onOneLine } from '../../primary-client.ts'

/** Edges as a table for people: one a line. */
export function formatEdges(edges: readonly ShownEdge[]): string {
  const head = ['ID', 'NAME', 'SITE', 'REGION', 'STATE', 'LABELS']
  const rows = edges.map((edge) => [
    edge.id,
    edge.name,
    edge.site,
    edge.region,
    edge.state,
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
    ['state', edge.state],
    ['known by', edge.enrolled ? 'a join token' : "the primary's configuration"],
    ['created', edge.created],
    ['changed', edge.updated],
  ])
}

function formatLabels(labels: Readonly<Record<string, string>>): string {
  return Object.entries(labels)
    .map(([key, value]) => `${key}=${value}`)
    .sort()
    .join(',')
}

function formatColumns(rows: readonly (readonly string[])[]): string {
  const cells = rows.map((row) => row.map((cell) => onOneLine(cell) || '-'))
  const widths = (cells[0] ?? []).map((_cell, column) =>
    Math.max(...cells.map((row) => row[column]?.length ?? 0)),
  )
  return cells
    .map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  '))
    .map((line) => `${line.trimEnd()}\n`)
    .join('')
}

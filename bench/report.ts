/** The bounds of a figure; one without any is only told. */
export interface Bounds {
  /** Crossing it fails the bench. */
  readonly floor?: number
  /** Where we want to be. */
  readonly aim?: number
  /** The bounds are from above: counts, delays. Ratios are bounded from below. */
  readonly most?: boolean
}

/** One judged figure of a bench. */
export interface Figure extends Bounds {
  /** What was measured: `64 MiB, 4 clients`. */
  readonly case: string
  /** What it is: `× nginx`, `upstream responses`. */
  readonly measure: string
  /** The value that is judged: the median of several. */
  readonly value: number
  readonly lowest?: number
  readonly highest?: number
  /** Further figures of the same run, for the reader. */
  readonly notes?: string
}

export interface BenchResult {
  readonly figures: readonly Figure[]
  /** Where it chooses its rounds itself: how many there were, for the reader. */
  readonly rounds?: string
  /** Why it fails although no figure does: a peer is missing. */
  readonly failures?: readonly string[]
}

/** The middle one, or the mean of the middle two. */
export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length / 2
  const [low = NaN, high = NaN] = [sorted[Math.ceil(middle) - 1], sorted[Math.floor(middle)]]
  return (low + high) / 2
}

/** The value under which `share` (0 to 1) of all lie. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(Math.ceil(sorted.length * share), sorted.length) - 1] ?? NaN
}

/** A figure judged by the median of the ratios of all rounds. */
export function ratioFigure(
  ratios: readonly number[],
  figure: Omit<Figure, 'value' | 'lowest' | 'highest'>,
): Figure {
  const [lowest, highest] = [Math.min(...ratios), Math.max(...ratios)]
  return { ...figure, value: median(ratios), lowest, highest }
}

/** Whether a figure keeps its floor. */
function passes({ value, floor, most = false }: Figure): boolean {
  if (floor === undefined) return true
  return most ? value <= floor : value >= floor
}

/** Whether a bench keeps all of its floors, and lacks nothing. */
export function hasPassed({ figures, failures = [] }: BenchResult): boolean {
  return failures.length === 0 && figures.every(passes)
}

/** The table for the reader and the one line of JSON for a program. */
export function formatResult(
  bench: string,
  result: BenchResult,
  circumstances: Readonly<Record<string, string | number>>,
): string {
  const { figures, failures = [] } = result
  const where = Object.entries(circumstances).map(([name, value]) => `${name} ${value}`)
  const heads = ['case', 'measure', 'median', 'range', 'floor', 'aim', '', 'notes']
  const rows = figures.map((figure) => [
    figure.case,
    figure.measure,
    short(figure.value),
    figure.lowest === undefined ? '' : `${short(figure.lowest)}–${short(figure.highest ?? NaN)}`,
    figure.floor === undefined ? '' : short(figure.floor),
    figure.aim === undefined ? '' : short(figure.aim),
    verdict(figure),
    figure.notes ?? '',
  ])
  const pass = hasPassed(result)
  const json = JSON.stringify({ bench, pass, ...circumstances, figures, failures })
  const lines = [`${bench} (${where.join(', ')})`, ...columns([heads, ...rows]), ...failures, json]
  return lines.join('\n')
}

function verdict(figure: Figure): string {
  if (!passes(figure)) return 'FAIL'
  const { value, aim, most = false } = figure
  if (aim === undefined) return ''
  return (most ? value <= aim : value >= aim) ? 'aim' : 'ok'
}

function short(value: number): string {
  return String(Number(value.toPrecision(4)))
}

function columns(rows: readonly (readonly string[])[]): string[] {
  const widths = (rows[0] ?? []).map((_, i) => Math.max(...rows.map((row) => row[i]?.length ?? 0)))
  return rows.map((row) =>
    `  ${row.map((cell, i) => cell.padEnd(widths[i] ?? 0)).join('  ')}`.trimEnd(),
  )
}

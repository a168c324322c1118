import { Histogram, type Registry } from 'prom-client'

/** A histogram whose observations cost a hot request nothing: prom-client's own take a microsecond each. */
export interface PlainHistogram<Label extends string> {
  /** What counts one series; keep it, and call it with values in the histogram's unit. */
  series(labels: Readonly<Record<Label, string>>): (value: number) => void
}

interface Series<Label extends string> {
  readonly labels: Readonly<Record<Label, string>>
  /** Observations by bucket, those above the last bound at the end; not cumulative. */
  readonly counts: number[]
  sum: number
}

export interface PlainHistogramOptions<Label extends string> {
  readonly registry: Registry
  readonly name: string
  readonly help: string
  readonly labelNames: readonly Label[]
  /** Upper bounds, ascending. */
  readonly buckets: readonly number[]
}

/** Registers a histogram that counts into plain arrays, which are read when metrics are collected. */
export function createHistogram<Label extends string>({
  registry,
  name,
  help,
  labelNames,
  buckets,
}: PlainHistogramOptions<Label>): PlainHistogram<Label> {
  const all = new Map<string, Series<Label>>()
  const histogram = new Histogram<string>({
    name,
    help,
    labelNames,
    buckets: [...buckets],
    registers: [],
  })
  const get = async () => ({
    name,
    help,
    type: 'histogram' as const,
    aggregator: 'sum' as const,
    values: [...all.values()].flatMap((each) => samplesOf(each, { name, buckets })),
  })
  // The registry asks the second, of which the types say nothing.
  registry.registerMetric(Object.assign(histogram, { get, getForPromString: get }))
  return {
    series(labels) {
      const key = labelNames.map((label) => labels[label]).join('\n')
      const known = all.get(key)
      const series = known ?? { labels, counts: Array<number>(buckets.length + 1).fill(0), sum: 0 }
      all.set(key, series)
      return (value) => {
        let bucket = 0
        while (bucket < buckets.length && value > (buckets[bucket] ?? Infinity)) bucket++
        series.counts[bucket] = (series.counts[bucket] ?? 0) + 1
        series.sum += value
      }
    },
  }
}

/** The lines of one series: cumulative buckets, sum and count. [Prometheus text format, histograms] */
function samplesOf<Label extends string>(
  { labels, counts, sum }: Series<Label>,
  { name, buckets }: { readonly name: string; readonly buckets: readonly number[] },
) {
  let total = 0
  const cumulative = counts.map((count, bucket) => {
    total += count
    return {
      labels: { ...labels, le: buckets[bucket] ?? '+Inf' },
      value: total,
      metricName: `${name}_bucket`,
    }
  })
  return [
    ...cumulative,
    { labels, value: sum, metricName: `${name}_sum` },
    { labels, value: total, metricName: `${name}_count` },
  ]
}

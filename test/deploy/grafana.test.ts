import assert from 'node:assert/strict'
import { open, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { before, describe, test } from 'node:test'
import { parse } from 'yaml'
import { createMetrics } from '../../shared/observability/metrics.ts'
import { encodedOf, type Digest } from '../../shared/oci/digest.ts'
import { atEnd } from '../kit/at-end.ts'
import { waitFor } from '../kit/clock.ts'
import { startTestEdge, type TestEdge } from '../kit/edge.ts'
import { bytesOf } from '../kit/images.ts'
import { addImage, startUpstream } from '../kit/upstream.ts'

// The dashboard, the alerts and docs/edge.md speak of metrics: of those that an edge has, by their right labels.

const root = join(import.meta.dirname, '../..')
const app = 'library/app'

/** What one metric was seen with. */
interface Seen {
  /** `counter`, `gauge`, `histogram`. */
  readonly type: string
  /** The values that each label had. */
  readonly labels: ReadonlyMap<string, ReadonlySet<string>>
}

type Metrics = ReadonlyMap<string, Seen>

/** Reads the text that Prometheus reads; a metric that was never counted has its lines of HELP and TYPE alone. */
function parseMetrics(text: string): Metrics {
  const metrics = new Map<string, { type: string; labels: Map<string, Set<string>> }>()
  for (const [, name = '', type = ''] of text.matchAll(/^# TYPE (\w+) (\w+)$/gm))
    metrics.set(name, { type, labels: new Map() })
  for (const [, sample = '', list = ''] of text.matchAll(/^(\w+)(?:\{(.*)\})? \S+$/gm)) {
    const { labels } = metrics.get(sample) ?? metrics.get(familyOf(sample)) ?? assert.fail(sample)
    for (const [, label = '', value = ''] of list.matchAll(/(\w+)="([^"]*)"/g))
      labels.set(label, (labels.get(label) ?? new Set()).add(value))
  }
  return metrics
}

/** Of a sample of a histogram, the histogram. */
function familyOf(sample: string): string {
  return sample.replace(/_(?:bucket|sum|count)$/, '')
}

/** Has an edge do whatever it counts, so that every metric is there with its labels. */
async function metricsOfEdge(): Promise<Metrics> {
  const upstream = await startUpstream()
  atEnd(() => upstream.close())
  const edge = await startTestEdge(
    { after: atEnd },
    {
      edge: {
        upstreams: [{ id: 'docker.io', url: upstream.url.origin, tag_ttl: '0s' }],
        cache: { memory: '64KiB' },
      },
    },
  )
  const client = edge.mirrorClient()
  const statusOf = async (path: string) => (await client.request('GET', path)).status
  addImage(upstream, app)
  const tag = `/v2/${app}/manifests/v1`
  const stop = upstream.fault({}, { headers: { 'ratelimit-remaining': '76;w=21600' } })
  assert.equal(await statusOf(tag), 200)
  stop()
  const layer = upstream.addBlob(app, bytesOf('grafana', 256 * 1024))
  const blob = `/v2/${app}/blobs/${layer}`
  // A client has its blob before the file has its name; and for a moment its fill is there for who comes late.
  const hold = () =>
    waitFor('the blob to be held', async () => {
      assert.equal(await statusOf(blob), 200)
      return (await edge.metric('outport_edge_cache_blobs')) === 2
    })
  await hold()
  await spoil(edge, layer)
  await waitFor('the rot to be found', async () => {
    await statusOf(blob).catch(() => undefined)
    return (await edge.metric('outport_edge_rotten_total', { found: 'read' })) === 1
  })
  await hold()
  assert.equal(await statusOf(blob), 200)
  await upstream.down()
  assert.equal(await statusOf(tag), 200)
  assert.equal(await statusOf(`/v2/${app}/manifests/other`), 503)
  const text = await (await fetch(new URL('/metrics', edge.metricsUrl))).text()
  return parseMetrics(text)
}

async function spoil({ data }: TestEdge, digest: Digest): Promise<void> {
  const hex = encodedOf(digest)
  const file = await open(join(data, 'edge/blobs/sha256', hex.slice(0, 2), hex), 'r+')
  await file.write('rotten', 0)
  await file.close()
}

/** An expression, and where it stands. */
interface Expression {
  readonly at: string
  readonly text: string
}

interface Panel {
  readonly title?: string
  readonly type?: string
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number }
  readonly targets?: readonly { readonly expr: string; readonly legendFormat?: string }[]
}

interface Dashboard {
  readonly uid: string
  readonly schemaVersion: number
  readonly panels: readonly (Panel & { readonly id: number })[]
  readonly templating: { readonly list: readonly { readonly name: string; query: unknown }[] }
}

interface Alert {
  readonly alert: string
  readonly expr: string
  readonly for?: string
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
}

const readText = (path: string) => readFile(join(root, path), 'utf8')

async function readDashboard(): Promise<Dashboard> {
  return JSON.parse(await readText('deploy/grafana/edge.json')) as Dashboard
}

async function readAlerts(): Promise<readonly Alert[]> {
  const file = parse(await readText('deploy/grafana/alerts.yaml')) as {
    readonly groups: readonly { readonly rules: readonly Alert[] }[]
  }
  return file.groups.flatMap(({ rules }) => rules)
}

/** With what comes from the scraping, and from the histogram itself. */
const labelsOfScrape = ['instance', 'job', 'le']
/** What Prometheus knows by itself of whatever it scrapes. */
const metricsOfScrape = ['up']

/** What is wrong with an expression; empty when nothing is. */
function problemsOf({ at, text }: Expression, metrics: Metrics): string[] {
  const problems: string[] = []
  const used = new Set<string>(labelsOfScrape)
  const withoutStrings = text.replace(/"[^"]*"/g, '""')
  const names = [...withoutStrings.matchAll(/\b(?:outport|process|nodejs)_\w+|\bup\b/g)]
  if (names.length === 0) problems.push(`${at}: ${text} names no metric`)
  for (const [name] of names) {
    if (metricsOfScrape.includes(name)) continue
    const family = metrics.has(name) ? name : familyOf(name)
    const metric = metrics.get(family)
    if (metric === undefined) problems.push(`${at}: no metric ${name}`)
    else if ((metric.type === 'histogram') !== (family !== name))
      problems.push(`${at}: ${name} has no samples of that name`)
    for (const label of metric?.labels.keys() ?? []) used.add(label)
  }
  for (const [, name = '', matchers = ''] of text.matchAll(/\b(\w+)\{([^}]*)\}/g)) {
    const { labels } = metrics.get(name) ?? metrics.get(familyOf(name)) ?? { labels: new Map() }
    for (const [, label = '', operator, value = ''] of matchers.matchAll(/(\w+)(=~|=)"([^"]*)"/g)) {
      if (labelsOfScrape.includes(label)) continue
      const values = (labels as Seen['labels']).get(label)
      if (values === undefined) problems.push(`${at}: ${name} has no label ${label}`)
      else if (operator === '=' && !values.has(value))
        problems.push(`${at}: ${label} of ${name} is never ${value}`)
    }
  }
  const lists = [...text.matchAll(/\b(?:by|without|on|ignoring) \(([^)]*)\)/g)]
  for (const label of lists.flatMap(([, list = '']) => list.split(/,\s*/)))
    if (!used.has(label)) problems.push(`${at}: nothing there has the label ${label}`)
  return problems
}

/** The labels that a text shows, of its own expression. */
function problemsOfText(text: string, { at, text: expression }: Expression): string[] {
  return [...text.matchAll(/\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}/g)].flatMap(([, label = '']) => {
    const grouped = [...expression.matchAll(/\bby \(([^)]*)\)/g)].map(([, list = '']) => list)
    const isKept =
      grouped.length === 0 || grouped.some((list) => list.split(/,\s*/).includes(label))
    return isKept ? [] : [`${at}: ${label} is shown, and not in ${expression}`]
  })
}

describe('what is watched of an edge', () => {
  let own: Metrics
  let all: Metrics
  before(async () => {
    own = await metricsOfEdge()
    all = new Map([...parseMetrics(await createMetrics('edge').registry.metrics()), ...own])
  })

  test('is all there, with its labels', () => {
    // Else what is said below of labels says nothing.
    for (const [name, { labels }] of own) assert.ok(labels.has('program'), `${name} has no sample`)
  })

  test('on the dashboard is what an edge exposes', async () => {
    const { panels, templating } = await readDashboard()
    const problems: string[] = []
    for (const { title = '', targets = [] } of panels)
      for (const { expr, legendFormat = '' } of targets) {
        const expression = { at: title, text: expr }
        problems.push(...problemsOf(expression, all), ...problemsOfText(legendFormat, expression))
        if (!expr.includes('instance=~"$instance"')) problems.push(`${title}: of every edge`)
      }
    assert.deepEqual(problems, [])
    const variables = templating.list.map(({ name }) => name)
    assert.deepEqual(variables, ['datasource', 'instance'])
    assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length)
    const shown = JSON.stringify(panels)
    for (const name of own.keys()) assert.ok(shown.includes(name), `${name} is on no panel`)
  })

  test('by the alerts is what an edge exposes, and each says what to do', async () => {
    const alerts = await readAlerts()
    const problems = alerts.flatMap((each) => {
      const { summary = '', description = '' } = each.annotations ?? {}
      const expression = { at: each.alert, text: each.expr }
      const texts = problemsOfText(`${summary} ${description}`, expression)
      return [...problemsOf(expression, all), ...texts]
    })
    assert.deepEqual(problems, [])
    for (const { alert, annotations = {}, labels = {}, for: wait = '' } of alerts) {
      assert.match(wait, /^\d+[mh]$/, alert)
      assert.match(labels['severity'] ?? '', /^(?:critical|warning)$/, alert)
      for (const name of ['summary', 'description'])
        assert.ok(annotations[name], `${alert} ${name}`)
    }
    assert.equal(new Set(alerts.map(({ alert }) => alert)).size, alerts.length)
  })

  test('is explained in docs/edge.md, each metric with its labels and no other', async () => {
    const rows = (await readText('docs/edge.md')).matchAll(/^\| `(outport_\w+)` \| ([^|]*) \|/gm)
    const explained = [...rows].map(([, name = '', cell = '']) => [
      name,
      [...cell.matchAll(/`(\w+)`/g)].map(([, label = '']) => label).sort(),
    ])
    const exposed = [...own].map(([name, { labels }]) => [
      name,
      [...labels.keys()].filter((label) => label !== 'program' && label !== 'le').sort(),
    ])
    const byName = ([one]: unknown[], [other]: unknown[]) => (String(one) < String(other) ? -1 : 1)
    assert.deepEqual(explained.sort(byName), exposed.sort(byName))
  })
})

test('what docs/edge.md links to is there', async () => {
  const text = await readText('docs/edge.md')
  const targets = [...text.matchAll(/\]\((?!https?:|#)([^)#]+)\)/g)].map(
    ([, target = '']) => target,
  )
  assert.ok(targets.length > 0)
  for (const target of targets) await readText(join('docs', target))
})

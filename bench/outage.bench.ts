import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { digestOf, type Digest } from '../shared/oci/digest.ts'
import { blobPath, manifestPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import { startUpstream, type Upstream } from '../test/kit/upstream.ts'
import { createAsker, type Asker } from './ask.ts'
import type { Bench, BenchContext } from './bench.ts'
import { prepareEdge } from './edge.ts'
import { percentile, type Figure } from './report.ts'

const images = 300
const blobBytes = 16 * 1024
const pullsPerSecond = 300
const unknownPerSecond = 6
/** What a client waits before it gives up a held thing, and an unknown one. */
const patienceMs = { held: 10_000, unknown: 30_000 }
/** A slower load than this share of what was meant proves nothing. */
const leastLoad = 0.9
/** A tag in use is asked for behind its clients' backs from this share of its TTL on. */
const askedAheadFrom = 0.75

/** How an upstream is down: its port is closed, or it takes connections and never answers. */
const ways = ['refused', 'hanging'] as const
type Way = (typeof ways)[number]

/** Milliseconds. */
interface Course {
  readonly outageMs: number
  /** Of all tags, which were asked for just before: it ends in the outage. */
  readonly ttlMs: number
  /** From when on the time to refuse counts: that a far side hangs is known by waiting for it alone. */
  readonly refusalsFromMs: number
  /** What an edge may take to look again: it waits 10 s at most, and its last look may have hung as long. */
  readonly noticeMs: number
}

const courses: Readonly<Record<'whole' | 'short', Readonly<Record<Way, Course>>>> = {
  whole: {
    refused: { outageMs: 60_000, ttlMs: 20_000, refusalsFromMs: 0, noticeMs: 10_000 },
    hanging: { outageMs: 60_000, ttlMs: 20_000, refusalsFromMs: 15_000, noticeMs: 20_000 },
  },
  short: {
    refused: { outageMs: 10_000, ttlMs: 4000, refusalsFromMs: 0, noticeMs: 10_000 },
    hanging: { outageMs: 20_000, ttlMs: 4000, refusalsFromMs: 15_000, noticeMs: 20_000 },
  },
}

/** An upstream goes away under an edge that is in use, and comes back: who notices, and what it meets. */
export const bench: Bench = {
  name: 'outage',
  counts: true,
  async run(context) {
    const figures: Figure[] = []
    const failures: string[] = []
    for (const way of ways) {
      const course = courses[context.countsOnly ? 'short' : 'whole'][way]
      const seen = await goThrough(context, way, course)
      figures.push(...judge(way, course, seen))
      failures.push(...failuresOf(way, course, seen))
    }
    // Where only counts are asked for, times are told and not judged: they are the machine's as much as ours.
    return {
      figures: context.countsOnly ? figures.map(withoutTimeFloor) : figures,
      failures,
      rounds: '1',
    }
  },
}

interface HeldImage {
  readonly tag: string
  readonly manifest: Buffer
  readonly digest: Digest
  readonly blob: Buffer
  readonly blobDigest: Digest
}

/** One pull of a held image. */
interface PullSeen {
  readonly ms: number
  /** What was wrong of it; undefined when all of it was right. */
  readonly wrong: string | undefined
}

interface RefusalSeen {
  /** Of the outage's begin. */
  readonly atMs: number
  readonly ms: number
  readonly kind: UnknownKind
  /** 0: no answer in time. */
  readonly status: number
}

interface OutageSeen {
  /** From the outage's begin until the upstream was long back. */
  readonly pulls: readonly PullSeen[]
  readonly refusals: readonly RefusalSeen[]
  /** When the HEADs of each held tag came, in milliseconds after the upstream was back. */
  readonly heads: readonly (readonly number[])[]
  /** Requests for held manifests and blobs in that time. */
  readonly gets: number
}

const repository = 'bench/app'

async function goThrough({ folder, say }: BenchContext, way: Way, course: Course) {
  const upstream = await startUpstream()
  const entry = { tag_ttl: `${course.ttlMs}ms` }
  const edge = await prepareEdge({ folder: join(folder, way), upstream: upstream.url, entry })
  const held = createAsker(edge.origin, { deadlineMs: patienceMs.held })
  const unknown = createAsker(edge.origin, { deadlineMs: patienceMs.unknown })
  try {
    const all = Array.from({ length: images }, (_, i) => addImage(upstream, `v${i}`))
    await edge.start()
    for (const image of all) {
      const { wrong } = await pull(held, image)
      if (wrong !== undefined) throw new Error(`before the outage: ${wrong}`)
    }
    say(`${way} for ${course.outageMs / 1000} s, a TTL of ${course.ttlMs / 1000} s`)
    return await watch({ upstream, all, held, unknown }, way, course)
  } finally {
    held.close()
    unknown.close()
    await edge.stop()
    await upstream.close()
  }
}

interface OutageStand {
  readonly upstream: Upstream
  readonly all: readonly HeldImage[]
  readonly held: Asker
  readonly unknown: Asker
}

async function watch(
  { upstream, all, held, unknown }: OutageStand,
  way: Way,
  course: Course,
): Promise<OutageSeen> {
  const { outageMs } = course
  const end = await begin(upstream, way)
  const downAt = performance.now()
  const pulling = atRate(pullsPerSecond, pullingMs(course), (n) => pull(held, pick(all, n)))
  const refusing = atRate(unknownPerSecond, outageMs, (n) => askUnknown(unknown, n, downAt))
  await delay(outageMs)
  upstream.forgetRequests()
  const backAt = performance.now()
  await end()
  // Both end by their own times and deadlines.
  const [pulls, refusals] = await Promise.all([pulling, refusing])
  const after = upstream.requests.filter(({ at }) => at >= backAt)
  const heads = new Map<string, number[]>(all.map(({ tag }) => [tag, []]))
  for (const { method, reference = '', at } of after)
    if (method === 'HEAD') heads.get(reference)?.push(at - backAt)
  const names = new Set<string>(all.flatMap(({ digest, blobDigest }) => [digest, blobDigest]))
  const gets = after.filter(({ reference = '' }) => names.has(reference)).length
  return { pulls, refusals, heads: [...heads.values()], gets }
}

/** Until the edge has noticed that the upstream is back, and a TTL longer. */
function pullingMs({ outageMs, noticeMs, ttlMs }: Course): number {
  return outageMs + noticeMs + ttlMs
}

/** @returns what brings the upstream back */
async function begin(upstream: Upstream, way: Way): Promise<() => Promise<void>> {
  if (way === 'refused') {
    await upstream.down()
    return () => upstream.up()
  }
  const remove = upstream.fault({}, { stallHeaders: true })
  return () => Promise.resolve(remove())
}

function addImage(upstream: Upstream, tag: string): HeldImage {
  const blob = randomBytes(blobBytes)
  const blobDigest = upstream.addBlob(repository, blob)
  const mediaType = 'application/vnd.oci.image.manifest.v1+json'
  const layerType = 'application/vnd.oci.image.layer.v1.tar'
  const descriptor = { digest: blobDigest, size: blob.length }
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType,
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...descriptor },
      layers: [{ mediaType: layerType, ...descriptor }],
    }),
  )
  const digest = upstream.addManifest(repository, manifest, { mediaType, tag })
  return { tag, manifest, digest, blob, blobDigest }
}

const atEdge = parseRepositoryName(`origin/${repository}`)

async function pull(asker: Asker, image: HeldImage): Promise<PullSeen> {
  const startedAt = performance.now()
  const wrong = await pullPart(asker, image)
  return { ms: performance.now() - startedAt, wrong }
}

/** What a node asks for that has nothing of an image. @returns what was not right */
async function pullPart(asker: Asker, image: HeldImage): Promise<string | undefined> {
  const tag = await asker.ask(`/v2/${atEdge}/manifests/${image.tag}`, { method: 'HEAD' })
  if (tag?.status !== 200 || tag.headers['docker-content-digest'] !== image.digest)
    return `HEAD of a tag: ${tag?.status ?? 'no answer'}`
  const path = manifestPath(atEdge, { kind: 'digest', digest: image.digest })
  const manifest = await asker.ask(path)
  if (manifest?.status !== 200 || !manifest.body.equals(image.manifest))
    return `GET of a manifest: ${manifest?.status ?? 'no answer'}`
  const blob = await asker.ask(blobPath(atEdge, image.blobDigest))
  if (blob?.status !== 200 || !blob.body.equals(image.blob))
    return `GET of a blob: ${blob?.status ?? 'no answer'}`
  return undefined
}

const unknownKinds = ['tag', 'manifest', 'blob'] as const
type UnknownKind = (typeof unknownKinds)[number]

/** Asks for something that neither the edge nor anybody else has, each time another. */
async function askUnknown(asker: Asker, n: number, since: number): Promise<RefusalSeen> {
  const kind = pick(unknownKinds, n)
  const digest = digestOf(randomBytes(32))
  const startedAt = performance.now()
  const answer =
    kind === 'tag'
      ? await asker.ask(`/v2/${atEdge}/manifests/unknown-${n}`, { method: 'HEAD' })
      : await asker.ask(
          kind === 'blob'
            ? blobPath(atEdge, digest)
            : manifestPath(atEdge, { kind: 'digest', digest }),
        )
  const ms = performance.now() - startedAt
  return { atMs: startedAt - since, ms, kind, status: answer?.status ?? 0 }
}

/**
 * Begins works at a rate, however long each takes, as clients do who know nothing of each other.
 * @returns what all of them gave
 */
async function atRate<T>(
  perSecond: number,
  forMs: number,
  work: (n: number) => Promise<T>,
): Promise<T[]> {
  const startedAt = performance.now()
  const running: Promise<T>[] = []
  for (let ms = 0; ms < forMs; ms = performance.now() - startedAt) {
    while (running.length < (ms / 1000) * perSecond) running.push(work(running.length))
    await delay(5)
  }
  return Promise.all(running)
}

function pick<T>(values: readonly T[], n: number): T {
  const value = values[n % values.length]
  if (value === undefined) throw new Error('there is nothing to pick from')
  return value
}

function judge(way: Way, course: Course, seen: OutageSeen): Figure[] {
  const name = `${way} for ${course.outageMs / 1000} s`
  const { pulls, heads, gets } = seen
  const right = pulls.filter(({ wrong }) => wrong === undefined)
  const refusals = countedRefusals(course, seen)
  const firstAsks = heads.map(([first = Infinity]) => first)
  const untilDue = heads.map(
    (at) => at.filter((ms) => ms < (at[0] ?? 0) + askedAheadFrom * course.ttlMs).length,
  )
  const inTtl = heads.map((at) => at.filter((ms) => ms < course.ttlMs).length)
  const mean = inTtl.reduce((sum, count) => sum + count, 0) / inTtl.length
  return [
    {
      case: name,
      measure: 'pulls of held content served right, %',
      value: (100 * right.length) / pulls.length,
      floor: 100,
      aim: 100,
      notes: `${pulls.length} pulls, p50 ${pullMs(pulls, 0.5)}, p99 ${pullMs(pulls, 0.99)} ms${tally(
        pulls.flatMap(({ wrong }) => (wrong === undefined ? [] : [wrong])),
      )}`,
    },
    {
      case: name,
      measure: 'refusal of unknown content, p99, ms',
      value: percentile(
        refusals.map(({ ms }) => ms),
        0.99,
      ),
      floor: 50,
      aim: 50,
      most: true,
      notes: refusalNotes(course, refusals),
    },
    {
      case: name,
      measure: 'HEADs of a tag until it is due again, most',
      value: Math.max(...untilDue),
      floor: 1,
      aim: 1,
      most: true,
      notes: `in the TTL from when it was back: mean ${mean.toFixed(2)}, most ${Math.max(...inTtl)}; first asked for after ${seconds(Math.min(...firstAsks))} to ${seconds(Math.max(...firstAsks))} s; ${gets} requests for what is held`,
    },
  ]
}

function seconds(ms: number): string {
  return (ms / 1000).toFixed(1)
}

function countedRefusals({ refusalsFromMs }: Course, { refusals }: OutageSeen): RefusalSeen[] {
  return refusals.filter(({ atMs }) => atMs >= refusalsFromMs)
}

function refusalNotes({ refusalsFromMs }: Course, refusals: readonly RefusalSeen[]): string {
  const slowest = unknownKinds.map((kind) => {
    const times = refusals.filter((each) => each.kind === kind).map(({ ms }) => ms)
    return `${kind} p50 ${percentile(times, 0.5).toFixed(1)}, longest ${Math.max(...times).toFixed(0)}`
  })
  const from = refusalsFromMs === 0 ? '' : `counted from ${refusalsFromMs / 1000} s on; `
  const statuses = tally(refusals.map(({ status }) => String(status)))
  return `${from}${slowest.join('; ')}${statuses}`
}

function pullMs(pulls: readonly PullSeen[], share: number): string {
  const times = pulls.map(({ ms }) => ms)
  return percentile(times, share).toFixed(1)
}

/** How often each came, behind what else is told. */
function tally(all: readonly string[]): string {
  const counts = new Map<string, number>()
  for (const each of all) counts.set(each, (counts.get(each) ?? 0) + 1)
  return [...counts].map(([each, count]) => `; ${count} × ${each}`).join('')
}

/** What makes the figures worthless: no load, nothing refused by the right word, or an upstream that nobody went back to. */
function failuresOf(way: Way, course: Course, seen: OutageSeen): string[] {
  const meant = (pullsPerSecond * pullingMs(course)) / 1000
  const failures: string[] = []
  if (seen.pulls.length < leastLoad * meant)
    failures.push(`${way}: ${seen.pulls.length} pulls were begun, not ${meant}`)
  // What is answered when the upstream is back is answered by it.
  const inOutage = seen.refusals.filter(({ atMs, ms }) => atMs + ms < course.outageMs)
  const others = inOutage.filter(({ status }) => status !== 503)
  if (others.length > 0)
    failures.push(`${way}: ${others.length} answers for unknown content were not a 503`)
  const forgotten = seen.heads.filter((at) => at.length === 0).length
  if (forgotten > 0)
    failures.push(`${way}: ${forgotten} tags were not asked for when the upstream was back`)
  return failures
}

function withoutTimeFloor(figure: Figure): Figure {
  if (!figure.measure.endsWith(', ms')) return figure
  const { floor: _, aim: _aim, ...told } = figure
  return told
}

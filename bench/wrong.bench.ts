import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { open, readFile, rm, truncate } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { openBlobFiles } from '../edge/cache/blob-files.ts'
import { digestOf, type Digest } from '../shared/oci/digest.ts'
import { blobPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import { waitFor } from '../test/kit/clock.ts'
import { bytesOf } from '../test/kit/images.ts'
import { chooseSeed, createRandom, type Random } from '../test/kit/random.ts'
import { startUpstream, type Fault, type Upstream } from '../test/kit/upstream.ts'
import { createAsker, type Asker } from './ask.ts'
import type { Bench, BenchContext } from './bench.ts'
import { prepareEdge, type BenchEdge } from './edge.ts'
import type { Figure } from './report.ts'

const kib = 1024
const sizes = { least: 128 * kib, most: 2048 * kib }
/** Cases that run at once. */
const atOnce = 24
/** Clients of a blob while its upstream spoils it. */
const clients = 2
const deadlineMs = 30_000
/** A blob is asked for again after these waits, until it is right: a fill may be waiting for its upstream. */
const againAfterMs = [0, 50, 250, 1000, 2000, 4000, 8000]
/** A client that got so many wrong ones need not ask again. */
const enoughWrong = 3

/** What is spoiled, how often of 1,000: by the upstream, or on the edge's disk. */
const kinds = {
  flipped: { count: 150, name: 'upstream flips a bit' },
  cut: { count: 100, name: 'upstream cuts the connection' },
  short: { count: 100, name: 'upstream has a shorter blob' },
  long: { count: 150, name: 'upstream has a longer blob' },
  length: { count: 100, name: 'upstream says another length' },
  fileCut: { count: 100, name: 'held file cut' },
  fileWritten: { count: 100, name: 'held file written into' },
  fileRotten: { count: 200, name: 'held file rotten, its times as before' },
} as const
type Kind = keyof typeof kinds

/** When a file is spoiled: while the edge runs, while it is stopped, or after it was killed. */
const moments = ['running', 'stopped', 'killed'] as const
type Moment = (typeof moments)[number]

interface Corruption {
  readonly kind: Kind
  /** Of the blob's bytes. */
  readonly seed: string
  readonly size: number
  /** The byte where it happens. */
  readonly at: number
  /** Bytes that there are more, or fewer. */
  readonly by: number
  /** Whether the upstream spoils its next answer alone. */
  readonly once: boolean
  readonly moment: Moment
  /** Whether it was pulled from the cache before. */
  readonly isHot: boolean
}

/** What became of one. */
interface Outcome {
  readonly kind: Kind
  /** Whole bodies of other bytes. */
  wrong: number
  /** Clients that got an error, or a body that was cut. */
  refused: number
  wrongCached: boolean
  repaired: boolean
}

/** A thousand random corruptions between an upstream, a disk and a client: none may reach a client as a whole body. */
export const bench: Bench = {
  name: 'wrong',
  counts: true,
  async run(context) {
    const seed = chooseSeed()
    context.say(`OUTPORT_SEED=${seed} has the same corruptions again`)
    const upstream = await startUpstream()
    const edge = await prepareEdge({
      folder: join(context.folder, 'edge'),
      upstream: upstream.url,
      // Every read is proved. By its default a file that rots without a trace is found when its proof is a day old.
      cache: { proof_ttl: '0s' },
    })
    try {
      await edge.start()
      const outcomes = await spoilAll(context, { upstream, edge }, planOf(seed))
      return { figures: judge(outcomes), rounds: `1, seed ${seed}` }
    } finally {
      await edge.stop()
      await upstream.close()
    }
  },
}

/** All corruptions in a random order, made from the seed alone. */
function planOf(seed: number): Corruption[] {
  const random = createRandom(seed)
  const names = Object.keys(kinds) as Kind[]
  const drawn = names.flatMap((kind) => Array.from({ length: kinds[kind].count }, () => kind))
  return shuffled(drawn, random).map((kind, n) => {
    // Small ones as often as large ones, which the edge serves in other ways.
    const size = Math.round(sizes.least * (sizes.most / sizes.least) ** random.next())
    return {
      kind,
      seed: `${seed} ${n}`,
      size,
      at: random.between(0, size - 1),
      by: random.pick([1, random.between(2, 64 * kib), random.between(64 * kib, size - 1)]),
      once: random.next() < 0.5,
      moment: random.pick(moments),
      isHot: random.next() < 0.5,
    }
  })
}

function shuffled<T>(values: readonly T[], random: Random): T[] {
  return values
    .map((value) => ({ value, key: random.next() }))
    .sort((one, other) => one.key - other.key)
    .map(({ value }) => value)
}

interface Stand {
  readonly upstream: Upstream
  readonly edge: BenchEdge
}

/** A corruption whose blob is in place. */
interface Placed {
  readonly corruption: Corruption
  readonly digest: Digest
  readonly outcome: Outcome
}

const repository = 'bench/app'
const atEdge = parseRepositoryName(`origin/${repository}`)

async function spoilAll(
  { say }: BenchContext,
  { upstream, edge }: Stand,
  plan: readonly Corruption[],
): Promise<Outcome[]> {
  const files = await openBlobFiles(edge.cache)
  let asker = createAsker(edge.origin, { deadlineMs })
  const byUpstream = plan.filter(({ kind }) => !isOfDisk(kind))
  const onDisk = plan.filter(({ kind }) => isOfDisk(kind)).map((each) => place(upstream, each))
  const spoiled = [...onDisk]
  const onDiskWhen = (moment: Moment): Placed[] =>
    onDisk.filter(({ corruption }) => corruption.moment === moment)
  const check = async ({ digest, outcome }: Placed): Promise<void> => {
    const found = await readFile(files.pathOf(digest)).catch(() => undefined)
    if (found !== undefined && digestOf(found) !== digest) outcome.wrongCached = true
  }
  const spoil = ({ corruption, digest }: Placed): Promise<void> =>
    spoilFile(files.pathOf(digest), corruption)
  const restart = async (): Promise<void> => {
    asker.close()
    await edge.start()
    asker = createAsker(edge.origin, { deadlineMs })
  }
  try {
    say(
      `${byUpstream.length} by the upstream, ${onDiskWhen('running').length} beside a running edge`,
    )
    await eachOf(byUpstream, async (corruption) => {
      const each = place(upstream, corruption)
      spoiled.push(each)
      await pullSpoiled({ upstream, asker }, each)
      await check(each)
      await pullUntilRight(asker, each)
      upstream.remove(parseRepositoryName(repository), each.digest)
    })
    await eachOf(onDiskWhen('running'), (each) => hold(asker, files.pathOf(each.digest), each))
    // A file has its name a moment before its entry, and until then it is read as part of its fill, which has proved it.
    await waitFor('all to be held', () => edge.hasStored())
    await eachOf(onDiskWhen('running'), async (each) => {
      await spoil(each)
      await pullUntilRight(asker, each)
    })
    say(`${onDiskWhen('stopped').length} beside a stopped edge`)
    await eachOf([...onDiskWhen('stopped'), ...onDiskWhen('killed')], (each) =>
      hold(asker, files.pathOf(each.digest), each),
    )
    await edge.stop()
    await eachOf(onDiskWhen('stopped'), spoil)
    await restart()
    await eachOf(onDiskWhen('stopped'), (each) => pullUntilRight(asker, each))
    say(`${onDiskWhen('killed').length} beside a killed edge`)
    await edge.kill()
    await eachOf(onDiskWhen('killed'), spoil)
    await restart()
    // All of the disk's: what was in memory before is not now.
    await eachOf(onDisk, (each) => pullUntilRight(asker, each))
    await eachOf(spoiled, check)
    return spoiled.map(({ outcome }) => outcome)
  } finally {
    asker.close()
  }
}

function isOfDisk(kind: Kind): boolean {
  return kind.startsWith('file')
}

function place(upstream: Upstream, corruption: Corruption): Placed {
  const { kind, seed, size } = corruption
  const digest = upstream.addBlob(repository, bytesOf(seed, size))
  const outcome = { kind, wrong: 0, refused: 0, wrongCached: false, repaired: false }
  return { corruption, digest, outcome }
}

async function eachOf<T>(all: readonly T[], work: (each: T) => Promise<void>): Promise<void> {
  const left = all.values()
  const workOn = async (): Promise<void> => {
    for (const each of left) await work(each)
  }
  await Promise.all(Array.from({ length: atOnce }, workOn))
}

/** Has it in the cache. @throws Error when it is not to be had while all is well */
async function hold(asker: Asker, path: string, each: Placed): Promise<void> {
  const mustPull = async (): Promise<void> => {
    if ((await pull(asker, each)) !== 'right') throw new Error(`${each.digest} is not to be had`)
  }
  await mustPull()
  // A client has its last byte when the blob is proved, and its file has its name a moment later.
  await waitFor(`the file of ${each.digest}`, () => existsSync(path))
  if (each.corruption.isHot) await mustPull()
}

/** Several clients ask at once, while the upstream spoils what it gives. */
async function pullSpoiled(
  { upstream, asker }: { readonly upstream: Upstream; readonly asker: Asker },
  each: Placed,
): Promise<void> {
  const rule = { digest: each.digest, ...(each.corruption.once && { times: 1 }) }
  const heal = upstream.fault(rule, faultOf(each.corruption))
  await Promise.all(Array.from({ length: clients }, () => pull(asker, each)))
  heal()
}

function faultOf({ kind, at, by }: Corruption): Fault {
  switch (kind) {
    case 'flipped':
      return { flipBit: at }
    case 'cut':
      return { cutAt: at }
    case 'short':
      return { sizeOff: -by }
    case 'long':
      return { sizeOff: by }
    case 'length':
      return { lengthOff: at % 2 === 0 ? by : -by }
    default:
      throw new Error(`${kind} is no fault of an upstream`)
  }
}

async function spoilFile(path: string, { kind, at }: Corruption): Promise<void> {
  if (kind === 'fileCut') return truncate(path, at)
  const times = `${path}.times`
  // A disk that forgets does not say when; Node sets no times as fine as those that it reads.
  if (kind === 'fileRotten') copyTimes(path, times)
  const file = await open(path, 'r+')
  try {
    const byte = Buffer.alloc(1)
    await file.read(byte, 0, 1, at)
    byte[0] = (byte[0] ?? 0) ^ (1 << (at % 8))
    await file.write(byte, 0, 1, at)
  } finally {
    await file.close()
  }
  if (kind !== 'fileRotten') return
  copyTimes(times, path)
  await rm(times)
}

function copyTimes(from: string, to: string): void {
  const { status } = spawnSync('touch', ['-r', from, to], { stdio: 'inherit' })
  if (status !== 0) throw new Error(`touch could not give ${to} the times of ${from}`)
}

/** Asks again and again, as clients do, until the blob is right or enough wrong ones came. */
async function pullUntilRight(asker: Asker, each: Placed): Promise<void> {
  const { outcome } = each
  const before = outcome.wrong
  outcome.repaired = false
  for (const ms of againAfterMs) {
    await delay(ms)
    outcome.repaired = (await pull(asker, each)) === 'right'
    if (outcome.repaired || outcome.wrong - before >= enoughWrong) return
  }
}

/** @returns what a client got: `refused` also where the body was cut */
async function pull(
  asker: Asker,
  { digest, outcome }: Placed,
): Promise<'right' | 'wrong' | 'refused'> {
  const answer = await asker.ask(blobPath(atEdge, digest))
  if (answer?.status !== 200) {
    outcome.refused++
    return 'refused'
  }
  if (digestOf(answer.body) === digest) return 'right'
  outcome.wrong++
  return 'wrong'
}

function judge(outcomes: readonly Outcome[]): Figure[] {
  return (Object.keys(kinds) as Kind[]).flatMap((kind) => {
    const of = outcomes.filter((outcome) => outcome.kind === kind)
    const sum = (figure: (outcome: Outcome) => number): number =>
      of.reduce((all, outcome) => all + figure(outcome), 0)
    const { name } = kinds[kind]
    const none = { floor: 0, aim: 0, most: true }
    return [
      {
        case: name,
        measure: 'whole wrong bodies',
        value: sum(({ wrong }) => wrong),
        ...none,
        notes: `${of.length} times; ${sum(({ refused }) => refused)} answers refused or cut${kind === 'fileRotten' ? '; cache.proof_ttl 0s' : ''}`,
      },
      {
        case: name,
        measure: 'wrong blobs cached',
        value: sum(({ wrongCached }) => Number(wrongCached)),
        ...none,
      },
      {
        case: name,
        measure: 'repaired, %',
        value: (100 * sum(({ repaired }) => Number(repaired))) / of.length,
        floor: 100,
        aim: 100,
      },
    ]
  })
}

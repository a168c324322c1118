import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { blobPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import { waitFor } from '../test/kit/clock.ts'
import { chooseSeed, createRandom, type Random } from '../test/kit/random.ts'
import { startUpstream, type Upstream } from '../test/kit/upstream.ts'
import type { Bench } from './bench.ts'
import {
  addCold,
  againFigure,
  coldBytes,
  errorFigure,
  removeCold,
  repository,
  sentAgain,
  type ColdStand,
} from './cold-blobs.ts'
import { cutAll, cutEach, cutMirrors, cuts } from './cuts.ts'
import { prepareEdge } from './edge.ts'
import { startOutport } from './outport.ts'
import { downloadPart } from './part-client.ts'
import { checkBytes, pull, segmentBytes } from './pulls.ts'
import { median, type Figure } from './report.ts'
import { startSlowClient } from './slow-client.ts'

const mib = 2 ** 20
/** Of a blob beside whose readers time counts: four seconds. */
const slowPace = 8 * mib
const slowBytesPerSecond = 64 * 1024
/** Where times are judged: the fast client's. */
const timedRounds = 3
const abortingClients = 50
/** Between the starts of two of them. */
const stepMs = 10
const kills = 3
const killedBytes = 64 * mib
const killedPace = 48 * mib

const onceOnly = { measure: "upstream bytes ÷ the blob's", floor: 1, aim: 1, most: true }

/** What can go wrong on the way of a cold blob: who notices, and what is fetched again. */
export const bench: Bench = {
  name: 'faults',
  counts: true,
  async run({ folder, countsOnly, say }) {
    const seed = chooseSeed()
    say(`OUTPORT_SEED=${seed}`)
    const random = createRandom(seed)
    // The one of most cases, and those that are cut one by one.
    const common = await startUpstream()
    const upstreams = [common]
    try {
      while (upstreams.length <= cuts) upstreams.push(await startUpstream())
      const outport = await startOutport({
        folder: join(folder, 'outport'),
        edge: {
          upstreams: [
            ...upstreams.map(({ url }, i) => ({ id: idOf(i), url: url.origin })),
            ...upstreams.slice(1).map((_, i) => {
              return { id: mirroredIdOf(i + 1), url: common.url.origin, mirrors: [idOf(i + 1)] }
            }),
          ],
        },
      })
      const figures: Figure[] = []
      try {
        const { origin: edge } = outport.edge
        const stand = { upstream: common, id: idOf(0), edge }
        const others = upstreams.map((upstream, i) => ({ upstream, id: idOf(i), edge })).slice(1)
        await pullWarm(stand)
        say(`${cuts} upstreams, each cut and away`)
        figures.push(...(await cutEach(others, random, seed)))
        say(`${cuts} mirrors, each cut and gone`)
        const mirrored = others.map((other, i) => {
          return { ...other, id: mirroredIdOf(i + 1), second: common }
        })
        figures.push(...(await cutMirrors(mirrored, random)))
        say(`${cuts} blobs of one upstream that is cut and away`)
        figures.push(...(await cutAll(stand, random)))
        say('one slow client and a fast one')
        figures.push(...(await pullBesideSlow(stand, countsOnly)))
        say(`${abortingClients} clients that all go away`)
        figures.push(...(await abortAll(stand, random)))
      } finally {
        await outport.stop()
      }
      say(`${kills} kills of the edge`)
      figures.push(...(await killEach(join(folder, 'edge'), common, random)))
      return { figures, rounds: countsOnly ? '1' : `1, and ${timedRounds} where time counts` }
    } finally {
      await Promise.all(upstreams.map((upstream) => upstream.close()))
    }
  },
}

function idOf(i: number): string {
  return `origin-${i}`
}

/** Its own place is that of all others; who is asked before has this number. */
function mirroredIdOf(i: number): string {
  return `mirrored-${i}`
}

/** Code that is new is slow. */
async function pullWarm(stand: ColdStand): Promise<void> {
  for (let i = 0; i < 3; i++) {
    const blob = addCold(stand)
    await pull.plain({ origin: stand.edge, ...blob, hashes: true })
    removeCold(stand, blob)
  }
}

/** The slow one comes first and leads the fill; the time counts from then on. */
async function pullBesideSlow(stand: ColdStand, countsOnly: boolean): Promise<Figure[]> {
  const { upstream, edge: origin } = stand
  const shares: number[] = []
  const sent: number[] = []
  const slowMib: string[] = []
  let slowCut = 0
  for (let round = 0; round < (countsOnly ? 1 : timedRounds); round++) {
    const blob = addCold(stand)
    const { expected, path, digest } = blob
    // Counts do not need the time that a ratio of times needs.
    upstream.setPace(countsOnly ? 2 * slowPace : slowPace)
    const direct = await downloadPart({
      origin: upstream.url,
      path: blobPath(parseRepositoryName(repository), digest),
      length: coldBytes,
      hashes: true,
    })
    checkBytes(direct, expected.whole)
    upstream.forgetRequests()
    const slow = await startSlowClient(origin, path, slowBytesPerSecond)
    try {
      const [fast] = await pull.plain({ origin, path, expected, hashes: true })
      if (fast === undefined) throw new Error('nothing was pulled')
      shares.push((fast.doneAt - slow.askedAt) / (direct.doneAt - direct.askedAt))
    } finally {
      if (slow.isCut) slowCut++
      slowMib.push((slow.bytes / mib).toFixed(2))
      slow.end()
    }
    sent.push(upstream.delivered(digest).bytes / coldBytes)
    removeCold(stand, blob)
  }
  const name = '64 KiB/s beside a fast client'
  // Where only counts are asked for, times are told and not judged: they are the machine's as much as ours.
  const floor = countsOnly ? {} : { floor: 1.05 }
  return [
    {
      case: name,
      measure: 'fast one ÷ a direct fetch',
      value: median(shares),
      ...floor,
      aim: 1.03,
      most: true,
    },
    { case: name, ...onceOnly, value: Math.max(...sent) },
    {
      case: name,
      measure: 'slow clients cut',
      value: slowCut,
      floor: 0,
      aim: 0,
      most: true,
      notes: `they had ${slowMib.join(', ')} MiB by then`,
    },
  ]
}

/** All go before half of the blob is here; with the upstream away it must be all there. */
async function abortAll(stand: ColdStand, random: Random): Promise<Figure[]> {
  const { upstream, edge: origin } = stand
  const blob = addCold(stand)
  const { digest, expected, path } = blob
  upstream.setPace(slowPace)
  await Promise.all(
    Array.from({ length: abortingClients }, async (_, i) => {
      const length = random.between(1, segmentBytes)
      // Every other one as containerd asks for its chunks.
      const offset = i % 2 === 0 ? {} : { offset: random.between(0, 1) * segmentBytes }
      await delay(i * stepMs)
      await downloadPart({ origin, path, ...offset, length, hashes: false })
    }),
  )
  const delivered = (): number => upstream.delivered(digest).bytes
  if (delivered() >= coldBytes) throw new Error('the fill was over before all clients had gone')
  await waitFor('the fill to go on to its end', () => delivered() >= coldBytes, {
    timeoutMs: 20_000,
  }).catch(() => undefined)
  const value = delivered() / coldBytes
  await upstream.down()
  const held = await Promise.allSettled([pull.plain({ origin, path, expected, hashes: true })])
  await upstream.up()
  removeCold(stand, blob)
  const name = `all ${abortingClients} clients abort`
  return [
    { case: name, ...onceOnly, value },
    errorFigure(name, held, 'of one that comes with the upstream away'),
  ]
}

/** Each kill meets a blob of its own, somewhere on its way. */
async function killEach(folder: string, upstream: Upstream, random: Random): Promise<Figure[]> {
  const edge = await prepareEdge({ folder, upstream: upstream.url })
  const stand = { upstream, id: 'origin', edge: edge.origin }
  const sentMib: number[] = []
  const after: PromiseSettledResult<unknown>[] = []
  const offsets: number[] = []
  upstream.setPace(killedPace)
  try {
    await edge.start()
    for (let kill = 0; kill < kills; kill++) {
      const blob = addCold(stand, killedBytes)
      const wanted = { origin: edge.origin, ...blob, hashes: true }
      const offset = random.between(1, killedBytes - 8 * mib)
      offsets.push(offset)
      const cut = Promise.allSettled([pull.plain(wanted)])
      await waitFor('the fill', () => upstream.delivered(blob.digest).bytes >= offset, {
        timeoutMs: 60_000,
      })
      await edge.kill()
      const [first] = await cut
      if (first?.status === 'fulfilled') throw new Error('the pull was over before the kill')
      await edge.start()
      after.push(...(await Promise.allSettled([pull.plain(wanted)])))
      sentMib.push(sentAgain(stand, blob))
      removeCold(stand, blob)
    }
  } finally {
    await edge.stop()
  }
  const name = `${kills} kills of the edge in mid-fill`
  const told = offsets.map((offset) => (offset / mib).toFixed(1)).join(' ')
  return [
    againFigure(
      {
        case: name,
        measure: 'MiB sent again by a kill',
        // A segment, and what came since the progress was last written down.
        floor: (2 * segmentBytes) / mib,
        aim: segmentBytes / mib,
        notes: `killed at MiB ${told}`,
      },
      sentMib,
    ),
    errorFigure(name, after, 'of the next pulls'),
  ]
}

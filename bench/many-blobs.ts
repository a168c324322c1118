import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { digestOf, type Digest } from '../shared/oci/digest.ts'
import { blobPath } from '../shared/oci/paths.ts'
import { parseRepositoryName } from '../shared/oci/reference.ts'
import { createRandom } from '../test/kit/random.ts'
import { startUpstream, type Upstream } from '../test/kit/upstream.ts'
import { createAsker } from './ask.ts'
import { treeCpuSeconds } from './cpu.ts'
import type { BenchContext } from './bench.ts'
import { prepareEdge, type BenchEdge } from './edge.ts'
import { holdMany } from './held-blobs.ts'
import { median, type BenchResult } from './report.ts'

const count = 100_000
/** What is asked for before each kill, so that there is something that it interrupts. */
const before = { held: 200, fetched: 20 }
const fetchedBytes = 256 * 1024
const deadlineMs = 10_000
const seed = 100_000

const repository = 'bench/app'
const atEdge = parseRepositoryName(`origin/${repository}`)

/** An edge that holds many blobs, is killed in its work, and started again. */
export async function measureRestarts({ folder, rounds, say }: BenchContext): Promise<BenchResult> {
  const upstream = await startUpstream()
  const edge = await prepareEdge({ folder: join(folder, 'blobs'), upstream: upstream.url })
  try {
    // For its folders, and for what it keeps of its compiled code.
    await edge.start()
    const emptyCpu = treeCpuSeconds(edge.pid())
    await edge.stop()
    say(`putting ${count} blobs in place`)
    const cache = { folder: edge.cache, repository: parseRepositoryName(repository) }
    const digests = await holdMany(cache, count)
    await edge.start()
    const random = createRandom(seed)
    const restarts: number[] = []
    const firstPulls: number[] = []
    const cpuSeconds: number[] = []
    for (let round = 0; round <= rounds; round++) {
      await use(
        { upstream, edge },
        Array.from({ length: before.held }, () => random.pick(digests)),
      )
      const killedAt = performance.now()
      await edge.kill()
      await edge.start()
      const readyAt = performance.now()
      const cpu = treeCpuSeconds(edge.pid())
      await use({ upstream, edge }, [random.pick(digests)])
      // The first one warms up.
      if (round === 0) continue
      restarts.push(readyAt - killedAt)
      cpuSeconds.push(cpu)
      firstPulls.push(performance.now() - readyAt)
    }
    return {
      figures: [
        {
          case: `${count} blobs held`,
          measure: 'kill -9 → ready, s',
          value: median(restarts) / 1000,
          lowest: Math.min(...restarts) / 1000,
          highest: Math.max(...restarts) / 1000,
          floor: 2,
          aim: 1,
          most: true,
          notes: `CPU ${median(cpuSeconds).toFixed(2)} s, of an empty one ${emptyCpu.toFixed(2)} s; then ${before.fetched} fetches and a pull within ${median(firstPulls).toFixed(0)} ms`,
        },
      ],
    }
  } finally {
    await edge.stop()
    await upstream.close()
  }
}

/** Pulls held blobs, and some that nobody has seen. @throws Error when one is not right */
async function use(
  { upstream, edge }: { readonly upstream: Upstream; readonly edge: BenchEdge },
  held: readonly Digest[],
): Promise<void> {
  const asker = createAsker(edge.origin, { deadlineMs })
  const pull = async (digest: Digest): Promise<void> => {
    const answer = await asker.ask(blobPath(atEdge, digest))
    if (answer?.status !== 200 || digestOf(answer.body) !== digest)
      throw new Error(`${digest}: ${answer?.status ?? 'no answer'}`)
  }
  try {
    const fresh = Array.from({ length: before.fetched }, () =>
      upstream.addBlob(repository, randomBytes(fetchedBytes)),
    )
    await Promise.all([...held, ...fresh].map(pull))
    for (const digest of fresh) upstream.remove(parseRepositoryName(repository), digest)
  } finally {
    asker.close()
  }
}

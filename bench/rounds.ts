import { treeCpuSeconds } from './cpu.ts'
import { median } from './report.ts'

/** One of the things that are compared: what to do in a round, and whose CPU it costs. */
export interface Side {
  readonly name: string
  /** Roots of the process trees that do the work. */
  readonly pids: readonly number[]
  /** Before each round, not counted. */
  prepare?(): Promise<void>
  /** Does a round's work. */
  run(): Promise<Work>
}

export interface Work {
  /** What was done, in the unit of the comparison: bytes or requests. */
  readonly amount: number
  readonly seconds: number
  /** CPU seconds of the load process, when there is one. */
  readonly clientCpuSeconds?: number
}

/** What a side used in one round. */
export interface Sample {
  /** CPU seconds of the server for one unit of work. */
  readonly cost: number
  readonly amountPerSecond: number
  /** Share of its core that each end used; the client near 1: it is the bottleneck. */
  readonly serverBusy: number
  readonly clientBusy: number
}

/** A sample of each side, by its name. */
export type Round = ReadonlyMap<string, Sample>

/**
 * Lets the sides work in turn, so that all meet the same noise; each round begins with another side. The
 * first round warms up and does not count.
 */
export async function interleave(sides: readonly Side[], rounds: number): Promise<Round[]> {
  const samples: Round[] = []
  for (let round = 0; round <= rounds; round++) {
    const turn = round % sides.length
    const order = [...sides.slice(turn), ...sides.slice(0, turn)]
    const entries: [string, Sample][] = []
    for (const side of order) entries.push([side.name, await measure(side)])
    if (round > 0) samples.push(new Map(entries))
  }
  return samples
}

async function measure(side: Side): Promise<Sample> {
  const used = (): number => side.pids.reduce((sum, pid) => sum + treeCpuSeconds(pid), 0)
  await side.prepare?.()
  const before = used()
  const { amount, seconds, clientCpuSeconds = 0 } = await side.run()
  const cpuSeconds = used() - before
  return {
    cost: cpuSeconds / amount,
    amountPerSecond: amount / seconds,
    serverBusy: cpuSeconds / seconds,
    clientBusy: clientCpuSeconds / seconds,
  }
}

/** The median of one figure of one side. */
export function medianOf(
  rounds: readonly Round[],
  side: string,
  figure: (sample: Sample) => number,
): number {
  return median(rounds.map((round) => figure(sampleOf(round, side))))
}

/** The peer's cost divided by ours, round by round: 2 is half of its CPU. */
export function costRatios(rounds: readonly Round[], ours: string, peer: string): number[] {
  return rounds.map((round) => sampleOf(round, peer).cost / sampleOf(round, ours).cost)
}

function sampleOf(round: Round, side: string): Sample {
  const sample = round.get(side)
  if (sample === undefined) throw new Error(`no sample of ${side}`)
  return sample
}

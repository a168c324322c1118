import type { BenchResult } from './report.ts'

/** What every bench is given. */
export interface BenchContext {
  /** An empty folder of its own, removed afterwards. */
  readonly folder: string
  /** Rounds that count, besides the one that warms up. */
  readonly rounds: number
  /** Only what is counted rather than timed, where a bench has both. */
  readonly countsOnly: boolean
  /** A file with a trace of real requests, for the bench that replays one. */
  readonly trace?: string | undefined
  /** Tells the reader that it goes on. */
  readonly say: (line: string) => void
}

export interface Bench {
  readonly name: string
  /** Whether its result is a count, the same on every machine. */
  readonly counts: boolean
  run(context: BenchContext): Promise<BenchResult>
}

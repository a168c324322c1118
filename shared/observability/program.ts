import type { Logger } from './log.ts'

/** What a program is started with. */
export interface StartDeps {
  readonly log: Logger
  /** false leaves out the metrics of the process itself, for several programs in one process. */
  readonly processMetrics?: boolean
  /** Aborted when the start is to be broken off: it ends what it began, then throws the signal's reason. */
  readonly signal?: AbortSignal
}

/** A started program. */
export interface Running {
  /** Where clients come in: the listeners' names and URLs, in the order of the configuration. */
  readonly urls: Readonly<Record<string, string>>
  /** The URL of the operator's listener. */
  readonly metrics: string
  /** Stops in order: running transfers may go on for `deadlineMs`. Called again, it cuts what still runs. */
  stop(deadlineMs: number): Promise<void>
}

import type { Logger } from '../../shared/observability/log.ts'
import type { LogHead } from '../../shared/replication/chain.ts'
import type { Deed } from '../store/audit.ts'
import type { EpochOptions, LogBehind, LogMarks, LogState } from '../store/log-mark.ts'

/** Whether the log is all that it ever was. While it is not, edges are told nothing of it. */
export interface HighWater {
  /** What shows that the database is older than it was; undefined: nothing does. */
  behind(): LogBehind | undefined
  /** Where the log is now. */
  state(): Promise<LogState>
  /** Somebody is proved to have had the log up to here; the answer is the new `behind`. */
  shown(place: LogHead, by: string): Promise<LogBehind | undefined>
  /** Looks again now, since something seems to be wrong. */
  lookAgain(): void
  /**
   * An administrator has the log go on in a new epoch.
   * @param announced called before edges are let in again: the root has said so
   * @throws ApiError CONFLICT where nothing is wrong, without `force`, and what an offline root is refused for
   */
  accept(options: EpochOptions, deed: Deed, announced: () => Promise<void>): Promise<LogState>
  /** The epoch that `accept` begins. */
  nextEpoch(): Promise<number>
  /** Calls back when the log is found to be behind, or goes on. */
  onChange(listener: () => void): void
  stop(): Promise<void>
}

export interface HighWaterOptions {
  readonly marks: LogMarks
  readonly log: Logger
  /** How often the mark is written anew, where the log has gone on. */
  readonly everyMs: number
  readonly now: () => Date
}

/**
 * Compares the log with its high-water mark, before anything is numbered and then for as long as it runs.
 * @throws when the mark, or the log, cannot be read: what is not known to be whole is not served
 */
export async function startHighWater({
  marks,
  log,
  everyMs,
  now,
}: HighWaterOptions): Promise<HighWater> {
  const listeners: (() => void)[] = []
  let behind: LogBehind | undefined
  let failing = false

  const take = (state: LogState): LogBehind | undefined => {
    const before = behind
    behind = state.behind
    if (behind !== undefined && before === undefined) {
      const { epoch, seq, shownBy } = behind
      log.error(
        { epoch: state.epoch, seq: state.seq, was: { epoch, seq }, shownBy },
        "the database is older than it was: edges are told nothing, and nothing is removed, until 'outport keys accept-epoch' has the log go on; see docs/keys.md",
      )
    }
    if (behind === undefined && before !== undefined)
      log.info({ epoch: state.epoch }, 'the log goes on in a new epoch')
    if ((behind === undefined) !== (before === undefined))
      for (const listener of listeners) listener()
    return behind
  }
  take(await marks.check(now()))

  let running: Promise<void> | undefined
  const check = async (): Promise<void> => {
    try {
      take(await marks.check(now()))
      failing = false
    } catch (err) {
      if (!failing) log.error({ err }, 'the log could not be compared with its high-water mark')
      failing = true
    }
  }
  const lookAgain = (): void => {
    running ??= check().finally(() => {
      running = undefined
    })
  }
  const timer = setInterval(lookAgain, everyMs).unref()
  return {
    behind: () => behind,
    state: () => marks.state(),
    shown: async (place, by) => take(await marks.shown(place, by, now())),
    lookAgain,
    nextEpoch: () => marks.nextEpoch(),
    async accept(options, deed, announced) {
      const state = await marks.accept(options, deed)
      await announced()
      take(state)
      return state
    },
    onChange: (listener) => void listeners.push(listener),
    async stop() {
      clearInterval(timer)
      await running
      // What was numbered since the last look.
      await check()
    },
  }
}

import type { Logger } from '../../shared/observability/log.ts'
import { createBell } from '../events/bell.ts'
import type { Follower } from '../events/follower.ts'
import type { PlannerOf } from '../store/rule-planner.ts'
import type { Selections } from '../store/selections.ts'
import type { ExecutionService } from './executions.ts'
import type { PreheatService } from './preheats.ts'

/** Keeps what rules select up to the log, for as long as it runs. */
export interface RuleFollower {
  /** Finishes the batch that is under way. */
  stop(): Promise<void>
}

export interface RuleFollowerOptions {
  readonly selections: Pick<Selections, 'catchUp'>
  readonly executions: Pick<ExecutionService, 'place' | 'settle' | 'sendLost'>
  readonly preheats: Pick<PreheatService, 'settle'>
  /** Tells that the log has grown. */
  readonly follower: Pick<Follower, 'onChange'>
  /** Called when facts were written: they need not wait to be numbered. */
  readonly onFacts: () => void
  /** Called when blobs are to be listed piece by piece for what a rule selects. */
  readonly onListsWanted: () => void
  readonly plannerOf: PlannerOf
  readonly log: Logger
  /** Epoch ms. */
  readonly now: () => number
}

/** Without a word from the log. */
const pollMs = 1000
/** How often executions that run are looked at, for those that have ended. */
const settleMs = 10_000

/** Starts following; every primary does, and the cursor's lock chooses. `main.ts` stops it before it closes the database. */
export function startRuleFollower(options: RuleFollowerOptions): RuleFollower {
  const { selections, executions, preheats, follower, plannerOf, log, now } = options
  const { onFacts, onListsWanted } = options
  const bell = createBell()
  let stopped = false
  let failing = false
  let settledAt = -Infinity
  follower.onChange(bell.ring)

  const catchUp = async () => {
    let more = true
    while (more && !stopped) {
      const caughtUp = await selections.catchUp(plannerOf, new Date(now()))
      more = caughtUp.more
      onFacts()
      if (caughtUp.wantsLists) onListsWanted()
    }
  }

  const settleWhenDue = async () => {
    const time = now()
    if (stopped || time - settledAt < settleMs) return
    settledAt = time
    await executions.settle()
    await executions.sendLost()
  }

  const run = async () => {
    while (!stopped) {
      try {
        await catchUp()
        await executions.place()
        await settleWhenDue()
        await preheats.settle()
        if (failing) log.info('replication rules follow the log again')
        failing = false
      } catch (err) {
        // Once, not at every poll of an outage.
        if (!failing && !stopped) {
          log.error({ err }, 'replication rules cannot follow the log; they will catch up')
        }
        failing = true
      }
      if (!stopped) await bell.sleep(pollMs)
    }
  }
  const running = run()
  return {
    async stop() {
      stopped = true
      bell.ring()
      await running
    },
  }
}

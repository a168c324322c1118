import type { Logger } from '../../shared/observability/log.ts'
import type { LogHead } from '../../shared/replication/chain.ts'
import type { Envelope } from '../../shared/trust/statement.ts'
import type { Events } from '../store/events.ts'
import { createBell } from './bell.ts'

/** Numbers the outbox into the log for as long as it runs. Every primary has one; the head's lock chooses. */
export interface Relay {
  /** Call after a commit: the event need not wait for the next poll. */
  wake(): void
  /** Finishes the batch that is under way. */
  stop(): Promise<void>
}

export interface RelayOptions {
  readonly events: Pick<Events, 'number' | 'waiting' | 'trim'>
  /** Signs where the log ends, by a log key. */
  readonly sign: (head: LogHead) => Envelope
  /**
   * Told that nothing may be numbered, each time that something waits for it.
   * @param known how far the log is known to have been
   */
  readonly onHeld?: (known: LogHead | undefined) => void
  readonly log: Logger
  readonly pollMs: number
  /** Events older than this many milliseconds are removed. */
  readonly retainMs: number
  readonly now: () => Date
}

const trimEveryMs = 60_000

/** Starts numbering; `main.ts` stops it before it closes the database. */
export function startRelay({
  events,
  sign,
  onHeld,
  log,
  pollMs,
  retainMs,
  now,
}: RelayOptions): Relay {
  const bell = createBell()
  let stopped = false
  let failing = false
  let trimmedAt = -Infinity
  /** What this primary numbered last: a database that has less was put in its place. */
  let known: LogHead | undefined

  const trimWhenDue = async () => {
    const time = now().getTime()
    if (time - trimmedAt < trimEveryMs) return
    trimmedAt = time
    await events.trim(new Date(time - retainMs))
  }

  const numberAll = async () => {
    let full = await events.waiting()
    while (full && !stopped) {
      let next: LogHead | undefined
      const signNext = (head: LogHead): Envelope => {
        next = head
        return sign(head)
      }
      const numbered = await events.number(signNext, known)
      if (numbered.held === true) onHeld?.(known)
      known = next ?? known
      full = numbered.full
    }
    await trimWhenDue()
  }

  const run = async () => {
    while (!stopped) {
      try {
        await numberAll()
        if (failing) log.info('events are numbered again')
        failing = false
      } catch (err) {
        // Once, not at every poll of an outage.
        if (!failing) log.error({ err }, 'events cannot be numbered; they wait in the outbox')
        failing = true
      }
      if (!stopped) await bell.sleep(pollMs)
    }
  }
  const running = run()
  return {
    wake: bell.ring,
    async stop() {
      stopped = true
      bell.ring()
      await running
    },
  }
}

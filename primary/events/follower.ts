import type { Logger } from '../../shared/observability/log.ts'
import type { Events, LogPosition } from '../store/events.ts'
import { createBell } from './bell.ts'
import { subjectsOf, type Subject } from './subjects.ts'

/** Reads the log as it grows and tells what changed. */
export interface Follower {
  /** Whether everything that was committed `maxStaleMs` ago has been told; while it has not, caches may not be believed. */
  isCurrent(): boolean
  /** Calls back with what changed, here or at another primary; `undefined`: anything may have. */
  onChange(listener: (subjects: readonly Subject[] | undefined) => void): void
  /** Tells of a change that this process has just committed, before its event comes back by the log. */
  invalidate(subjects: readonly Subject[]): void
  stop(): Promise<void>
}

export interface FollowerOptions {
  readonly events: Pick<Events, 'position' | 'readAfter'>
  readonly log: Logger
  readonly pollMs: number
  readonly maxStaleMs: number
  /** Milliseconds of a clock that never jumps. */
  readonly now: () => number
  /** Calls back when a head is announced; polling does not depend on it. Returns how to stop. */
  readonly listen?: (wake: () => void) => Promise<() => Promise<void>>
}

/** Starts at the log's present end: caches are empty then. `main.ts` stops it before it closes the database. */
export async function startFollower(options: FollowerOptions): Promise<Follower> {
  const { events, log, pollMs, maxStaleMs, now } = options
  const listeners: ((subjects: readonly Subject[] | undefined) => void)[] = []
  const bell = createBell()
  let stopped = false
  let failing = false
  const startedAt = now()
  const freshness = createFreshness(startedAt)
  let place = await events.position()
  freshness.saw(place, startedAt)

  const tell = (subjects: readonly Subject[] | undefined) => {
    for (const listener of listeners) listener(subjects)
  }

  const readTo = async (head: LogPosition) => {
    if (head.epoch !== place.epoch || head.seq < place.seq) {
      tell(undefined)
      place = head
    }
    while (place.seq < head.seq) {
      const batch = await events.readAfter(place.seq)
      const seq = batch.at(-1)?.seq ?? head.seq
      // Whatever is missing was trimmed before we read it.
      const whole = seq - place.seq === batch.length
      tell(whole ? batch.flatMap(({ body }) => subjectsOf(body.fact)) : undefined)
      place = { ...head, seq }
    }
  }

  const run = async () => {
    while (!stopped) {
      try {
        const askedAt = now()
        const head = await events.position()
        await readTo(head)
        freshness.saw(head, askedAt)
        if (failing) log.info('the event log is read again')
        failing = false
      } catch (err) {
        // Once, not at every poll of an outage.
        if (!failing && !stopped) {
          log.warn({ err }, 'the event log cannot be read: caches are passed by')
        }
        failing = true
      }
      if (!stopped) await bell.sleep(pollMs)
    }
  }
  const stopListening = await options.listen?.(bell.ring)
  const running = run()
  return {
    isCurrent: () => now() - freshness.currentAt() <= maxStaleMs,
    onChange: (listener) => void listeners.push(listener),
    invalidate: tell,
    async stop() {
      stopped = true
      bell.ring()
      await running
      await stopListening?.()
    },
  }
}

/**
 * When all that was committed had been told. Events that nobody numbers (a primary that is frozen while it holds
 * the head, or no relay at all) are not read by reading the log: a look counts once what it saw waiting is gone.
 */
function createFreshness(startedAt: number) {
  let currentAt = startedAt
  let look: { readonly at: number; readonly newest: number } | undefined
  return {
    currentAt: () => currentAt,
    /** Call with a position when the log has been read that far. */
    saw({ waiting }: LogPosition, at: number) {
      if (waiting === undefined) {
        currentAt = at
        look = undefined
        return
      }
      if (look !== undefined && waiting.oldest <= look.newest) return
      if (look !== undefined) currentAt = look.at
      look = { at, newest: waiting.newest }
    },
  }
}

/** How the end of a program is asked for, once and perhaps again in earnest. */
export interface StopRequest {
  /** Resolves when a stop is asked for, with the longest that running transfers may go on: never beyond the configured time. */
  readonly asked: Promise<{ readonly longestMs: number }>
  /** Aborted at the same time. */
  readonly signal: AbortSignal
  /** Resolves when the stop itself must not be waited for any longer. */
  readonly forced: Promise<void>
  ask(longestMs?: number): void
  force(): void
}

/** A request that nobody has made yet. */
export function createStopRequest(): StopRequest {
  const asked = Promise.withResolvers<{ readonly longestMs: number }>()
  const forced = Promise.withResolvers<void>()
  const stopped = new AbortController()
  const ask = (longestMs = Infinity) => {
    asked.resolve({ longestMs })
    stopped.abort()
  }
  return {
    asked: asked.promise,
    signal: stopped.signal,
    forced: forced.promise,
    ask,
    force: () => {
      ask(0)
      forced.resolve()
    },
  }
}

/** Behind Ctrl-C a person waits, who can press it again; a service manager has a deadline of its own. */
const longestForPersonMs = 5_000

/**
 * One press of Ctrl-C can arrive several times: from the terminal, passed on by npm, and by a launcher. What
 * comes within this time is the same press.
 */
const samePressMs = 500

/**
 * Asks for a stop on SIGINT (within seconds), SIGTERM and SIGHUP; a second press of Ctrl-C forces it.
 * @param now milliseconds of a clock that never goes back
 */
export function stopOnSignals(request: StopRequest, now = () => performance.now()): void {
  let firstAt: number | undefined
  const onSignal = (signal: NodeJS.Signals) => {
    if (firstAt === undefined) {
      firstAt = now()
      request.ask(signal === 'SIGINT' ? longestForPersonMs : undefined)
    } else if (signal === 'SIGINT' && now() - firstAt > samePressMs) request.force()
  }
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, onSignal)
}

const npmPollMs = 250

/**
 * Asks for a stop when the npm that started this program is gone: after `kill -9` of it nobody is left who could
 * pass a signal on, and a next start would find this one in its way.
 */
export function stopWithNpm(request: StopRequest, env: NodeJS.ProcessEnv): void {
  if (env['npm_lifecycle_event'] !== 'start' && env['npm_lifecycle_event'] !== 'outport') return
  const npm = process.ppid
  setInterval(() => {
    if (process.ppid !== npm) request.ask()
  }, npmPollMs).unref()
}

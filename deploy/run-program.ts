import { setTimeout as delay } from 'node:timers/promises'
import { FolderLockedError, lockFolder, type FolderLock } from '../shared/files/lock.ts'
import type { Logger } from '../shared/observability/log.ts'
import type { Running } from '../shared/observability/program.ts'
import type { OutportConfig, ProgramName, StartProgram } from './programs.ts'
import { describeFault } from './start-errors.ts'
import type { StopRequest } from './stop-request.ts'

/** How long a program may take beyond the deadline of its transfers: to close its stores. */
const closingMs = 10_000
/** How long it may take when it is forced, or broke. */
const forcedMs = 2_000
/** How long a predecessor may take to notice that its supervisor was killed, or to be gone. */
const predecessorMs = 3_000
/** How long one that is on its way out may take: its transfers, and closing its stores. */
const endingPredecessorMs = 60_000
const lockPollMs = 50

interface RunOptions {
  readonly name: ProgramName
  readonly start: StartProgram
  readonly config: OutportConfig
  readonly log: Logger
  readonly stop: StopRequest
  /** Called once the program serves. */
  readonly onReady: (running: Running) => void
}

/**
 * Runs a program on its data folder, which must be open, until a stop is asked for.
 * @returns the exit code; throws what kept it from starting
 */
export async function runProgram(options: RunOptions): Promise<number> {
  const { config, name, stop, log } = options
  const lock = await lockAfterPredecessor(config.data, { name, log, signal: stop.signal })
  if (lock === undefined) return 0
  void stop.asked.then(() => lock.announceEnd())
  try {
    return await serve(options)
  } finally {
    // Before the process exits, which would not wait for the last lines.
    log.flush()
    await lock.release()
  }
}

/**
 * @returns undefined when a stop was asked for before the lock was free
 * @throws FolderLockedError when another instance goes on running
 */
async function lockAfterPredecessor(
  folder: string,
  { name, log, signal }: Pick<RunOptions, 'name' | 'log'> & { readonly signal: AbortSignal },
): Promise<FolderLock | undefined> {
  const startedAt = performance.now()
  let isTold = false
  while (!signal.aborted) {
    try {
      return await lockFolder(folder, name)
    } catch (error) {
      if (!(error instanceof FolderLockedError)) throw error
      const patienceMs = error.isEnding ? endingPredecessorMs : predecessorMs
      if (performance.now() - startedAt > patienceMs) throw error
      if (error.isEnding && !isTold) log.info({ holder: error.pid }, 'waiting for the one before')
      isTold ||= error.isEnding
      await delay(lockPollMs, undefined, { signal }).catch(() => undefined)
    }
  }
  return undefined
}

async function serve({ name, start, config, log, stop, onReady }: RunOptions): Promise<number> {
  const starting = start(name, config, { log, signal: stop.signal })
  exitOnFaults(log, starting)
  const started = starting.then((running) => {
    onReady(running)
    log.info({ urls: running.urls, metrics: running.metrics }, `${name} started`)
  })
  await Promise.race([started, stop.asked])
  const { longestMs } = await stop.asked
  const deadlineMs = Math.min(config[name].timeouts.drain, longestMs)
  const isStopped = await stopWithin(stopOf(starting, log), { deadlineMs, forced: stop.forced })
  if (isStopped) log.info(`${name} stopped`)
  else log.error(`${name} did not stop in time`)
  return isStopped ? 0 : 1
}

/** Stops a program that may still be starting: then its start is being broken off. */
function stopOf(starting: Promise<Running>, log: Logger): Running['stop'] {
  return async (deadlineMs) => {
    const running = await starting.catch((err: unknown) => {
      log.debug({ err }, 'the start was broken off')
      return undefined
    })
    await running?.stop(deadlineMs)
  }
}

/** @returns whether it stopped by itself */
async function stopWithin(
  stop: Running['stop'],
  { deadlineMs, forced }: { readonly deadlineMs: number; readonly forced: Promise<void> },
): Promise<boolean> {
  const late = new AbortController()
  const wait = (ms: number) => delay(ms, false, { signal: late.signal }).catch(() => false)
  const graceful = stop(deadlineMs).then(() => true)
  const hastened = forced.then(() => Promise.race([stop(0), wait(forcedMs)])).then(() => false)
  try {
    return await Promise.race([graceful, hastened, wait(deadlineMs + closingMs)])
  } finally {
    late.abort()
  }
}

/** A fault that nobody caught leaves the program in no known state: it is logged, and the program ends. */
function exitOnFaults(log: Logger, starting: Promise<Running>): void {
  let isEnding = false
  const onFault = (err: unknown) => {
    if (isEnding) return
    isEnding = true
    log.error({ err }, `stopped by a fault: ${describeFault(err)}`)
    log.flush()
    const closing = starting.then((running) => running.stop(0)).catch(() => undefined)
    void Promise.race([closing, delay(forcedMs)]).finally(() => process.exit(1))
  }
  process.on('uncaughtException', onFault)
  process.on('unhandledRejection', onFault)
}

import { spawn, type ChildProcess } from 'node:child_process'
import type { Logger } from '../shared/observability/log.ts'
import type { OutportConfig } from './programs.ts'
import { StartError } from './start-errors.ts'
import type { FromChild, Ready, ToChild } from './supervision.ts'

const longestPauseMs = 5_000
const failuresAllowed = 5
const failureWindowMs = 60_000
/** How long a child may take beyond the deadline of its transfers before it is killed. */
const closingMs = 12_000
const forcedMs = 3_000

export interface SupervisorOptions {
  /** What the child is called in messages. */
  readonly name: string
  /** The program and its arguments. */
  readonly command: readonly [string, ...string[]]
  readonly env: NodeJS.ProcessEnv
  /** The file descriptor that the child's output goes to. */
  readonly stdout: number
  /**
   * The configuration of the next start; `before` is where the program was, so that it comes back there. The
   * child loads its code while this is waited for.
   */
  readonly configure: (before: Ready | undefined) => OutportConfig | Promise<OutportConfig>
  /** How long the first pause before a restart is; each is four times the one before, up to five seconds. */
  readonly restartPauseMs: number
  readonly log: Logger
  /** Called when the child keeps failing and is not started again. */
  readonly onGivenUp: (message: string) => void
}

/** Keeps one child process running until it is stopped. */
export class Supervisor {
  readonly #options: SupervisorOptions
  readonly #failures: number[] = []
  #child: ChildProcess | undefined
  #ready: Ready | undefined
  #restart: NodeJS.Timeout | undefined
  #isStopping = false
  #stoppedCleanly = true
  #leftNothing = true

  constructor(options: SupervisorOptions) {
    this.#options = options
  }

  /**
   * Starts the child for the first time and waits until it serves. From then on it is started again
   * whenever it ends by itself.
   * @throws StartError when it cannot start: its own line about it
   */
  async start(): Promise<Ready> {
    return this.#launch()
  }

  /**
   * Whether nothing of the child is left: its last process served and closed all that it had open. One that was ended
   * before has not dealt with what a killed one left. True if there was none.
   */
  get leftNothing(): boolean {
    return this.#leftNothing
  }

  /**
   * Stops the child, which may let its transfers go on for `deadlineMs`; resolves when it is gone.
   * @returns false when it had to be killed, or failed at its end
   */
  async stop(deadlineMs: number): Promise<boolean> {
    this.#isStopping = true
    clearTimeout(this.#restart)
    const child = this.#child
    if (child === undefined) return true
    const gone = new Promise<void>((resolve) => onGone(child, () => resolve()))
    send(child, { kind: 'stop', deadlineMs })
    const killing = setTimeout(() => child.kill('SIGKILL'), deadlineMs + closingMs)
    await gone
    clearTimeout(killing)
    return this.#stoppedCleanly
  }

  /** Hastens a stop: transfers end now, and a child that is still there in a while is killed. */
  force(): void {
    const child = this.#child
    if (child === undefined) return
    send(child, { kind: 'stop', deadlineMs: 0 })
    setTimeout(() => child.kill('SIGKILL'), forcedMs).unref()
  }

  async #launch(): Promise<Ready> {
    if (this.#isStopping) throw new StartError(`the ${this.#options.name} is being stopped`)
    const { name, command, env, stdout, configure } = this.#options
    const [file, ...args] = command
    const child = spawn(file, args, { stdio: ['ignore', stdout, 2, 'ipc'], env })
    this.#child = child
    const { promise, resolve, reject } = Promise.withResolvers<Ready>()
    let failure = `the ${name} ended before it was ready`
    let hasServed = false
    child.on('message', (message: FromChild) => {
      if (message.kind === 'failed') failure = message.message
      else {
        hasServed = true
        this.#ready = { urls: message.urls, metrics: message.metrics }
        resolve(this.#ready)
      }
    })
    const onEnd = (code: number | null, signal: NodeJS.Signals | null) => {
      this.#child = undefined
      // A first start that failed is the caller's to report; later ends are dealt with here.
      reject(new StartError(failure))
      if (this.#ready !== undefined) this.#onEnd(code, signal)
    }
    child.once('error', (cause) => {
      if (child.pid !== undefined) return
      failure = `cannot start the ${name}: ${cause.message}`
      onEnd(null, null)
    })
    onGone(child, (code, signal) => {
      this.#stoppedCleanly = code === 0
      this.#leftNothing = code === 0 && hasServed
      onEnd(code, signal)
    })
    const configured = (async () => {
      try {
        send(child, { kind: 'start', config: await configure(this.#ready) })
      } catch (error) {
        // It would wait for ever: its end is what schedules the next try.
        child.kill()
        throw error
      }
    })()
    const [ready] = await Promise.all([promise, configured])
    return ready
  }

  #onEnd(code: number | null, signal: NodeJS.Signals | null): void {
    if (this.#isStopping) return
    const { name, log, restartPauseMs, onGivenUp } = this.#options
    const how = describeEnd(code, signal)
    const recent = this.#countFailure()
    if (recent >= failuresAllowed) {
      onGivenUp(`the ${name} ${how}, ${recent} times in a minute: see its log above`)
      return
    }
    const pauseMs = Math.min(restartPauseMs * 4 ** (recent - 1), longestPauseMs)
    log.warn({ child: name, code, signal, pauseMs }, `the ${name} ${how}; starting it again`)
    this.#restart = setTimeout(() => {
      this.#launch().catch((error: unknown) => {
        log.error({ child: name, err: error }, `the ${name} did not start again`)
      })
    }, pauseMs)
  }

  #countFailure(): number {
    const now = performance.now()
    this.#failures.push(now)
    while ((this.#failures[0] ?? now) < now - failureWindowMs) this.#failures.shift()
    return this.#failures.length
  }
}

function describeEnd(code: number | null, signal: NodeJS.Signals | null): string {
  if (signal !== null) return `was ended by ${signal}`
  return code === null ? 'could not be started' : `ended with code ${code}`
}

/** Calls back when the child is gone and its last words are read: those may come after its exit. */
function onGone(
  child: ChildProcess,
  callback: (code: number | null, signal: NodeJS.Signals | null) => void,
): void {
  child.once('exit', (code, signal) => {
    if (child.connected) child.once('disconnect', () => callback(code, signal))
    else callback(code, signal)
  })
}

function send(child: ChildProcess, message: ToChild): void {
  // A child that is just ending has closed the channel; its exit is what is acted on.
  if (child.connected) child.send(message, () => undefined)
}

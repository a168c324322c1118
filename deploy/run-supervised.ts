import { createLogger } from '../shared/observability/log.ts'
import type { OutportConfig, ProgramName, StartProgram } from './programs.ts'
import { runProgram } from './run-program.ts'
import { describeFault } from './start-errors.ts'
import { createStopRequest, type StopRequest } from './stop-request.ts'
import { orphanedDeadlineMs, type FromChild, type ToChild } from './supervision.ts'

/**
 * Makes this process the child of a supervisor: it gets its configuration over the channel, and stops when it
 * is told to, or when the channel closes because the supervisor is gone.
 */
export function runSupervised(name: ProgramName, start: StartProgram): void {
  const stop = createStopRequest()
  let isStarted = false
  let isStopping = false
  const onStop = (deadlineMs?: number) => {
    if (isStopping) return
    isStopping = true
    stop.ask(deadlineMs)
    if (!isStarted) end(0)
  }
  process.on('message', (message: ToChild) => {
    if (message.kind === 'stop') {
      if (isStopping) stop.force()
      else onStop(message.deadlineMs)
    } else if (!isStopping) {
      isStarted = true
      void run({ name, start, stop, config: message.config })
    }
  })
  process.on('disconnect', () => onStop(orphanedDeadlineMs))
  process.on('SIGTERM', () => onStop())
  // Ctrl-C reaches the whole group; the supervisor decides who stops first.
  process.on('SIGINT', () => undefined)
}

interface SupervisedRun {
  readonly name: ProgramName
  readonly start: StartProgram
  readonly stop: StopRequest
  readonly config: OutportConfig
}

async function run({ name, start, stop, config }: SupervisedRun): Promise<void> {
  const log = createLogger({ level: config.log.level, bindings: { program: name } })
  let code = 1
  try {
    code = await runProgram({
      name,
      start,
      config,
      log,
      stop,
      onReady: ({ urls, metrics }) => tell({ kind: 'ready', urls, metrics }),
    })
  } catch (error) {
    log.debug({ err: error }, 'cannot start')
    tell({ kind: 'failed', message: describeFault(error) })
  }
  end(code)
}

function tell(message: FromChild): void {
  // The supervisor may be gone already; then nobody waits for this.
  if (process.connected) process.send?.(message, undefined, undefined, () => undefined)
}

function end(code: number): void {
  process.exitCode = code
  if (process.connected) process.disconnect()
  // Whatever a library left open must not keep a stopped program alive.
  setTimeout(() => process.exit(), 1000).unref()
}

import { fileURLToPath } from 'node:url'
import { FolderLockedError, lockFolder } from '../shared/files/lock.ts'
import { createLogger, type Logger } from '../shared/observability/log.ts'
import { isRecord } from '../shared/config/record.ts'
import { check } from './check.ts'
import { compileCacheOf } from './compile-cache.ts'
import { openDataFolder } from './data-folder.ts'
import { keepSecret, withAdminPassword } from './first-secrets.ts'
import { formatNextSteps, type AdminPassword } from './next-steps.ts'
import { stopLeftPrimary, type OutportConfig, type ProgramName } from './programs.ts'
import { createStopRequest, stopOnSignals, stopWithNpm } from './stop-request.ts'
import type { Ready } from './supervision.ts'
import { Supervisor } from './supervisor.ts'
import {
  atSamePorts,
  describeStarted,
  joinPrimary,
  loadUpConfig,
  type UpFlags,
} from './up-config.ts'

/** What a shell reports of a program that Ctrl-C ended. */
const forcedCode = 130

export interface UpOptions extends UpFlags {
  /** Print one line of JSON once all are ready, and nothing else, on the standard output. */
  readonly json: boolean
  /** The program and arguments that run a child. */
  readonly command: (name: ProgramName) => readonly [string, ...string[]]
  /** The pause before a child that ended is started again; longer if it keeps ending. */
  readonly restartPauseMs: number
}

/** Runs a program as `outport primary` and `outport edge` do, but under a supervisor. */
export function supervisedCommand(name: ProgramName): readonly [string, ...string[]] {
  const file = fileURLToPath(new URL('./supervised.ts', import.meta.url))
  return [process.execPath, file, name]
}

/** What `up --check` does. */
export function checkUp(flags: UpFlags): Promise<number> {
  return check(['primary', 'edge'], () =>
    loadUpConfig(flags, {
      sections: ['primary', 'edge'],
      // The secret between the two is made by the first start.
      isMade: (file, { edge }) => isRecord(edge) && file === edge['credential_file'],
    }),
  )
}

/**
 * Starts a primary and an edge and keeps both running until a signal comes.
 * @returns the exit code; throws what kept them from starting
 */
export async function up(options: UpOptions): Promise<number> {
  const stop = createStopRequest()
  stopOnSignals(stop)
  stopWithNpm(stop, process.env)
  const written = loadUpConfig(options)
  await openDataFolder(written.data)
  // Kept until this process ends: whoever finds it taken is told the one pid to stop.
  await lockFolder(written.data, 'up')
  await keepSecret(ownSecretFile(written))
  const { config, passwordFile } = await withAdminPassword(written)
  const log = createUpLogger(config, options)
  const pair = createPair({ config, options, log })
  const givenUp = pair.givenUp.then((message) => {
    log.error({ reason: message }, 'giving up')
    return 1
  })
  let isForced = false
  void stop.forced.then(() => {
    isForced = true
    pair.force()
  })
  let longestMs = Infinity
  const asked = stop.asked.then((request) => {
    longestMs = request.longestMs
    return 0
  })
  let code: number
  let isClean: boolean
  try {
    const starting = pair.start().then((ready) => {
      const password = describePassword(config, passwordFile)
      process.stdout.write(report(ready, { config, options, password }))
      return asked
    })
    // A signal during the start ends it too.
    code = await Promise.race([starting, givenUp, asked])
  } finally {
    isClean = await pair.stop(longestMs)
    if (pair.mayHaveLeft()) await Promise.race([stopLeft(config, log), stop.forced])
    log.flush()
  }
  if (isForced) return forcedCode
  return isClean ? code : 1
}

/** A primary that was killed leaves its PostgreSQL running, for a next start that will not come from us. */
async function stopLeft(config: OutportConfig, log: Logger): Promise<void> {
  try {
    // Another instance on the same data is why ours did not start: what runs is its own.
    const lock = await lockFolder(config.data, 'primary')
    await stopLeftPrimary(config).finally(() => lock.release())
  } catch (error) {
    if (error instanceof FolderLockedError) return
    log.error({ err: error }, 'what the primary left running could not be ended')
  }
}

function ownSecretFile({ edge }: OutportConfig): string {
  if (edge.credential_file === undefined) throw new Error('the edge of up has no credential file')
  return edge.credential_file
}

function createUpLogger(config: OutportConfig, { json }: UpOptions): Logger {
  return createLogger({
    level: config.log.level,
    bindings: { program: 'up' },
    ...(json ? { write: (line: string) => process.stderr.write(line) } : {}),
  })
}

interface PairOptions {
  readonly config: OutportConfig
  readonly options: UpOptions
  readonly log: Logger
}

interface ReadyPair {
  readonly primary: Ready
  readonly edge: Ready
}

/** The two children: the primary starts first and stops last. */
function createPair({ config, options, log }: PairOptions) {
  const givenUp = Promise.withResolvers<string>()
  const common = {
    env: childEnvironment(config),
    // The standard output is kept for the one line.
    stdout: options.json ? 2 : 1,
    restartPauseMs: options.restartPauseMs,
    log,
    onGivenUp: givenUp.resolve,
  }
  const primaryReady = Promise.withResolvers<Ready>()
  const primary = new Supervisor({
    ...common,
    name: 'primary',
    command: options.command('primary'),
    configure: (before) => atSamePorts(config, 'primary', before),
  })
  const edge = new Supervisor({
    ...common,
    name: 'edge',
    command: options.command('edge'),
    configure: async (before) => {
      const [listening = ''] = Object.values((await primaryReady.promise).urls)
      return atSamePorts(joinPrimary(config, listening), 'edge', before)
    },
  })
  return {
    givenUp: givenUp.promise,
    async start(): Promise<ReadyPair> {
      // Both load their code at once; the edge starts when it can be told where the primary is.
      const edgeStart = edge.start()
      const primaryStart = primary.start()
      primaryStart.then(primaryReady.resolve, primaryReady.reject)
      const [ready, edgeReady] = await Promise.all([primaryStart, edgeStart])
      return { primary: ready, edge: edgeReady }
    },
    /**
     * Clients of either may finish within its configured time, counted from now.
     * @returns false when a child failed at its end, or had to be killed
     */
    async stop(longestMs: number): Promise<boolean> {
      const startedAt = performance.now()
      const left = (drainMs: number) =>
        Math.max(0, Math.min(drainMs, longestMs) - (performance.now() - startedAt))
      const isEdgeClean = await edge.stop(left(config.edge.timeouts.drain))
      const isPrimaryClean = await primary.stop(left(config.primary.timeouts.drain))
      return isEdgeClean && isPrimaryClean
    },
    mayHaveLeft: () => !primary.leftNothing,
    force(): void {
      edge.force()
      primary.force()
    },
  }
}

/** Children get their configuration from us, and no secret by their environment. */
function childEnvironment({ data }: OutportConfig): NodeJS.ProcessEnv {
  return {
    NODE_COMPILE_CACHE: compileCacheOf(data),
    ...Object.fromEntries(
      Object.entries(process.env).filter(([name]) => !name.startsWith('OUTPORT_')),
    ),
  }
}

function describePassword(
  { primary }: OutportConfig,
  passwordFile: string | undefined,
): AdminPassword {
  if (passwordFile === undefined) return { kind: 'known' }
  if (!process.stdout.isTTY || primary.admin_password === undefined) {
    return { kind: 'file', path: passwordFile }
  }
  return { kind: 'shown', password: primary.admin_password }
}

function report(
  ready: ReadyPair,
  {
    config,
    options,
    password,
  }: {
    readonly config: OutportConfig
    readonly options: UpOptions
    readonly password: AdminPassword
  },
): string {
  const started = describeStarted(config, ready)
  return options.json ? `${JSON.stringify(started)}\n` : formatNextSteps(started, password)
}

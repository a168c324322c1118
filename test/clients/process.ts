import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, open, readFile, writeFile } from 'node:fs/promises'
import { constants, tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { setTimeout as pause } from 'node:timers/promises'
import { toolsBin } from './tools.ts'

export interface Result {
  /** The exit code; 128 + the signal's number when a signal ended it. */
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export interface RunOptions {
  /**
   * Added to PATH (the tools first), TMPDIR, LANG and a HOME that does not exist. Nothing else is passed on:
   * a program that logs in or keeps files is given a HOME here.
   */
  readonly env?: Readonly<Record<string, string>>
  /** Standard input; empty when not given. */
  readonly input?: string | Buffer
  readonly cwd?: string
  /** After this the program is killed. One minute when not given. */
  readonly timeoutMs?: number
}

/**
 * Runs a program to its end. A non-zero code is a result, not an error.
 * @throws Error when it cannot be started or runs longer than `timeoutMs`
 */
export async function run(
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Result> {
  const timeoutMs = options.timeoutMs ?? 60_000
  const deadline = AbortSignal.timeout(timeoutMs)
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: environment(options.env),
    signal: deadline,
    killSignal: 'SIGKILL',
  })
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk))
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk))
  child.stdin.on('error', () => undefined) // it need not read its input
  child.stdin.end(options.input ?? '')
  const printed = () => ({ stdout: text(stdout), stderr: text(stderr) })
  try {
    await once(child, 'close')
    return { code: codeOf(child), ...printed() }
  } catch (cause) {
    // A grandchild may hold the pipes open.
    child.stdout.destroy()
    child.stderr.destroy()
    const line = [command, ...args].join(' ')
    if (!deadline.aborted) throw new Error(`cannot run ${line}`, { cause })
    const { stdout, stderr } = printed()
    throw new Error(`killed after ${timeoutMs} ms: ${line}\n${stdout}${stderr}`, { cause })
  }
}

export interface DaemonOptions {
  readonly command: string
  readonly args: readonly string[]
  /** As for `run`. */
  readonly env?: Readonly<Record<string, string>>
  /** The file that takes what it prints. */
  readonly log: string
  /** Asked again and again until it says true. */
  readonly isReady: () => Promise<boolean>
  /** How long that may take. Half a minute when not given. */
  readonly startMs?: number
  /** Gives it a view of its own of the machine's files. Needs root. */
  readonly view?: View
}

/** A mount namespace in which what is written to /etc, /opt and /run is gone when the last program ends. */
export interface View {
  /** An empty folder, outside those three. */
  readonly dir: string
  /** Host name → address, in the place of DNS: no other name but localhost resolves. */
  readonly hosts?: Readonly<Record<string, string>>
  /** Files and folders seen elsewhere: the path at which one is seen → its own path. */
  readonly binds?: Readonly<Record<string, string>>
}

export interface Daemon {
  readonly pid: number
  /** Runs a program that sees the same files as the daemon. */
  run(command: string, args: readonly string[], options?: RunOptions): Promise<Result>
  /** Ends it and waits for that: SIGTERM, then SIGKILL after 20 s. */
  stop(): Promise<void>
  /** Ends it by SIGKILL and waits for that. */
  kill(): Promise<void>
}

/**
 * Starts a program that serves until it is stopped, and waits until it is ready. It ends with this process.
 * @throws Error with the end of its log when it exits or is not ready in time
 */
export async function startDaemon(options: DaemonOptions): Promise<Daemon> {
  const child = await spawnLogging(options)
  const exited = once(child, 'exit')
  exited.catch(() => undefined) // whoever waits for it is told
  try {
    await untilReady(child, options)
  } catch (cause) {
    await end(child, exited)
    const log = (await readFile(options.log, 'utf8')).trimEnd().split('\n').slice(-30).join('\n')
    throw new Error(`${options.command} did not start\n${log}`, { cause })
  }
  return {
    pid: child.pid ?? 0,
    run: (command, args, runOptions) =>
      options.view === undefined
        ? run(command, args, runOptions)
        : runInside(child, command, args, runOptions),
    stop: () => end(child, exited),
    async kill() {
      child.kill('SIGKILL')
      await exited
    },
  }
}

async function spawnLogging(options: DaemonOptions): Promise<ChildProcess> {
  // Each of the programs before the last one replaces itself by the next: the process id stays.
  const view = options.view === undefined ? [] : await wordsOf(options.view)
  const args = ['--pdeathsig', 'TERM', '--', ...view, options.command, ...options.args]
  await mkdir(dirname(options.log), { recursive: true })
  const log = await open(options.log, 'a')
  try {
    return spawn('setpriv', args, {
      env: environment(options.env),
      stdio: ['ignore', log.fd, log.fd],
    })
  } finally {
    await log.close()
  }
}

/** The words before a command that give it the view. */
async function wordsOf({ dir, hosts = {}, binds = {} }: View): Promise<string[]> {
  const names = Object.entries({ localhost: '127.0.0.1', ...hosts })
  const scratch = join(dir, 'scratch')
  const files = { '/etc/hosts': join(dir, 'hosts'), '/etc/resolv.conf': join(dir, 'resolv.conf') }
  await mkdir(scratch, { recursive: true })
  await writeFile(files['/etc/hosts'], names.map(([name, at]) => `${at} ${name}\n`).join(''))
  await writeFile(files['/etc/resolv.conf'], 'nameserver 127.0.0.1\noptions attempts:1\n')
  const paths = Object.entries({ ...files, ...binds }).flat()
  return ['unshare', '--mount', 'sh', '-ec', makeView, 'view', scratch, ...paths, '--']
}

const makeView = `
scratch=$1
shift
mount -t tmpfs tmpfs "$scratch"
for folder in run opt etc; do
  mkdir -p "$scratch/$folder/changes" "$scratch/$folder/work"
  layers="lowerdir=/$folder,upperdir=$scratch/$folder/changes,workdir=$scratch/$folder/work"
  mount -t overlay -o "$layers" overlay "/$folder"
done
while [ "$1" != -- ]; do
  if [ -d "$2" ]; then
    mkdir -p "$1"
  elif [ ! -e "$1" ]; then
    : >"$1"
  fi
  mount --bind "$2" "$1"
  shift 2
done
shift
exec "$@"
`

function runInside(
  daemon: ChildProcess,
  command: string,
  args: readonly string[],
  options: RunOptions = {},
): Promise<Result> {
  const inside = [
    `--mount=/proc/${daemon.pid}/ns/mnt`,
    `--wd=${options.cwd ?? process.cwd()}`,
    '--',
    command,
    ...args,
  ]
  return run('nsenter', inside, options)
}

async function untilReady(child: ChildProcess, options: DaemonOptions): Promise<void> {
  const startMs = options.startMs ?? 30_000
  const start = performance.now()
  while (isRunning(child)) {
    if (await options.isReady()) return
    if (performance.now() - start > startMs) throw new Error(`not ready after ${startMs} ms`)
    await pause(50)
  }
  throw new Error(`it ended with code ${codeOf(child)}`)
}

async function end(child: ChildProcess, exited: Promise<unknown>): Promise<void> {
  if (!isRunning(child)) return
  child.kill('SIGTERM')
  const late = AbortSignal.timeout(20_000)
  late.onabort = () => child.kill('SIGKILL')
  await exited
  late.onabort = null
}

function isRunning(child: ChildProcess): boolean {
  return child.pid !== undefined && child.exitCode === null && child.signalCode === null
}

function codeOf(child: ChildProcess): number {
  if (child.signalCode !== null) return 128 + constants.signals[child.signalCode]
  return child.exitCode ?? -1
}

/** Hermetic: no proxy, home, credentials or certificate setting of whoever runs the tests gets in. */
function environment(added: Readonly<Record<string, string>> = {}): Record<string, string> {
  const path = [toolsBin, process.env['PATH'] ?? '', '/usr/sbin', '/sbin'].join(delimiter)
  return { PATH: path, TMPDIR: tmpdir(), LANG: 'C.UTF-8', HOME: '/nonexistent', ...added }
}

function text(chunks: readonly Buffer[]): string {
  return Buffer.concat(chunks).toString('utf8')
}

import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import type { TestContext } from 'node:test'
import { waitFor } from '../kit/clock.ts'

const root = resolve(import.meta.dirname, '../..')

/** A program that a test started: what it printed, and how it ended. */
export interface Program {
  readonly pid: number
  readonly child: ChildProcess
  readonly stdout: () => string
  readonly stderr: () => string
  /** Waits for the end: the exit code, or the signal's name. */
  ended(): Promise<number | string>
}

interface ProgramOptions {
  readonly env?: Readonly<Record<string, string | undefined>>
  readonly cwd?: string
  /** The interpreter; this test's own Node if left out. */
  readonly node?: string
  /** Options of the interpreter. */
  readonly nodeOptions?: readonly string[]
  /** In a process group of its own, as a shell starts what it waits for. */
  readonly ownGroup?: boolean
  /** What is piped into it; nothing without. */
  readonly input?: string
}

/** Starts a file, by its path in the repository; it is killed when the test is over. */
export function startProgram(
  t: TestContext,
  [file, ...args]: readonly [string, ...string[]],
  {
    env = {},
    cwd = root,
    node = process.execPath,
    nodeOptions = [],
    ownGroup = false,
    input = '',
  }: ProgramOptions = {},
): Program {
  const child = spawn(node, [...nodeOptions, resolve(root, file), ...args], {
    cwd,
    env: { ...withoutOutport(process.env), ...env },
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: ownGroup,
  })
  const { pid } = child
  if (pid === undefined) throw new Error(`cannot start ${file}`)
  const closed = once(child, 'close')
  // It may end without reading.
  child.stdin.on('error', () => undefined)
  child.stdin.end(input)
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk))
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk))
  t.after(async () => {
    child.kill('SIGKILL')
    await closed
  })
  return {
    pid,
    child,
    stdout: () => Buffer.concat(stdout).toString(),
    stderr: () => Buffer.concat(stderr).toString(),
    async ended() {
      await closed
      return child.exitCode ?? child.signalCode ?? 'unknown'
    },
  }
}

/** Runs a file of the repository to its end. */
export async function runProgram(
  t: TestContext,
  command: readonly [string, ...string[]],
  options: ProgramOptions = {},
): Promise<{ readonly code: number | string; readonly stdout: string; readonly stderr: string }> {
  const program = startProgram(t, command, options)
  const code = await program.ended()
  return { code, stdout: program.stdout(), stderr: program.stderr() }
}

/** The pids of a process's children. [proc(5)] */
export function childrenOf(pid: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((each) => statusOf(each)?.parent === pid)
}

/** Waits until a process is gone; one that is dead and not yet reaped counts. */
export async function gone(pid: number): Promise<void> {
  await waitFor(`the end of ${pid}`, () => {
    const status = statusOf(pid)
    return status === undefined || status.state === 'Z'
  })
}

function statusOf(pid: number): { readonly parent: number; readonly state: string } | undefined {
  let stat: string
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  } catch {
    return undefined
  }
  // The name before may hold spaces and brackets.
  const [state = '', parent = ''] = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return { state, parent: Number(parent) }
}

export function withoutOutport(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !name.startsWith('OUTPORT_')))
}

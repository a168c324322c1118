import { randomBytes } from 'node:crypto'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { startProgram, type Program } from '../deploy/program.ts'
import { waitFor } from './clock.ts'
import {
  createRegistryClient,
  type ClientOptions,
  type Credentials,
  type RegistryClient,
} from './registry-client.ts'

export type ProcessName = 'up' | 'primary' | 'edge' | 'postgres'

/** What `up --json` prints. */
export interface UpUrls {
  readonly primary: string
  readonly edge: string
  readonly mirror: string
  readonly metrics: { readonly primary: string; readonly edge: string }
}

export interface TestUpOptions {
  /** The configuration file's content; a file of its own is written. */
  readonly config?: object
  readonly env?: Readonly<Record<string, string>>
}

/** `outport up` as a user starts it: real processes, which may be killed and started again on the same data and ports. */
export interface TestUp {
  readonly data: string
  readonly configFile: string
  readonly admin: Credentials
  readonly urls: UpUrls
  /** Milliseconds from the last start of the command to its line of JSON. */
  readonly startMs: number
  /** Everything that was printed, of all starts. */
  output(): string
  /** The running process. @throws Error when there is none */
  pidOf(name: ProcessName): number
  /** Starts the command again after its end; resolves when all is ready. */
  start(): Promise<void>
  kill(name: ProcessName): void
  /**
   * Kills every process at once, as a machine's out-of-memory killer or its power switch would, but for the
   * disk's own cache; waits for the end. @returns how many there were
   */
  killAll(): Promise<number>
  /** Waits until a killed process has a successor. */
  untilAnother(name: 'primary' | 'edge' | 'postgres', killed: number): Promise<void>
  /** Waits until a killed process has a successor, and primary and edge are ready. @returns milliseconds */
  untilBack(name: 'primary' | 'edge' | 'postgres', killed: number): Promise<number>
  /** Sends the signal and waits for the end: the exit code, or a signal's name. */
  stop(signal?: NodeJS.Signals): Promise<number | string>
  /** The end of the running command. */
  ended(): Promise<number | string>
  /** A client that is closed when the test is over. */
  client(
    where: 'primary' | 'edge' | 'mirror',
    credentials?: Credentials,
    scheme?: ClientOptions['scheme'],
  ): RegistryClient
}

/** Starts it in a folder of its own; nothing of it is left when the test is over. */
export async function startTestUp(
  t: Pick<TestContext, 'after'>,
  { config = {}, env = {} }: TestUpOptions = {},
): Promise<TestUp> {
  const folder = await mkdtemp(join(tmpdir(), 'outport-up-'))
  const data = join(folder, 'data')
  const configFile = join(folder, 'outport.yaml')
  // JSON is YAML. A chosen file means chosen ports for the metrics too.
  const metrics = { metrics: { port: 0 } }
  await writeFile(
    configFile,
    JSON.stringify(
      mergeOf({ primary: { internal: { port: 0 }, ...metrics }, edge: metrics }, config),
    ),
  )
  const admin = { username: 'admin', password: `Up-1-${randomBytes(12).toString('hex')}` }
  const programs: Program[] = []
  const ends: (() => unknown)[] = []
  const clients: RegistryClient[] = []
  let urls: UpUrls | undefined
  let startMs = 0

  const current = (): Program => {
    const program = programs.at(-1)
    if (program === undefined) throw new Error('up was never started')
    return program
  }
  const start = async () => {
    const startedAt = performance.now()
    const program = startProgram(
      { after: (end: () => unknown) => void ends.push(end) } as TestContext,
      [
        'deploy/launch.mjs',
        'up',
        '--json',
        ...['--config', configFile, '--data', data],
        ...['--primary-port', portOf(urls?.primary), '--edge-port', portOf(urls?.edge)],
        ...['--mirror-port', portOf(urls?.mirror)],
      ],
      // Its children are known by the folder, which stands in no argument of theirs.
      { env: { OUTPORT_ADMIN_PASSWORD: admin.password, TEST_FOLDER: data, ...env } },
    )
    programs.push(program)
    const line = await waitFor(
      'up to be ready',
      () => {
        if (program.child.exitCode !== null) throw new Error(`up ended: ${program.stderr()}`)
        return program.stdout().includes('\n') && program.stdout()
      },
      { timeoutMs: 60_000 },
    )
    urls = JSON.parse(line) as UpUrls
    startMs = performance.now() - startedAt
  }
  t.after(async () => {
    for (const client of clients) client.close()
    for (const end of ends) await end()
    await waitFor('the end of all processes', () => processesIn(folder).length === 0, {
      timeoutMs: 20_000,
    }).catch((error: unknown) => {
      for (const { pid } of processesIn(folder)) killNow(pid)
      throw error
    })
    await rm(folder, { recursive: true, force: true, maxRetries: 3 })
  })
  const urlsOf = (): UpUrls => {
    if (urls === undefined) throw new Error('up was never ready')
    return urls
  }
  const pidOf = (name: ProcessName): number => (name === 'up' ? current().pid : pidIn(data, name))
  await start()

  return {
    data,
    configFile,
    admin,
    get urls() {
      return urlsOf()
    },
    get startMs() {
      return startMs
    },
    output: () => programs.map((each) => each.stdout() + each.stderr()).join(''),
    pidOf,
    start,
    kill: (name) => process.kill(pidOf(name), 'SIGKILL'),
    async killAll() {
      const found = processesIn(data)
      for (const { pid } of found) killNow(pid)
      await current().ended()
      return found.length
    },
    async untilAnother(name, killed) {
      await waitFor(`the next ${name}`, () => isAnother(data, { name, killed }))
    },
    async untilBack(name, killed) {
      const from = performance.now()
      await waitFor(
        `the next ${name}`,
        async () =>
          isAnother(data, { name, killed }) &&
          (await isReady(urlsOf().primary)) &&
          (await isReady(urlsOf().edge)),
        { timeoutMs: 30_000 },
      )
      return performance.now() - from
    },
    stop(signal = 'SIGTERM') {
      current().child.kill(signal)
      return current().ended()
    },
    ended: () => current().ended(),
    client(where, credentials, scheme) {
      const client = createRegistryClient({
        baseUrl: urlsOf()[where],
        credentials,
        ...(scheme !== undefined && { scheme }),
      })
      clients.push(client)
      return client
    },
  }
}

/** A process that has to do with a folder: by its arguments, its environment, or where it works. */
export interface FoundProcess {
  readonly pid: number
  readonly cmdline: string
  readonly environ: string
}

/** All living processes that have to do with a folder, but this one. [proc(5)] */
export function processesIn(folder: string): FoundProcess[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map((name) => ({
      pid: Number(name),
      cmdline: readProc(name, 'cmdline'),
      environ: readProc(name, 'environ'),
      cwd: cwdOf(name),
    }))
    .filter(({ cmdline, environ, cwd }) =>
      [cmdline, environ, cwd].some((text) => text.includes(folder)),
    )
}

async function isReady(url: string): Promise<boolean> {
  try {
    const answer = await fetch(new URL('/readyz', url), { signal: AbortSignal.timeout(2000) })
    await answer.arrayBuffer()
    return answer.ok
  } catch {
    return false
  }
}

function pidIn(data: string, name: Exclude<ProcessName, 'up'>): number {
  if (name === 'postgres') {
    return Number(
      readFileSync(join(data, 'postgres/cluster/postmaster.pid'), 'utf8').split('\n')[0],
    )
  }
  const suffix = `/supervised.ts\0${name}\0`
  const found = processesIn(data).filter(({ cmdline }) => cmdline.endsWith(suffix))
  // A predecessor of a killed `up` may still be ending: the newest counts.
  const pid = found.at(-1)?.pid
  if (pid === undefined) throw new Error(`no process of the ${name}`)
  return pid
}

function isAnother(
  data: string,
  { name, killed }: { readonly name: Exclude<ProcessName, 'up'>; readonly killed: number },
): boolean {
  try {
    return pidIn(data, name) !== killed
  } catch {
    return false
  }
}

function killNow(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended, perhaps because of another.
  }
}

function readProc(pid: string, file: 'cmdline' | 'environ'): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, 'latin1')
  } catch {
    return ''
  }
}

function cwdOf(pid: string): string {
  try {
    return readlinkSync(`/proc/${pid}/cwd`)
  } catch {
    return ''
  }
}

function portOf(url: string | undefined): string {
  return url === undefined ? '0' : new URL(url).port
}

function mergeOf(base: object, more: object): object {
  const merged: Record<string, unknown> = { ...base }
  for (const [name, value] of Object.entries(more)) {
    const known = merged[name]
    const bothObjects = isObject(known) && isObject(value)
    merged[name] = bothObjects ? mergeOf(known, value) : value
  }
  return merged
}

function isObject(value: unknown): value is object {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

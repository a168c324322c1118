import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, globSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'

// Runs the tests: all of them, or the files that are named. What needs real clients or much time has
// runners of its own (test/clients/run.ts, test/soak/run.ts). `--name PATTERN` runs the tests whose name matches.

const root = resolve(import.meta.dirname, '..')
const { files, options } = readArguments(process.argv.slice(2))
const chosen = files.length > 0 ? files : allTests()
const globalSetup = join(root, 'test/global-setup.ts')
const needsSetup = existsSync(globalSetup) && (files.length === 0 || !files.every(isPure))

// What needs nothing of its own shares one process: to start one costs more than most of these files.
const pure = chosen.filter(isPure)
const groups = pure.length > 1 ? [chosen.filter((file) => !isPure(file)), pure] : [chosen]
const children = groups.filter((group) => group.length > 0).map(start)
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => children.forEach((child) => child.kill(signal)))
const ends: Promise<number>[] = []
for (const [index, child] of children.entries()) ends.push(ended(child, index))
const codes = await Promise.all(ends)
process.exitCode = Math.max(...codes)

/** The first group talks at once; another one's words are kept until the first has ended. */
function start(group: readonly string[], index: number): ChildProcess {
  const isShared = group === pure
  return spawn(
    process.execPath,
    [
      '--test',
      // On two cores: a fifth of the time a test waits for something else than them.
      ...(isShared ? ['--test-isolation=none'] : ['--test-concurrency=3']),
      // A test that hangs must fail with its name, not hang the whole run.
      '--test-timeout=120000',
      ...(needsSetup && !isShared ? [`--test-global-setup=${globalSetup}`] : []),
      ...options,
      ...group,
    ],
    {
      stdio: index === 0 ? 'inherit' : ['ignore', 'pipe', 'inherit'],
      cwd: root,
    },
  )
}

async function ended(child: ChildProcess, index: number): Promise<number> {
  const output: Buffer[] = []
  child.stdout?.on('data', (chunk: Buffer) => output.push(chunk))
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  if (index > 0) {
    await ends[0]
    process.stdout.write(Buffer.concat(output))
  }
  return signal === null ? (code ?? 1) : 1
}

function allTests(): string[] {
  return globSync('test/**/*.test.ts', { cwd: root })
    .filter((file) => !file.startsWith('test/clients/') && !file.startsWith('test/soak/'))
    .sort()
}

/** These need no database, and a run of them alone should not wait for one. */
function isPure(file: string): boolean {
  const path = relative(root, resolve(root, file))
  return path === 'test/architecture.test.ts' || path.startsWith('test/shared/')
}

function readArguments(args: readonly string[]): { files: string[]; options: string[] } {
  const files: string[] = []
  const options: string[] = []
  for (let index = 0; index < args.length; index++) {
    const arg = args[index] ?? ''
    if (arg === '--name') options.push(`--test-name-pattern=${args[++index] ?? ''}`)
    else if (arg.startsWith('--')) options.push(arg)
    else files.push(resolveTest(arg))
  }
  return { files, options }
}

/** npm runs scripts in the package's folder; INIT_CWD is where the person typed. */
function resolveTest(name: string): string {
  const typedIn = process.env['INIT_CWD'] ?? process.cwd()
  for (const folder of [process.cwd(), typedIn, root]) {
    if (existsSync(resolve(folder, name))) return resolve(folder, name)
  }
  process.stderr.write(`no such test: ${name} (looked in ${dirname(resolve(name))})\n`)
  process.exit(1)
}

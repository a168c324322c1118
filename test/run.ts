import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, globSync } from 'node:fs'
import { chmod, mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join, relative, resolve } from 'node:path'
import { fastestFolder } from './kit/fastest-folder.ts'
import { filesVariable } from './kit/variables.ts'

// Runs the tests: all of them, or the files that are named. What needs real clients or much time has
// runners of its own (test/clients/run.ts, test/soak/run.ts). `--name PATTERN` runs the tests whose name matches.

const root = resolve(import.meta.dirname, '..')
const { files, options } = readArguments(process.argv.slice(2))
const chosen = files.length > 0 ? files : allTests()
const stopping = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.on(signal, () => stopping.abort(signal))

// Tests sync what they write as programs do: where the folder of temporary files lies in memory, that costs nothing.
const folder = await mkdtemp(join(await fastestFolder(tmpdir()), 'ot-'))
// A database server does not run as root.
await chmod(folder, 0o711)
process.env['TMPDIR'] = folder
// What needs no database does not load what starts one.
const setup = chosen.every(isPure) ? undefined : await import('./global-setup.ts')
try {
  await setup?.globalSetup()
  process.exitCode = await runAll()
} finally {
  await setup?.globalTeardown()
  await rm(folder, { recursive: true, force: true, maxRetries: 3 })
}

/** Files of one process, or of one process each. */
interface Group {
  readonly files: readonly string[]
  /** `alone`: each has a process. `shared`: none has hooks that another must not see. `together`: one after another. */
  readonly kind: 'alone' | 'shared' | 'together'
}

/** To start a process and to load a program costs more than most files take; a few alone are seen in its own process. */
function groupsOf(chosen: readonly string[]): readonly Group[] {
  const pure = chosen.filter(isPure)
  const others = chosen.filter((file) => !isPure(file))
  // A name that is looked for is inside the files.
  const isAll = files.length === 0 && options.length === 0
  const together = others.filter((file) => isAll && /^test\/(edge|primary)\//.test(pathOf(file)))
  const halves = [0, 1].map((half) => together.filter((_, index) => index % 2 === half))
  const groups: readonly Group[] = [
    { kind: 'alone', files: others.filter((file) => !together.includes(file)) },
    ...halves.map((files) => ({ kind: 'together' as const, files })),
    { kind: pure.length > 1 ? 'shared' : 'alone', files: pure },
  ]
  return groups.filter(({ files }) => files.length > 0)
}

/** @returns the exit code */
async function runAll(): Promise<number> {
  if (stopping.signal.aborted) return 1
  const ends: Promise<number>[] = []
  for (const [index, group] of groupsOf(chosen).entries()) {
    const child = start(group, index)
    stopping.signal.addEventListener('abort', () =>
      child.kill(stopping.signal.reason as NodeJS.Signals),
    )
    ends.push(ended(child, ends.at(-1)))
  }
  return Math.max(...(await Promise.all(ends)))
}

/** The first group talks at once; another one's words are kept until those before it have ended. */
function start({ files, kind }: Group, index: number): ChildProcess {
  return spawn(
    process.execPath,
    [
      '--test',
      // On two cores: a fifth of the time a test waits for something else than them.
      ...(kind === 'alone' ? ['--test-concurrency=2'] : ['--test-isolation=none']),
      // A test that hangs must fail with its name, not hang the whole run.
      '--test-timeout=120000',
      ...options,
      ...(kind === 'together' ? [join(root, 'test/together.ts')] : files),
    ],
    {
      stdio: index === 0 ? 'inherit' : ['ignore', 'pipe', 'inherit'],
      cwd: root,
      env: {
        ...process.env,
        ...(kind === 'together' && { [filesVariable]: JSON.stringify(files) }),
      },
    },
  )
}

async function ended(child: ChildProcess, before: Promise<number> | undefined): Promise<number> {
  const output: Buffer[] = []
  child.stdout?.on('data', (chunk: Buffer) => output.push(chunk))
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null]
  await before
  process.stdout.write(Buffer.concat(output))
  return signal === null ? (code ?? 1) : 1
}

function allTests(): string[] {
  return globSync('test/**/*.test.ts', { cwd: root })
    .filter((file) => !file.startsWith('test/clients/') && !file.startsWith('test/soak/'))
    .sort()
}

/** These need no database, and a run of them alone should not wait for one. */
function isPure(file: string): boolean {
  const path = pathOf(file)
  return path === 'test/architecture.test.ts' || path.startsWith('test/shared/')
}

function pathOf(file: string): string {
  return relative(root, resolve(root, file))
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

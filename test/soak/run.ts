import { spawn } from 'node:child_process'
import { globSync } from 'node:fs'
import { basename, join, resolve } from 'node:path'

// Runs what takes minutes: seeded kills, clients in real time, blobs of the largest sizes. Arguments choose files by
// their names without the ending (`npm run soak -- kills fills`); without, all of them, one after another.
// `OUTPORT_SEED=N` has a failure again.

const root = resolve(import.meta.dirname, '../..')
const args = process.argv.slice(2)
const named = args.filter((arg) => !arg.startsWith('--'))
const options = args.filter((arg) => arg.startsWith('--'))
const all = globSync('test/soak/*.soak.ts', { cwd: root }).sort()
const files = named.length === 0 ? all : named.map(find)

const child = spawn(
  process.execPath,
  [
    '--test',
    '--test-concurrency=1',
    '--test-reporter=spec',
    '--test-timeout=3600000',
    `--test-global-setup=${join(root, 'test/global-setup.ts')}`,
    ...options,
    ...files,
  ],
  { stdio: 'inherit', cwd: root },
)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
child.on('exit', (code, signal) => {
  process.exitCode = signal === null ? (code ?? 1) : 1
})

function find(name: string): string {
  const wanted = `${basename(name).replace(/(\.soak)?\.ts$/, '')}.soak.ts`
  const found = all.find((file) => basename(file) === wanted)
  if (found !== undefined) return found
  const known = all.map((file) => basename(file, '.soak.ts')).join(', ')
  process.stderr.write(`no soak '${name}'; there are: ${known}\n`)
  process.exit(1)
}

import { spawn } from 'node:child_process'
import { globSync } from 'node:fs'
import { join, resolve } from 'node:path'

// Runs the tests with real clients, one file at a time: they start daemons, and two cores are few. Arguments are
// files; without, all of them.

const root = resolve(import.meta.dirname, '../..')
const named = process.argv.slice(2).filter((arg) => !arg.startsWith('--'))
const options = process.argv.slice(2).filter((arg) => arg.startsWith('--'))
const files = named.length > 0 ? named : globSync('test/clients/*.test.ts', { cwd: root }).sort()

const child = spawn(
  process.execPath,
  [
    '--test',
    '--test-concurrency=1',
    '--test-timeout=600000',
    `--test-global-setup=${join(root, 'test/global-setup.ts')}`,
    ...options,
    ...files,
  ],
  {
    stdio: 'inherit',
    cwd: root,
  },
)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
child.on('exit', (code, signal) => {
  process.exitCode = signal === null ? (code ?? 1) : 1
})

import { relative, resolve } from 'node:path'
import { test } from 'node:test'
import { endFile } from './kit/at-end.ts'
import { filesVariable } from './kit/variables.ts'

// Runs test files one after another in this process, each as a test whose parts are the file's own: its hooks are about
// these alone.

const root = resolve(import.meta.dirname, '..')
const longestMs = 600_000
for (const file of JSON.parse(process.env[filesVariable] ?? '[]') as readonly string[]) {
  const path = resolve(root, file)
  test(relative(root, path), { timeout: longestMs }, async (t) => {
    t.after(endFile)
    await import(path)
  })
}

import { accessSync, constants, statSync } from 'node:fs'
import { homedir } from 'node:os'
import { delimiter, join } from 'node:path'
import type { TestContext } from 'node:test'

/** Where deploy/tools/install.sh puts the programs. */
export const toolsBin = join(
  process.env['OUTPORT_TOOLS'] ?? join(homedir(), '.cache', 'outport-tools'),
  'bin',
)

/** Programs whose version does not matter; the tests of all others are about a version. */
const anyVersion = new Set(['curl', 'nginx', 'openssl', 'skopeo'])

/** Programs that install.sh takes from the machine as they are. */
const fromDebian = new Set(['curl', 'openssl'])

/** The path of an installed program; the machine's own counts only where any version will do. */
export function findTool(name: string): string | undefined {
  const folders = [toolsBin]
  if (anyVersion.has(name)) folders.push(...(process.env['PATH'] ?? '').split(delimiter))
  return folders.map((folder) => join(folder, name)).find(isProgram)
}

/** @throws Error when the program is missing; a test asks `requireTool` first */
export function toolPath(name: string): string {
  const path = findTool(name)
  if (path === undefined) throw new Error(missing(name))
  return path
}

/**
 * The program's path, or undefined after the test was marked as skipped: return then.
 * @throws Error in CI, where nothing may be skipped
 */
export function requireTool(t: TestContext, name: string): string | undefined {
  const path = findTool(name)
  if (path === undefined) skip(t, missing(name))
  return path
}

/** Whether all of them are there; when not, as `requireTool` for the first that is missing. */
export function requireTools(t: TestContext, ...names: readonly string[]): boolean {
  return names.every((name) => requireTool(t, name) !== undefined)
}

/**
 * Whether the test may start daemons and make namespaces; when not, it was marked as skipped: return then.
 * @throws Error in CI, where nothing may be skipped
 */
export function requireRoot(t: TestContext): boolean {
  const isRoot = process.getuid?.() === 0
  if (!isRoot) skip(t, 'daemons and namespaces need root: run this test as root')
  return isRoot
}

function missing(name: string): string {
  // What install.sh leaves to the machine has a Debian package of its own name.
  if (fromDebian.has(name)) return `${name} is missing: install the Debian package ${name}`
  return `${name} is missing: run deploy/tools/install.sh ${name}`
}

function skip(t: TestContext, reason: string): void {
  if (process.env['CI'] === 'true') throw new Error(reason)
  t.skip(reason)
}

function isProgram(path: string): boolean {
  if (statSync(path, { throwIfNoEntry: false })?.isFile() !== true) return false
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

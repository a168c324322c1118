import { spawn, spawnSync, type ChildProcess, type SpawnOptions } from 'node:child_process'

/** Servers and clients never share a core: what one costs must not slow the other. */
export const serverCore = 0
export const clientCore = 1

const canPin = spawnSync('taskset', ['-c', '0', 'true']).status === 0

/** Starts a program on one core, where `taskset` is there; its pid is the program's own. */
export function spawnPinned(
  core: number,
  [file, ...args]: readonly [string, ...string[]],
  options: SpawnOptions,
): ChildProcess {
  return canPin
    ? spawn('taskset', ['-c', String(core), file, ...args], options)
    : spawn(file, args, options)
}

/**
 * Keeps this process, whose clients are measured, off the servers' core.
 * @returns how to let it run anywhere again
 */
export function pinSelf(core: number): () => void {
  const pin = (cores: string): void =>
    void spawnSync('taskset', ['-a', '-c', '-p', cores, String(process.pid)])
  if (!canPin) return () => undefined
  const before = spawnSync('taskset', ['-c', '-p', String(process.pid)], { encoding: 'utf8' })
  const cores = before.stdout.split(':').at(-1)?.trim()
  pin(String(core))
  return () => {
    if (cores !== undefined) pin(cores)
  }
}

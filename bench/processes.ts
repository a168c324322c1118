import { spawn, spawnSync, type ChildProcess, type SpawnOptions } from 'node:child_process'
import { once } from 'node:events'
import { connect, createServer, type AddressInfo } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'

/** Servers and clients never share a core: what one costs must not slow the other. */
export const serverCore = 0
export const clientCore = 1

const stopMs = 20_000
const startMs = 60_000
const canPin = spawnSync('taskset', ['-c', '0', 'true']).status === 0

/** Starts a program on one core, where `taskset` is there; its pid is the program's own. */
export function spawnPinned(
  core: number,
  [file, ...args]: [string, ...string[]],
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

/** Asks a child to stop, and kills it when it takes too long. */
export async function stopProcess(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exited = once(child, 'exit')
  child.kill('SIGTERM')
  const timer = setTimeout(() => child.kill('SIGKILL'), stopMs)
  await exited
  clearTimeout(timer)
}

/** @returns a port of 127.0.0.1 that was free a moment ago */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  server.close()
  await once(server, 'close')
  return port
}

/** Resolves when something listens there. @throws Error when the child ends first, or nothing does within a minute */
export async function listening(child: ChildProcess, port: number): Promise<void> {
  const deadline = Date.now() + startMs
  while (!(await accepts(port))) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`${child.spawnargs.join(' ')} ended at its start`)
    if (Date.now() > deadline) throw new Error(`${child.spawnargs.join(' ')} does not listen`)
    await delay(50)
  }
}

async function accepts(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1')
  try {
    await once(socket, 'connect')
    return true
  } catch {
    return false
  } finally {
    socket.destroy()
  }
}

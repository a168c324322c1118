import { setTimeout as sleep } from 'node:timers/promises'
import type { Endpoint, Mirroring } from '../../../shared/clients/mirroring.ts'
import { UsageError } from '../../command-line.ts'
import { onOneLine } from '../../one-line.ts'
import { describeFault, StartError } from '../../start-errors.ts'
import type { Near } from './near.ts'
import type { NearSettings } from './near-options.ts'

export interface NearestDeps {
  /** What was given, with the edges of `--edge` if there were any. */
  readonly mirroring: Mirroring
  /** Undefined: the edges are those that were given, in their order. */
  readonly settings: NearSettings | undefined
  /** Whether an edge at a plain http URL may be written. */
  readonly plainHttp: boolean
  /** The port of the edges' listener that is meant, where it is not that of their URLs. */
  readonly port?: string | undefined
  /** Writes what a client is told, and has it read. @returns the exit code */
  write(mirroring: Mirroring): Promise<number>
  /** Between two looks, and so between two writes: 5 s without. */
  readonly lookMs?: number
  /** Ends a watch; SIGINT and SIGTERM do, too. */
  readonly signal?: AbortSignal
}

/** Writes for a client which edges it has: once, or for as long as this runs. */
export async function writeNearest(deps: NearestDeps): Promise<number> {
  const { mirroring, settings, write } = deps
  if (settings === undefined) return write(mirroring)
  // Most write the edges that were given, and need none of it.
  const { openNear } = await import('./open-near.ts')
  const near = await openNear({ ...deps, say }, settings)
  try {
    if (settings.watch)
      return await keepWritten(near, { ...deps, write: (edges) => write({ ...mirroring, edges }) })
    const edges = await near.look()
    if (edges.length === 0) throw new StartError('none of the edges answers; nothing was written')
    return await write({ ...mirroring, edges })
  } finally {
    await near.close()
  }
}

/** Until it is told to end. What goes wrong is said, and tried again: the client goes on by what was written last. */
async function keepWritten(
  near: Near,
  {
    write,
    lookMs = 5000,
    signal: given,
  }: Pick<NearestDeps, 'lookMs' | 'signal'> & {
    readonly write: (edges: readonly Endpoint[]) => Promise<number>
  },
): Promise<number> {
  const ending = new AbortController()
  const { signal } = ending
  const ended = Promise.withResolvers<undefined>()
  const end = () => {
    ending.abort()
    ended.resolve(undefined)
  }
  for (const name of ['SIGINT', 'SIGTERM'] as const) process.on(name, end)
  given?.addEventListener('abort', end)
  let written = ''
  let problem = ''
  try {
    while (!signal.aborted) {
      try {
        const edges = await Promise.race([near.look(), ended.promise])
        if (edges === undefined) break
        const order = edges.map(({ url }) => url).join(' ')
        if (order !== '' && order !== written) {
          await write(edges)
          written = order
        }
        problem = order === '' ? sayNew('none of the edges answers', problem) : ''
      } catch (error) {
        if (error instanceof UsageError) throw error
        problem = sayNew(describeFault(error), problem)
      }
      await sleep(lookMs, undefined, { signal }).catch(() => undefined)
    }
    return 0
  } finally {
    for (const name of ['SIGINT', 'SIGTERM'] as const) process.off(name, end)
  }
}

function sayNew(line: string, before: string): string {
  if (line !== before) say(`${line}; it is tried again`)
  return line
}

function say(line: string): void {
  process.stderr.write(`outport: ${onOneLine(line)}\n`)
}

import { setTimeout as sleep } from 'node:timers/promises'
import type { Endpoint, Mirroring } from '../../../shared/clients/mirroring.ts'
import { createConsulClient } from '../../../shared/discovery/consul-client.ts'
import { watchMembers, type Member } from '../../../shared/discovery/members.ts'
import { createLogger } from '../../../shared/observability/log.ts'
import { UsageError } from '../../command-line.ts'
import { onOneLine } from '../../primary-client.ts'
import { describeFault, StartError } from '../../start-errors.ts'
import { createKnownEdges } from './known-edges.ts'
import { createNear, type KnownEdge, type Near } from './near.ts'
import type { NearSettings } from './near-options.ts'
import { parseEndpoint, readCa } from './options.ts'
import { createPings } from './pings.ts'

/** How long Consul may take to say who is there before it goes without. */
const consulMs = 5000

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
  const near = await openNear(deps, settings)
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

interface OpenNear extends Near {
  close(): Promise<void>
}

async function openNear(
  { mirroring, plainHttp, port }: NearestDeps,
  { consul, site, machine }: NearSettings,
): Promise<OpenNear> {
  const ca = await readCa(mirroring)
  const pings = createPings({ ca })
  if (mirroring.edges.length > 0 || mirroring.primary === undefined) {
    const given = mirroring.edges.map((endpoint) => {
      const { url } = endpoint
      return { id: url, url, site: undefined, endpoint }
    })
    const edges = (): Promise<readonly KnownEdge[]> => Promise.resolve(given)
    const near = createNear({ edges, members: () => [], pings, site, machine })
    return { ...near, close: async () => pings.close() }
  }
  const known = createKnownEdges({
    primary: mirroring.primary,
    ca,
    endpointOf: ({ url }) => parseEndpoint('edge', atPort(url, port), plainHttp),
    say,
  })
  const watched = await watchConsul(consul, known.latest)
  const near = createNear({ edges: known.edges, members: watched.members, pings, site, machine })
  return {
    async look() {
      // First who counts: what Consul says is checked by that.
      await known.edges()
      await watched.ready
      return near.look()
    },
    async close() {
      await watched.close()
      known.close()
      pings.close()
    },
  }
}

function atPort(text: string, port: string | undefined): string {
  if (port === undefined) return text
  const url = new URL(text)
  url.port = port
  return url.origin
}

interface WatchedConsul {
  members(): readonly Member[]
  /** Ends when it has said who is there, or takes too long. */
  readonly ready: Promise<unknown>
  close(): Promise<void>
}

async function watchConsul(
  settings: NearSettings['consul'],
  latest: () => readonly KnownEdge[],
): Promise<WatchedConsul> {
  if (settings === undefined)
    return { members: () => [], ready: Promise.resolve(), close: async () => undefined }
  const client = await createConsulClient(settings)
  const members = watchMembers({
    client,
    roster: () => latest().map(({ id }) => id),
    urlOf: (edgeId) => latest().find(({ id }) => id === edgeId)?.url,
    log: createLogger({ level: 'warn', write: sayLogged }),
  })
  const late = new AbortController()
  const ready = Promise.race([
    members.ready,
    sleep(consulMs, undefined, { signal: late.signal }).catch(() => undefined),
  ])
  return {
    members: () => members.list(),
    ready,
    async close() {
      late.abort()
      await members.close()
      client.close()
    },
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

/** A line of the log, for people. */
function sayLogged(line: string): void {
  const { msg, reason, service, entries } = JSON.parse(line) as Readonly<Record<string, unknown>>
  const details = [reason, service, entries].flatMap((detail) =>
    typeof detail === 'string' || typeof detail === 'number' ? [String(detail)] : [],
  )
  say([String(msg), ...(details.length === 0 ? [] : [`(${details.join(', ')})`])].join(' '))
}

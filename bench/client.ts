import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { buffer } from 'node:stream/consumers'
import { fileURLToPath } from 'node:url'
import type { Load, LoadResult } from './load-protocol.ts'
import { stopProcess } from '../test/kit/processes.ts'
import { clientCore, spawnPinned } from './processes.ts'
import { acceptedTypes } from './registry.ts'
import type { Server } from './servers.ts'

/** One kind of request to a server. */
export interface Asking {
  readonly server: Server
  readonly path: string
  readonly method?: 'GET' | 'HEAD'
  readonly authorization?: string | undefined
  readonly connections: number
  readonly total: number
}

/** The clients' side of a bench, on a core of its own; the caller closes it. */
export interface Client {
  /** @throws Error unless every answer was a whole 200 within two minutes */
  ask(asking: Asking): Promise<LoadResult>
  /** As `ask`, for large bodies: over plain HTTP the kernel drops them unread, where it can. */
  download(asking: Asking): Promise<LoadResult>
  close(): Promise<void>
}

const deadlineMs = 120_000
const dropper = fileURLToPath(new URL('drop-bodies.pl', import.meta.url))

/** Whether the kernel can drop bodies unread: perl, a part of every Debian, asks it to. */
export function canDrop(): boolean {
  return spawnSync('perl', ['-MSocket', '-e', 'MSG_TRUNC']).status === 0
}

/** Starts the load process. */
export function startClient(): Client {
  const script = fileURLToPath(new URL('load-process.ts', import.meta.url))
  const child = spawnPinned(clientCore, [process.execPath, script], {
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  })
  const drops = canDrop()
  const ask = async (asking: Asking): Promise<LoadResult> => {
    child.send(loadOf(asking))
    const signal = AbortSignal.timeout(deadlineMs)
    const [result] = (await once(child, 'message', { signal })) as [LoadResult]
    if (result.error !== undefined)
      throw new Error(`${asking.server.name} ${asking.path}: ${result.error}`)
    return result
  }
  return {
    ask,
    download: (asking) => (drops && asking.server.ca === undefined ? drop(asking) : ask(asking)),
    close: () => stopProcess(child),
  }
}

/** A process for each connection. */
async function drop(asking: Asking): Promise<LoadResult> {
  const { connections, total } = asking
  const startedAt = performance.now()
  const results = await Promise.all(
    Array.from({ length: connections }, (_, i) =>
      dropOver(asking, Math.floor((total + i) / connections)),
    ),
  )
  const sum = (figure: number): number =>
    results.reduce((all, each) => all + (each[figure] ?? NaN), 0)
  const seconds = (performance.now() - startedAt) / 1000
  return { responses: sum(0), bodyBytes: sum(1), seconds, cpuSeconds: sum(2) }
}

async function dropOver(asking: Asking, responses: number): Promise<number[]> {
  const { port, request } = loadOf(asking)
  const command: [string, ...string[]] = ['perl', dropper, String(port), String(responses)]
  const child = spawnPinned(clientCore, command, {
    stdio: ['pipe', 'pipe', 'inherit'],
    timeout: deadlineMs,
  })
  if (child.stdin === null || child.stdout === null) throw new Error('no pipes to perl')
  const exited = once(child, 'exit')
  child.stdin.end(request)
  const printed = await buffer(child.stdout)
  const [code] = (await exited) as [number | null]
  if (code !== 0) throw new Error(`${asking.server.name} ${asking.path}: the download failed`)
  return printed.toString('latin1').trim().split(' ').map(Number)
}

function loadOf({ server, path, method = 'GET', authorization, connections, total }: Asking): Load {
  const { hostname, port, host } = server.origin
  const lines = [
    `${method} ${path} HTTP/1.1`,
    `Host: ${host}`,
    'User-Agent: outport-bench',
    `Accept: ${acceptedTypes}`,
    ...(authorization === undefined ? [] : [`Authorization: ${authorization}`]),
  ]
  return {
    host: hostname,
    port: Number(port),
    ...(server.ca === undefined ? {} : { ca: server.ca }),
    request: `${lines.join('\r\n')}\r\n\r\n`,
    head: method === 'HEAD',
    connections,
    total,
  }
}

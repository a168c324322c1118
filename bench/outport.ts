import { randomBytes } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import type { ChildProcess } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { openDatabase, type Database } from '../primary/store/database.ts'
import { treeOf } from './cpu.ts'
import type { TlsFiles } from './peers.ts'
import { stopProcess } from '../test/kit/processes.ts'
import { serverCore, spawnPinned } from './processes.ts'
import type { Server } from './servers.ts'

/** The real program as `outport up` starts it; the caller stops it. */
export interface Outport {
  readonly primary: Server
  readonly edge: Server
  /** For Basic authentication at the primary. */
  readonly admin: { readonly username: string; readonly password: string }
  stop(): Promise<void>
}

export interface OutportOptions {
  /** Its own; the data lies in it. */
  readonly folder: string
  /** The certificate of both. */
  readonly tls?: TlsFiles | undefined
  /** More of the configuration's `edge:` part. */
  readonly edge?: object | undefined
}

/**
 * Opens the embedded database of a primary, behind its back; the caller closes it.
 * @param data the folder of its data, `data` in that of `startOutport`
 */
export async function openRecordsOf(
  data: string,
  { poolSize }: { readonly poolSize: number },
): Promise<Database> {
  const postgres = join(data, 'postgres')
  const password = await readFile(join(postgres, 'password'), 'utf8')
  const socketFolder = join(postgres, 'socket')
  const address = { socketFolder, user: 'outport', password, database: 'postgres' }
  return openDatabase({ address, poolSize, statementTimeoutMs: 0 })
}

const launcher = fileURLToPath(new URL('../deploy/launch.mjs', import.meta.url))

/** Starts a primary and an edge by the launcher, which sets the malloc variables, on the servers' core. */
export async function startOutport({ folder, tls, edge }: OutportOptions): Promise<Outport> {
  const config = join(folder, 'outport.yaml')
  const password = randomBytes(16).toString('hex')
  await mkdir(folder, { recursive: true })
  // JSON is YAML too.
  await writeFile(config, JSON.stringify(await configOf({ folder, tls, edge })))
  const ports = ['--primary-port', '0', '--edge-port', '0', '--mirror-port', '0']
  const child = spawnPinned(
    serverCore,
    [
      process.execPath,
      launcher,
      'up',
      '--json',
      '--config',
      config,
      '--data',
      join(folder, 'data'),
      ...ports,
    ],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
      env: { ...process.env, OUTPORT_ADMIN_PASSWORD: password },
    },
  )
  try {
    const urls = await readUrls(child)
    const serverOf = (name: 'primary' | 'edge'): Server => ({
      name,
      origin: new URL(urls[name]),
      pid: childOf(child, name),
      ...(tls ? { ca: tls.ca } : {}),
      stop: () => stopProcess(child),
    })
    return {
      primary: serverOf('primary'),
      edge: serverOf('edge'),
      admin: { username: 'admin', password },
      stop: () => stopProcess(child),
    }
  } catch (error) {
    await stopProcess(child)
    throw error
  }
}

async function configOf({ folder, tls, edge }: OutportOptions): Promise<object> {
  const secure = tls && { tls: { cert: tls.cert, key: tls.key } }
  const listeners = [
    { name: 'edge', port: 0, default: 'primary', ping: 'challenge', ...secure },
    { name: 'mirror', port: 0, default: 'docker.io', ping: 'open' },
  ]
  const log = { level: 'warn' }
  // Any free one: a bench may have several of each.
  const metrics = { port: 0 }
  const internal = { port: 0 }
  if (tls === undefined)
    return { log, primary: { internal, metrics }, edge: { metrics, ...edge, listeners } }
  // The edge has to trust the CA of the primary that it asks.
  const ca_file = join(folder, 'ca.pem')
  await writeFile(ca_file, tls.ca)
  return {
    log,
    primary: { listeners: [{ port: 0, ...secure }], internal, metrics, ca_file },
    edge: { metrics, ...edge, listeners },
  }
}

async function readUrls(child: ChildProcess): Promise<Record<'primary' | 'edge', string>> {
  if (child.stdout === null) throw new Error('no pipe from outport')
  for await (const line of createInterface({ input: child.stdout }))
    return JSON.parse(line) as Record<'primary' | 'edge', string>
  throw new Error('outport up ended at its start')
}

/** The process that the supervisor runs the program in. */
function childOf({ pid = 0 }: ChildProcess, name: string): number {
  const found = treeOf(pid).find((each) => {
    const command = readFileSync(`/proc/${each}/cmdline`, 'latin1')
    return command.endsWith(`/supervised.ts\0${name}\0`)
  })
  if (found === undefined) throw new Error(`no process of the ${name}`)
  return found
}

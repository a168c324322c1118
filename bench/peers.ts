import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { findTool } from '../test/clients/tools.ts'
import { freePort, listening, stopProcess } from '../test/kit/processes.ts'
import { serverCore, spawnPinned } from './processes.ts'
import type { Server } from './servers.ts'

/** Files of a server certificate. */
export interface TlsFiles {
  readonly cert: string
  readonly key: string
  /** PEM of the CA, for clients. */
  readonly ca: string
}

/** A peer is not installed: the message says how to get it. */
export class MissingPeer extends Error {}

/** @throws MissingPeer */
function peerPath(name: 'nginx' | 'distribution'): string {
  const path = findTool(name)
  if (path === undefined)
    throw new MissingPeer(
      `${name} is missing, and cannot be compared: run deploy/tools/install.sh ${name}`,
    )
  return path
}

/**
 * nginx as one sets it up to serve files: sendfile, open files kept, no access log, one worker.
 * @param folder its own; what lies under `root` in it is served
 */
export async function startNginx(folder: string, tls?: TlsFiles): Promise<Server> {
  await mkdir(join(folder, 'root'), { recursive: true })
  // The load process speaks nothing older, and nginx nothing newer than it is told.
  const secure = tls
    ? `ssl_protocols TLSv1.3; ssl_certificate ${tls.cert}; ssl_certificate_key ${tls.key};`
    : ''
  const http = (port: number): string => `
  open_file_cache max=1000 inactive=60s; open_file_cache_valid 60s;
  server { listen 127.0.0.1:${port} ${tls ? 'ssl' : ''}; root ${folder}/root; ${secure} }`
  return runNginx(folder, { http, tls })
}

/** What of an nginx is not the same in all benches. */
export interface NginxOptions {
  /** The rest of its `http` part, where it listens on `port`. */
  readonly http: (port: number) => string
  readonly tls?: TlsFiles | undefined
  /** The servers' without. */
  readonly core?: number
}

/** One worker in the foreground, with its files in a folder of its own; the caller stops it. */
export async function runNginx(
  folder: string,
  { http, tls, core = serverCore }: NginxOptions,
): Promise<Server> {
  const program = peerPath('nginx')
  const port = await freePort()
  const config = join(folder, 'nginx.conf')
  await mkdir(folder, { recursive: true })
  await writeFile(config, nginxConfig(folder, http(port)))
  const child = spawnPinned(core, [program, '-p', folder, '-c', config], { stdio: 'inherit' })
  return running('nginx', { child, port, tls })
}

function nginxConfig(folder: string, http: string): string {
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((kind) => `${kind}_temp_path ${folder}/temp-${kind};`)
    .join('\n  ')
  return `daemon off; ${process.getuid?.() === 0 ? 'user root;' : ''} worker_processes 1;
pid ${folder}/nginx.pid; error_log stderr crit;
events { worker_connections 1024; }
http {
  ${temp}
  access_log off; sendfile on; tcp_nopush on; keepalive_timeout 120; keepalive_requests 1000000000;
  types {} default_type application/octet-stream;
  ${http}
}
`
}

/** distribution as its own example configures it, without authorization and access log. */
export async function startDistribution(folder: string, tls?: TlsFiles): Promise<Server> {
  return runDistribution(folder, { tls })
}

/** @param options.more further lines of its configuration */
export async function runDistribution(
  folder: string,
  { tls, more = '' }: { readonly tls?: TlsFiles | undefined; readonly more?: string },
): Promise<Server> {
  const program = peerPath('distribution')
  const port = await freePort()
  const config = join(folder, 'distribution.yml')
  await mkdir(folder, { recursive: true })
  const secure = tls ? `\n  tls: { certificate: ${tls.cert}, key: ${tls.key} }` : ''
  await writeFile(
    config,
    `version: 0.1
log: { level: error, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: ${folder} }, cache: { blobdescriptor: inmemory } }
http:
  addr: 127.0.0.1:${port}
  secret: bench${secure}
${more}
`,
  )
  const child = spawnPinned(serverCore, [program, 'serve', config], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, OTEL_TRACES_EXPORTER: 'none' },
  })
  return running('distribution', { child, port, tls })
}

async function running(
  name: string,
  {
    child,
    port,
    tls,
  }: {
    child: ReturnType<typeof spawnPinned>
    port: number
    tls: TlsFiles | undefined
  },
): Promise<Server> {
  try {
    await listening(child, port)
    if (child.pid === undefined) throw new Error(`${name} did not start`)
  } catch (error) {
    await stopProcess(child)
    throw error
  }
  return {
    name,
    origin: new URL(`http${tls ? 's' : ''}://127.0.0.1:${port}/`),
    pid: child.pid,
    ...(tls ? { ca: tls.ca } : {}),
    stop: () => stopProcess(child),
  }
}

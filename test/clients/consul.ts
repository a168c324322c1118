import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { run, startDaemon, type Daemon, type Result } from './process.ts'
import { toolPath } from './tools.ts'

/** The secret that may do everything, where ACLs are on. */
const managementToken = '11111111-2222-3333-4444-555555555555'

export interface ConsulAgentOptions {
  /** Denies everything without a token. */
  readonly acl?: true
  /** PEM files: it serves https only, and takes who shows a certificate of the CA. */
  readonly tls?: { readonly ca: string; readonly cert: string; readonly key: string }
}

/** A server of Consul that is alone, and forgets everything when it stops. */
export interface ConsulAgent {
  readonly url: URL
  readonly dnsPort: number
  /** A request as root, whose answer is parsed. @throws Error with the answer unless it is 200 */
  call(method: string, path: string, body?: unknown): Promise<unknown>
  /** A shell's commands, which find `consul`, `curl` and Consul's variables. */
  shell(commands: string): Promise<Result>
  /** How many writes the servers have applied. */
  writes(): Promise<number>
  stop(): Promise<void>
  /** The running process. @throws Error when there is none */
  pid(): number
  /** Ends it by SIGKILL. */
  kill(): Promise<void>
  /** Starts a new one, which knows nothing, at the same ports. */
  start(): Promise<void>
  /** Stops it and starts a new one, which knows nothing, at the same ports. */
  restart(): Promise<void>
}

/** Starts an agent at ports that were free a moment ago; it ends with the test. */
export async function startConsulAgent(
  t: TestContext,
  { acl, tls }: ConsulAgentOptions = {},
): Promise<ConsulAgent> {
  const folder = await mkdtemp(join(tmpdir(), 'outport-consul-'))
  const [http = 0, dns = 0, server = 0, serfLan = 0, serfWan = 0] = await freePorts(5)
  const scheme = tls === undefined ? 'http' : 'https'
  const url = new URL(`${scheme}://127.0.0.1:${http}`)
  const config = join(folder, 'consul.json')
  await writeFile(
    config,
    JSON.stringify({
      ports: {
        http: tls === undefined ? http : -1,
        https: tls === undefined ? -1 : http,
        grpc: -1,
        dns,
        server,
        serf_lan: serfLan,
        serf_wan: serfWan,
      },
      disable_update_check: true,
      performance: { raft_multiplier: 1 },
      ...(acl && {
        acl: { enabled: true, default_policy: 'deny', tokens: { master: managementToken } },
      }),
      ...(tls && {
        ca_file: tls.ca,
        cert_file: tls.cert,
        key_file: tls.key,
        verify_incoming_https: true,
      }),
    }),
  )
  let daemon: Daemon | undefined
  const token = acl === true ? { 'x-consul-token': managementToken } : undefined
  const call = async (method: string, path: string, body?: unknown) => {
    const answer = await fetch(new URL(path, url), {
      method,
      ...(token && { headers: token }),
      ...(body !== undefined && { body: JSON.stringify(body) }),
    })
    const text = await answer.text()
    if (!answer.ok) throw new Error(`${method} ${path}: ${answer.status} ${text}`)
    return text === '' ? undefined : (JSON.parse(text) as unknown)
  }
  const isReady = async () => {
    // Over TLS nobody else has a certificate: whoever began the test looks.
    if (tls !== undefined) return true
    try {
      const nodes = await call('GET', '/v1/catalog/nodes')
      return Array.isArray(nodes) && nodes.length > 0
    } catch {
      return false
    }
  }
  const start = async () => {
    daemon = await startDaemon({
      command: toolPath('consul'),
      args: ['agent', '-dev', '-bind=127.0.0.1', '-node=here', `-config-file=${config}`],
      log: join(folder, 'consul.log'),
      isReady,
    })
  }
  const stop = async () => {
    await daemon?.stop()
    daemon = undefined
  }
  t.after(async () => {
    await stop()
    await rm(folder, { recursive: true, force: true })
  })
  await start()
  return {
    url,
    dnsPort: dns,
    call,
    shell: (commands) =>
      run('bash', ['-euo', 'pipefail', '-c', commands], {
        env: {
          CONSUL_HTTP_ADDR: url.origin,
          CONSUL_HTTP_TOKEN: acl === true ? managementToken : '',
          HOME: folder,
        },
      }),
    async writes() {
      const { Stats: stats } = (await call('GET', '/v1/agent/self')) as {
        readonly Stats: { readonly raft: { readonly applied_index: string } }
      }
      return Number(stats.raft.applied_index)
    },
    stop,
    pid() {
      if (daemon === undefined) throw new Error('Consul does not run')
      return daemon.pid
    },
    async kill() {
      await daemon?.kill()
      daemon = undefined
    },
    start,
    async restart() {
      await stop()
      await start()
    },
  }
}

/** Consul takes 0 for its own default, so that each is to be known before. */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, '127.0.0.1'))
  await Promise.all(
    servers.map((server) => new Promise((ready) => server.once('listening', ready))),
  )
  const ports = servers.map((server) => {
    const address = server.address()
    return typeof address === 'object' && address !== null ? address.port : 0
  })
  await Promise.all(servers.map((server) => new Promise((closed) => server.close(closed))))
  return ports
}

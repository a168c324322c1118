import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import type { TestContext } from 'node:test'
import { formatNextSteps } from '../../deploy/next-steps.ts'
import { waitFor } from '../kit/clock.ts'
import { run, startDaemon } from './process.ts'

/** The names that the certificates of a TLS world are for; clients that have a view of their own resolve them. */
export const primaryName = 'registry.test'
export const edgeName = 'edge.test'

export interface OutportOptions {
  /**
   * Serves HTTPS on `[::1]` by the names above: docker does not check certificates in 127.0.0.0/8.
   * Plain http on 127.0.0.1 without.
   */
  readonly tls?: boolean
  /** Where docker.io's stand-in is, without credentials. */
  readonly dockerHub?: string
  /** The Consul agent at which both register. */
  readonly consul?: string
}

/** `outport up` as a user starts it. */
export interface Outport {
  /** host:port, as it stands in an image's name. */
  readonly primary: string
  readonly edge: string
  readonly mirror: string
  readonly scheme: 'http' | 'https'
  /** The password of admin. */
  readonly password: string
  /** The CA's PEM file; only with TLS. */
  readonly ca: string
  /** A folder of the test's own. */
  readonly folder: string
}

const launcher = resolve(import.meta.dirname, '../../deploy/launch.mjs')
const password = 'Client-Tests-1'

/** Starts a primary and an edge by the command line; they stop, and the folder goes, when the test is over. */
export async function startOutport(t: TestContext, options: OutportOptions = {}): Promise<Outport> {
  const folder = await mkdtemp(join(tmpdir(), 'outport-clients-'))
  let stop = async (): Promise<void> => undefined
  // One hook: they run in the order in which they were added, and the program must be gone before its folder.
  t.after(async () => {
    await stop()
    // Its types lack it.
    const { passed } = t as { readonly passed?: boolean }
    if (passed === false) t.diagnostic(`the end of Outport's log:\n${await endOfLog(log)}`)
    await rm(folder, { recursive: true, force: true })
  })
  const log = join(folder, 'outport.log')
  const ports = { primary: await freePort(), edge: await freePort(), mirror: await freePort() }
  const tls = options.tls === true ? await issueCertificates(folder) : undefined
  const config = join(folder, 'outport.yaml')
  // JSON is YAML.
  await writeFile(config, JSON.stringify(configOf({ ...options, ports, tls })))
  const daemon = await startDaemon({
    command: process.execPath,
    args: [launcher, 'up', '--json', '--config', config, '--data', join(folder, 'data')],
    env: { OUTPORT_ADMIN_PASSWORD: password },
    log,
    isReady: async () => /^\{"primary":/m.test(await readFile(log, 'utf8')),
  })
  stop = () => daemon.stop()
  const [primaryHost, edgeHost] =
    tls === undefined ? ['127.0.0.1', '127.0.0.1'] : [primaryName, edgeName]
  return {
    primary: `${primaryHost}:${ports.primary}`,
    edge: `${edgeHost}:${ports.edge}`,
    mirror: `127.0.0.1:${ports.mirror}`,
    scheme: tls === undefined ? 'http' : 'https',
    password,
    ca: tls?.ca ?? '',
    folder,
  }
}

/** What a failed test can be told by. */
async function endOfLog(log: string): Promise<string> {
  const text = await readFile(log, 'utf8').catch(() => '')
  return text.split('\n').slice(-80).join('\n')
}

/** Names for clients that resolve by a table of their own. */
export const testHosts = { [primaryName]: '::1', [edgeName]: '::1' }

interface Certificates {
  readonly ca: string
  readonly cert: string
  readonly key: string
}

/** By our own command, as the documentation says. */
async function issueCertificates(folder: string): Promise<Certificates> {
  const [ca, out] = [join(folder, 'ca'), join(folder, 'tls')]
  await runOutport(['certs', 'init', '--dir', ca])
  const names = ['--host', primaryName, '--host', edgeName, '--ip', '::1', '--ip', '127.0.0.1']
  await runOutport(['certs', 'issue', ...names, '--dir', ca, '--out', out])
  return { ca: join(ca, 'ca.crt'), cert: join(out, 'server.crt'), key: join(out, 'server.key') }
}

/** Runs the command line. @throws Error with what it printed when it fails */
export async function runOutport(args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await run(process.execPath, [launcher, ...args])
  if (code !== 0) throw new Error(`outport ${args.join(' ')}: ${code} ${stdout}${stderr}`)
  return stdout
}

interface ConfigOptions {
  readonly ports: Readonly<Record<'primary' | 'edge' | 'mirror', number>>
  readonly tls: Certificates | undefined
  readonly dockerHub?: string
  readonly consul?: string
}

function configOf({ ports, tls, dockerHub, consul: address }: ConfigOptions): object {
  const seen = address === undefined ? {} : { consul: { address } }
  const place = tls === undefined ? {} : { address: '::1', tls: { cert: tls.cert, key: tls.key } }
  const named = (name: string, port: number) => {
    if (tls !== undefined) return { external_url: `https://${name}:${port}` }
    // Others are told of it there.
    return address === undefined ? {} : { external_url: `http://127.0.0.1:${port}` }
  }
  const hub = {
    id: 'docker.io',
    names: ['docker.io', 'registry-1.docker.io'],
    url: dockerHub,
    tag_ttl: '1s',
  }
  return {
    primary: {
      listeners: [{ port: ports.primary, ...place }],
      internal: { port: 0 },
      metrics: { port: 0 },
      ...named(primaryName, ports.primary),
      ...(tls && { ca_file: tls.ca }),
      client_edges: ['127.0.0.1'],
      ...seen,
    },
    edge: {
      listeners: [
        { name: 'edge', port: ports.edge, default: 'primary', ping: 'challenge', ...place },
        { name: 'mirror', port: ports.mirror, default: 'docker.io', ping: 'open' },
      ],
      metrics: { port: 0 },
      primary: { names: [primaryName], tag_ttl: '0s' },
      ...named(edgeName, ports.edge),
      ...(dockerHub !== undefined && { upstreams: [hub] }),
      ...seen,
    },
  }
}

/** A port that was free a moment ago: a name in an image has its port, so it must be known before the start. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await new Promise((ready) => server.once('listening', ready))
  const address = server.address()
  await new Promise((closed) => server.close(closed))
  if (typeof address !== 'object' || address === null) throw new Error('no port')
  return address.port
}

/** The folder `name` in a world's folder, made. */
export async function subfolder({ folder }: Outport, name: string): Promise<string> {
  const path = join(folder, name)
  await mkdir(path, { recursive: true })
  return path
}

/** Waits until the log, which is written with a delay, is as expected. @returns all of it */
export async function waitForLog(
  { folder }: Outport,
  isExpected: (text: string) => boolean,
): Promise<string> {
  return waitFor('the log', async () => {
    const text = await readFile(join(folder, 'outport.log'), 'utf8')
    return isExpected(text) && text
  })
}

/** The file that `up` tells people to write under a heading that begins so. */
export function printedFile(outport: Outport, heading: string): string {
  const { scheme, primary, edge, mirror } = outport
  const steps = formatNextSteps(
    {
      primary: `${scheme}://${primary}`,
      edge: `${scheme}://${edge}`,
      mirror: `http://${mirror}`,
      metrics: { primary: '', edge: '' },
    },
    { kind: 'known' },
  )
  const lines = steps.split('\n')
  const first = lines.findIndex((line) => line.startsWith(heading)) + 1
  const length = lines.slice(first).findIndex((line) => /^\S/.test(line))
  const body = lines.slice(first, length < 0 ? undefined : first + length)
  if (first === 0 || body.length === 0) throw new Error(`nothing is printed under: ${heading}`)
  return body.map((line) => line.replace(/^ {2}/, '')).join('\n')
}

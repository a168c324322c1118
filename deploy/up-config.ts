import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { atPrimary } from '../edge/config.ts'
import type { FileCheck } from '../shared/config/load.ts'
import { atPortOf, isLoopback } from '../shared/config/origins.ts'
import type { ListenerOptions } from '../shared/config/server-options.ts'
import { sanOf } from '../shared/trust/key-pair.ts'
import { UsageError } from './command-line.ts'
import { edgeSecretPath } from './first-secrets.ts'
import type { Started } from './next-steps.ts'
import { loadOutportConfig, type OutportConfig } from './programs.ts'
import { StartError } from './start-errors.ts'
import type { Ready } from './supervision.ts'

/** What the command line of `up` sets. */
export interface UpFlags {
  readonly config?: string | undefined
  readonly data?: string | undefined
  readonly host?: string | undefined
  readonly primaryPort?: number | undefined
  readonly edgePort?: number | undefined
  readonly mirrorPort?: number | undefined
}

const ownEdgeId = 'up'
const loopbackNetworks = ['127.0.0.0/8', '::1']

/**
 * The configuration of `up`: the file, the environment and the flags, and on top what joins the two
 * programs: an edge of its own at the primary, which takes people's log-ins. Where the primary's port is any free one,
 * `joinPrimary` tells the edge.
 * @throws ConfigError with every problem
 */
export function loadUpConfig(flags: UpFlags, files?: FileCheck): OutportConfig {
  const config = load(flags, files)
  const [listener] = config.primary.listeners
  return listener === undefined || listener.port === 0
    ? config
    : joinPrimary(config, urlOf(listener))
}

function load(flags: UpFlags, files?: FileCheck): OutportConfig {
  const written = loadOutportConfig({ config: flags.config, flags: { data: flags.data }, files })
  const id = written.edge.id ?? ownEdgeId
  const credential_file = written.edge.credential_file ?? edgeSecretPath(written.data)
  const isListed = written.primary.edges.some((edge) => edge.id === id)
  const ownEdge = { id, name: 'the edge of up', credential_file, accept_people: true }
  const edgeListener = written.edge.listeners[shownListeners(written).edge]
  return loadOutportConfig({
    config: flags.config,
    files,
    flags: {
      data: flags.data,
      primary: {
        listeners: primaryListeners(written, flags),
        external_url:
          written.primary.external_url ??
          externalUrl(written.primary.listeners[0], flags.host, flags.primaryPort),
        metrics: metrics(flags, 'PRIMARY'),
        // Behind those of the file.
        edges: isListed ? undefined : [...written.primary.edges.map(() => undefined), ownEdge],
        internal: internal(flags),
        outbound: { allow: [...written.primary.outbound.allow, ...loopbackNetworks] },
      },
      edge: {
        id,
        credential_file,
        listeners: edgeListeners(written, flags),
        external_url:
          written.edge.external_url ?? externalUrl(edgeListener, flags.host, flags.edgePort),
        metrics: metrics(flags, 'EDGE'),
        outbound: { allow: [...written.edge.outbound.allow, ...loopbackNetworks] },
      },
    },
  })
}

/** The configuration with the ports that a program had before, so that it comes back where clients know it. */
export function atSamePorts(
  config: OutportConfig,
  name: 'primary' | 'edge',
  before: Ready | undefined,
): OutportConfig {
  if (before === undefined) return config
  const urls = Object.values(before.urls)
  const options = config[name]
  const listeners = options.listeners.map((listener, index) => ({
    ...listener,
    port: portOf(urls[index]) ?? listener.port,
  }))
  const port = portOf(before.metrics) ?? options.metrics.port
  return { ...config, [name]: { ...options, listeners, metrics: { ...options.metrics, port } } }
}

/** The URLs of what runs, as clients type them. */
export function describeStarted(
  config: OutportConfig,
  { primary, edge }: { readonly primary: Ready; readonly edge: Ready },
): Started {
  const shown = shownListeners(config)
  const edgeUrls = Object.values(edge.urls)
  const typed = (urls: readonly string[], index: number, external?: string) => {
    const url = urls[Math.max(index, 0)]
    if (url === undefined) throw new StartError('a program started without a listener')
    return external === undefined ? reachable(url) : atPortOf(external, url)
  }
  return {
    primary: typed(Object.values(primary.urls), 0, config.primary.external_url),
    edge: typed(edgeUrls, shown.edge, config.edge.external_url),
    mirror: typed(edgeUrls, shown.mirror),
    metrics: { primary: primary.metrics, edge: edge.metrics },
  }
}

/** The indices of the listeners that `up` shows: the first that asks for a log-in, the first that is open. */
function shownListeners(config: OutportConfig): { edge: number; mirror: number } {
  const find = (ping: string) => config.edge.listeners.findIndex((each) => each.ping === ping)
  return { edge: find('challenge'), mirror: find('open') }
}

/** A URL that can be dialled on this machine: the addresses that stand for all are not. */
export function dialable(url: string): string {
  const parsed = new URL(url)
  if (parsed.hostname === '0.0.0.0') parsed.hostname = '127.0.0.1'
  if (parsed.hostname === '[::]') parsed.hostname = '[::1]'
  return parsed.origin
}

/** A URL that other machines can dial, where the listener is on all addresses. */
function reachable(url: string): string {
  const parsed = new URL(url)
  const address = isAny(parsed.hostname.replaceAll(/[[\]]/g, '')) ? machineAddress() : undefined
  if (address === undefined) return dialable(url)
  parsed.hostname = address
  return parsed.origin
}

function portOf(url: string | undefined): number | undefined {
  if (url === undefined) return undefined
  const { port, protocol } = new URL(url)
  if (port !== '') return Number(port)
  return protocol === 'https:' ? 443 : 80
}

function primaryListeners({ primary }: OutportConfig, { host, primaryPort }: UpFlags): unknown {
  return [{ port: primaryPort, ...listenOn(host, primary.listeners[0], 'all') }]
}

function edgeListeners(written: OutportConfig, { host, edgePort, mirrorPort }: UpFlags): unknown {
  const shown = shownListeners(written)
  if (edgePort !== undefined && shown.edge === -1) {
    throw new UsageError('--edge-port: the configuration has no listener with ping: challenge')
  }
  if (mirrorPort !== undefined && shown.mirror === -1) {
    throw new UsageError('--mirror-port: the configuration has no listener with ping: open')
  }
  return written.edge.listeners.map((listener, index) => {
    if (index === shown.edge) return { port: edgePort, ...listenOn(host, listener, 'all') }
    if (index === shown.mirror)
      return { port: mirrorPort, ...listenOn(host, listener, 'anonymous') }
    return undefined
  })
}

/** `--host` beyond this machine is plain http on a network, unless the file gives the listener a certificate. */
function listenOn(
  host: string | undefined,
  listener: ListenerOptions | undefined,
  allowed: 'anonymous' | 'all',
): object {
  if (host === undefined) return {}
  const isPlain = listener?.tls === undefined && listener?.insecure_http === undefined
  return {
    address: host,
    insecure_http: isPlain && !isLoopback(host) ? allowed : undefined,
  }
}

/** On all addresses, clients are told the one that other machines know. */
function externalUrl(
  listener: ListenerOptions | undefined,
  host: string | undefined,
  port: number | undefined,
): string | undefined {
  if (listener === undefined || host === undefined || !isAny(host)) return undefined
  const address = machineAddress()
  return address === undefined
    ? undefined
    : urlOf({ ...listener, address, port: port ?? listener.port })
}

/** The first address of this machine that others know. */
function machineAddress(): string | undefined {
  return Object.values(networkInterfaces())
    .flatMap((addresses) => addresses ?? [])
    .find(({ internal, family }) => !internal && family === 'IPv4')?.address
}

function isAny(host: string): boolean {
  return host === '0.0.0.0' || host === '::'
}

function urlOf({ tls, address, port }: ListenerOptions): string {
  const host = address.includes(':') ? `[${address}]` : address
  return `${tls === undefined ? 'http' : 'https'}://${host}:${port}`
}

/** Its own edge is told the port. */
function internal({ config }: UpFlags): object | undefined {
  const isChosen = config !== undefined || process.env.OUTPORT_CONFIG !== undefined
  return isChosen || process.env.OUTPORT_PRIMARY__INTERNAL__PORT !== undefined
    ? undefined
    : { port: 0 }
}

/** Two of them may run on one machine, so `up` takes free ports, unless somebody chose one. */
function metrics({ config }: UpFlags, name: string): object | undefined {
  const isChosen = config !== undefined || process.env.OUTPORT_CONFIG !== undefined
  if (isChosen || process.env[`OUTPORT_${name}__METRICS__PORT`] !== undefined) return undefined
  return { port: 0 }
}

/**
 * The configuration whose edge is at this primary: how it reaches it, and what clients call it in `?ns=`.
 * @param listening the URL of the primary's first listener
 */
export function joinPrimary(config: OutportConfig, listening: string): OutportConfig {
  const { primary, edge } = config
  const url = ownUrl(primary, dialable(listening))
  const { port, hostname, protocol } = new URL(url)
  const called = [
    ...edge.primary.names,
    new URL(listening).host,
    ...(primary.external_url === undefined
      ? []
      : [new URL(atPortOf(primary.external_url, listening)).host]),
    ...(isLoopback(hostname) ? [`localhost:${port}`, `127.0.0.1:${port}`] : []),
  ]
  const ca = edge.primary.ca ?? primary.ca_file
  const isClear = protocol === 'http:' && !isLoopback(hostname)
  return {
    ...config,
    edge: atPrimary(edge, {
      ...edge.primary,
      url,
      names: [...new Set(called)],
      ...(ca !== undefined && { ca }),
      // The secret goes to this machine's own address.
      insecure_http: isClear || edge.primary.insecure_http,
    }),
  }
}

/** Where the primary listens, by a name that its certificate is for. */
function ownUrl({ listeners, external_url }: OutportConfig['primary'], listening: string): string {
  const cert = listeners[0]?.tls?.cert
  const names = cert === undefined ? undefined : namesOf(cert)
  if (names === undefined) return listening
  const { dnsNames, ipAddresses } = names
  const url = new URL(listening)
  if (ipAddresses.includes(url.hostname.replaceAll(/[[\]]/g, ''))) return listening
  if (external_url !== undefined) return atPortOf(external_url, listening)
  const name = dnsNames.includes('localhost') ? 'localhost' : dnsNames[0]
  if (name !== undefined) url.hostname = name
  return url.origin
}

/** Undefined for a file that cannot be used: the listener that it is for says why. */
function namesOf(cert: string): ReturnType<typeof sanOf> | undefined {
  try {
    return sanOf(new X509Certificate(readFileSync(cert)))
  } catch {
    return undefined
  }
}

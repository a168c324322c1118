import { hostname } from 'node:os'
import type { ConsulSettings } from '../../../shared/discovery/consul-client.ts'
import { isPlace } from '../../../shared/discovery/service.ts'
import { checkOrigin, isLoopback } from '../../../shared/config/origins.ts'
import { readSecretFile, readTextFile } from '../../../shared/files/text-file.ts'
import { readClientCertificate } from '../../../shared/http/tls-files.ts'
import { UsageError } from '../../command-line.ts'

/** Options of every client: which edges, by how near they are. */
export const nearOptions = {
  near: {
    type: 'boolean',
    help: 'the nearest edges: of those of --edge, or of those that the primary tells clients of',
  },
  watch: { type: 'boolean', help: 'with --near: stay, and write again when others are nearer' },
  site: { type: 'string', value: 'NAME', help: 'with --near: edges of this site come first' },
  consul: {
    type: 'string',
    value: 'URL',
    help: 'with --near: the Consul agent of this machine, which says who is healthy and how far',
  },
  'consul-token-file': {
    type: 'string',
    value: 'FILE',
    help: 'the file that holds its ACL token (default: CONSUL_HTTP_TOKEN_FILE, CONSUL_HTTP_TOKEN)',
  },
  'consul-ca': {
    type: 'string',
    value: 'FILE',
    help: 'the CA of its certificate (default: CONSUL_CACERT)',
  },
  datacenter: { type: 'string', value: 'NAME', help: "the datacenter to look in, not the agent's" },
} as const

export interface NearFlags {
  readonly near: boolean
  readonly watch: boolean
  readonly site: string | undefined
  readonly consul: string | undefined
  readonly 'consul-token-file': string | undefined
  readonly 'consul-ca': string | undefined
  readonly datacenter: string | undefined
  readonly edge: readonly string[]
  readonly primary: string | undefined
  readonly 'skip-verify': boolean
  readonly 'dry-run': boolean
}

/** How the nearest edges are found. */
export interface NearSettings {
  readonly watch: boolean
  readonly site: string | undefined
  readonly consul: ConsulSettings | undefined
  /** What tells this machine from others. */
  readonly machine: string
}

/**
 * Reads what goes with `--near`.
 * @returns undefined without it
 * @throws UsageError for what does not go together, Error that names a file that cannot be read
 */
export async function readNear(
  flags: NearFlags,
  env: Readonly<Record<string, string | undefined>>,
): Promise<NearSettings | undefined> {
  const { near, watch, site, consul, datacenter } = flags
  if (!near) {
    const all = { watch, site, consul, datacenter }
    const tls = {
      'consul-token-file': flags['consul-token-file'],
      'consul-ca': flags['consul-ca'],
    }
    for (const [name, value] of Object.entries({ ...all, ...tls }))
      if (value !== undefined && value !== false) throw new UsageError(`--${name} goes with --near`)
    return undefined
  }
  if (flags['skip-verify'])
    throw new UsageError('--near asks the edges, whose certificates it checks: not --skip-verify')
  if (watch && flags['dry-run']) throw new UsageError('--watch writes: it has no --dry-run')
  if (flags.edge.length === 0 && flags.primary === undefined)
    throw new UsageError('--near needs the primary, which tells of its edges: --primary URL')
  if (flags.edge.length > 0 && consul !== undefined)
    throw new UsageError(
      "--consul goes with the primary's own list of edges, by which Consul's are checked: leave out --edge",
    )
  if (site !== undefined && !isPlace(site)) throw new UsageError(`--site: '${site}' is no site`)
  return { watch, site, consul: await readConsul(flags, env), machine: hostname() }
}

async function readConsul(
  { consul, datacenter, ...flags }: NearFlags,
  env: Readonly<Record<string, string | undefined>>,
): Promise<ConsulSettings | undefined> {
  if (consul === undefined) return undefined
  checkOrigin(consul, '--consul', (at, problem) => {
    throw new UsageError(`${at} ${problem}`)
  })
  const said = (name: string) => env[name] || undefined
  const tokenFile = flags['consul-token-file'] ?? said('CONSUL_HTTP_TOKEN_FILE')
  const tokenText = said('CONSUL_HTTP_TOKEN')
  const token =
    tokenFile !== undefined
      ? () => readSecretFile(tokenFile)
      : tokenText !== undefined
        ? () => Promise.resolve(tokenText)
        : undefined
  const url = new URL(consul)
  if (token !== undefined && url.protocol === 'http:' && !isLoopback(url.hostname))
    throw new UsageError(`--consul would send its token in clear to ${url.origin}: use https`)
  const ca = flags['consul-ca'] ?? said('CONSUL_CACERT')
  const [cert, key] = [said('CONSUL_CLIENT_CERT'), said('CONSUL_CLIENT_KEY')]
  return {
    url,
    ca: ca === undefined ? undefined : await readTextFile(ca),
    clientCertificate:
      cert === undefined || key === undefined
        ? undefined
        : await readClientCertificate({ cert, key }),
    token,
    datacenter,
    namespace: said('CONSUL_NAMESPACE'),
    partition: said('CONSUL_PARTITION'),
  }
}

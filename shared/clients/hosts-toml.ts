import { mergeToml } from './toml-merge.ts'
import { tomlString, tomlStrings } from './toml.ts'

/** What containerd may ask of a host. */
type Capability = 'pull' | 'resolve' | 'push'

/** How containerd checks a host and names itself to it. */
interface HostTls {
  /** PEM file of the CA; relative to hosts.toml. Absent: the system's. */
  readonly ca?: string
  /** Client certificate and key, PEM files; relative to hosts.toml. */
  readonly client?: { readonly cert: string; readonly key: string }
  /** Takes whatever certificate it shows. */
  readonly skipVerify?: boolean
}

/** A host that containerd tries. */
interface ContainerdHost extends HostTls {
  /** `https://mirror.example:8081`, without `/v2`. */
  readonly url: string
  /** Default: everything. A mirror is given `pull` and `resolve`. */
  readonly capabilities?: readonly Capability[]
}

export interface HostsToml {
  /** The registry itself, tried last. */
  readonly server: string
  /** What concerns the server itself. */
  readonly serverTls?: HostTls
  /** Tried first, in this order. */
  readonly hosts?: readonly ContainerdHost[]
}

/**
 * The text of `certs.d/<registry>/hosts.toml`. [containerd docs/hosts.md]
 * Plain http is what the URL says.
 */
export function formatHostsToml({ server, serverTls = {}, hosts = [] }: HostsToml): string {
  const lines = [`server = ${tomlString(server)}`, ...formatTls(serverTls)]
  for (const { url, capabilities, ...tls } of hosts) {
    lines.push('', `[host.${tomlString(url)}]`)
    if (capabilities !== undefined) {
      lines.push(`  capabilities = ${tomlStrings(capabilities)}`)
    }
    lines.push(...formatTls(tls).map((line) => `  ${line}`))
  }
  return `${lines.join('\n')}\n`
}

/**
 * The text with the hosts in it, before those of others: containerd tries them in the order of the file. A host of
 * others with the URL of one of ours is taken over.
 * @param existing the file as it is; empty when there is none
 * @param options.keepsServer whether a `server` that others named stays: ours is only its usual place
 * @throws ClientFileError when the file cannot be read, or a host has a `ca` that would be lost
 */
export function mergeHostsToml(
  existing: string,
  hosts: HostsToml,
  { keepsServer }: { readonly keepsServer: boolean },
): string {
  return mergeToml({
    existing,
    ours: formatHostsToml(hosts),
    keys: ['server', 'capabilities', 'ca', 'skip_verify'],
    precious: ['ca'],
    yielding: keepsServer ? ['server'] : [],
    place: 'first',
  })
}

/** The folders that containerd looks for, in this order, and takes the first of that is there. [core/remotes/docker/config hosts.go] */
export function hostsTomlFolders(registry: string): readonly string[] {
  const [, host, port] = /^(.+):(\d+)$/.exec(registry) ?? []
  return host === undefined ? [registry] : [`${host}_${port}_`, registry]
}

/** The folder of a registry under `certs.d`: `host:port`. */
export function hostsTomlPath(registry: string, root = '/etc/containerd/certs.d'): string {
  return `${root}/${registry}/hosts.toml`
}

function formatTls({ ca, client, skipVerify = false }: HostTls): string[] {
  const lines: string[] = []
  if (ca !== undefined) lines.push(`ca = ${tomlString(ca)}`)
  if (client !== undefined) lines.push(`client = [${tomlStrings([client.cert, client.key])}]`)
  if (skipVerify) lines.push('skip_verify = true')
  return lines
}

import { tomlString, tomlStrings } from './toml.ts'

/** What containerd may ask of a host. */
type Capability = 'pull' | 'resolve' | 'push'

/** How containerd checks a host and names itself to it. */
interface HostTls {
  /** PEM file of the CA; relative to hosts.toml. Absent: the system's. */
  readonly ca?: string
  /** Client certificate and key, PEM files; relative to hosts.toml. */
  readonly client?: { readonly cert: string; readonly key: string }
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
 * Plain http is what the URL says; `skip_verify` is never written.
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

/** The folder of a registry under `certs.d`: `host:port`. */
export function hostsTomlPath(registry: string, root = '/etc/containerd/certs.d'): string {
  return `${root}/${registry}/hosts.toml`
}

function formatTls({ ca, client }: HostTls): string[] {
  const lines: string[] = []
  if (ca !== undefined) lines.push(`ca = ${tomlString(ca)}`)
  if (client !== undefined) lines.push(`client = [${tomlStrings([client.cert, client.key])}]`)
  return lines
}

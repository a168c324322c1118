import { isLoopback } from '../shared/config/origins.ts'
import { formatDaemonJson } from '../shared/clients/daemon-json.ts'
import { formatHostsToml, hostsTomlPath } from '../shared/clients/hosts-toml.ts'
import { formatRegistriesConf } from '../shared/clients/registries-conf.ts'

/** What `up` started: URLs as clients type them. */
export interface Started {
  readonly primary: string
  readonly edge: string
  readonly mirror: string
  readonly metrics: { readonly primary: string; readonly edge: string }
}

/** How the reader learns the password of `admin`. */
export type AdminPassword =
  | { readonly kind: 'shown'; readonly password: string }
  | { readonly kind: 'file'; readonly path: string }
  /** It was given at the first start. */
  | { readonly kind: 'known' }

/** What to type next, for people: log-in, push, and the configuration of clients. */
export function formatNextSteps(started: Started, password: AdminPassword): string {
  const { primary, edge, mirror, metrics } = started
  const registry = new URL(primary).host
  const pull = { capabilities: ['pull', 'resolve'] } as const
  return [
    '',
    'Outport is running; Ctrl-C stops it.',
    '',
    `  primary  ${primary}  push here`,
    `  edge     ${edge}  pulls from the primary, with the primary's log-ins`,
    `  mirror   ${mirror}  docker.io, for everybody who reaches it`,
    `  metrics  ${metrics.primary}  ${metrics.edge}`,
    '',
    `Log in as admin: ${formatPassword(password)}`,
    `  docker login -u admin ${registry}`,
    '',
    `Push into the public project library:`,
    `  docker tag IMAGE ${registry}/library/IMAGE`,
    `  docker push ${registry}/library/IMAGE`,
    ...formatInsecure([registry, new URL(edge).host].filter((host) => isClear(primary, host))),
    '',
    `containerd, ${registry} through the edge: ${hostsTomlPath(registry)}`,
    indent(formatHostsToml({ server: primary, hosts: [{ url: edge, ...pull }] })),
    `containerd, docker.io through the mirror: ${hostsTomlPath('docker.io')}`,
    indent(
      formatHostsToml({
        server: 'https://registry-1.docker.io',
        hosts: [{ url: mirror, ...pull }],
      }),
    ),
    'docker, docker.io through the mirror: /etc/docker/daemon.json',
    indent(formatDaemonJson({ registryMirrors: [mirror] })),
    'podman, both: /etc/containers/registries.conf.d/outport.conf',
    indent(
      formatRegistriesConf([
        { location: 'docker.io', mirrors: [podmanLocation(mirror)] },
        { ...podmanLocation(primary), mirrors: [podmanLocation(edge)] },
      ]),
    ),
  ].join('\n')
}

function formatPassword(password: AdminPassword): string {
  switch (password.kind) {
    case 'shown':
      return `its first password is ${password.password}`
    case 'file':
      return `its first password is in ${password.path}`
    case 'known':
      return 'with the password it was given at the first start'
  }
}

/** docker refuses plain http beyond its own machine, unless told. */
function formatInsecure(hosts: readonly string[]): string[] {
  if (hosts.length === 0) return []
  return [
    `  (other machines' docker needs, in /etc/docker/daemon.json: ${formatDaemonJson({ insecureRegistries: hosts }).trim()})`,
  ]
}

function isClear(url: string, host: string): boolean {
  return new URL(url).protocol === 'http:' && !isLoopback(new URL(`http://${host}`).hostname)
}

function podmanLocation(url: string): { location: string; insecure: boolean } {
  const { host, protocol } = new URL(url)
  return { location: host, insecure: protocol === 'http:' }
}

function indent(text: string): string {
  return text.replaceAll(/^(?=.)/gm, '  ')
}

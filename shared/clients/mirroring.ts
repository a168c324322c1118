import type { CriRegistries } from './containerd-config.ts'
import type { DockerDaemon } from './daemon-json.ts'
import type { HostsToml } from './hosts-toml.ts'
import type { PodmanRegistry } from './registries-conf.ts'
import type { K3sRegistries } from './registries-yaml.ts'

/** Where a registry is spoken to. */
export interface Endpoint {
  /** `https://edge.example:8081`: no path, and no slash at its end. */
  readonly url: string
  /** `host[:port]` of the URL. */
  readonly host: string
}

/** What a client is told: through which edges it gets whose images. */
export interface Mirroring {
  /** Nearest first. */
  readonly edges: readonly Endpoint[]
  /** Its images are named by its host. */
  readonly primary?: Endpoint | undefined
  /** Further registries, as images name them. */
  readonly registries: readonly string[]
  /** PEM file of the CA of the edges and the primary. */
  readonly ca?: string | undefined
  /** Whatever certificate edges and primary show is taken. */
  readonly skipVerify: boolean
  /** For the edges and the primary, where the client keeps log-ins in its configuration. */
  readonly logIn?: { readonly username: string; readonly password: string } | undefined
}

/** A registry's hosts.toml. */
interface RegistryHosts {
  readonly registry: string
  readonly hosts: HostsToml
  /** Whether a `server` that others named stays. */
  readonly keepsServer: boolean
}

/** For containerd: the edges, then the registry's own place. */
export function hostsTomlFor(mirroring: Mirroring): readonly RegistryHosts[] {
  const { edges, primary, registries } = mirroring
  const hosts = edges.map((edge) => ({
    url: edge.url,
    capabilities: ['pull', 'resolve'] as const,
    ...tlsFor(edge, mirroring),
  }))
  const ofOthers = registries.map((registry) => ({
    registry,
    hosts: { server: serverOf(registry), hosts },
    keepsServer: true,
  }))
  if (primary === undefined) return ofOthers
  const ofPrimary = { server: primary.url, serverTls: tlsFor(primary, mirroring), hosts }
  return [{ registry: primary.host, hosts: ofPrimary, keepsServer: false }, ...ofOthers]
}

/** For containerd 1.x without hosts.toml. */
export function criRegistriesFor(mirroring: Mirroring): CriRegistries {
  return { mirrors: endpointsFor(mirroring), configs: configsFor(mirroring) }
}

/** For k3s, which makes hosts.toml of it. */
export function k3sRegistriesFor(mirroring: Mirroring): K3sRegistries {
  return { mirrors: endpointsFor(mirroring), configs: configsFor(mirroring) }
}

/** For docker, whose mirrors are those of docker.io. */
export function dockerDaemonFor(mirroring: Mirroring): DockerDaemon {
  const insecure = placesOf(mirroring).filter((place) =>
    // A mirror's URL says by itself that it is plain http.
    isPlain(place) ? place === mirroring.primary : mirroring.skipVerify,
  )
  return {
    registryMirrors: mirroring.edges.map(({ url }) => url),
    insecureRegistries: insecure.map(({ host }) => host),
  }
}

/** For podman, which names other registries than the edge's own by a path. */
export function podmanRegistriesFor(mirroring: Mirroring): readonly PodmanRegistry[] {
  const { edges, primary, registries, skipVerify } = mirroring
  const locate = (place: Endpoint, path = '') => ({
    location: `${place.host}${path}`,
    insecure: isPlain(place) || skipVerify,
  })
  const ofOthers = registries.map((registry) => ({
    location: registry,
    mirrors: edges.map((edge) => locate(edge, `/${registry}`)),
  }))
  if (primary === undefined) return ofOthers
  return [{ ...locate(primary), mirrors: edges.map((edge) => locate(edge)) }, ...ofOthers]
}

/** Where a certificate is shown: the edges and the primary, each host once. */
export function certificateHosts(mirroring: Mirroring): readonly string[] {
  return placesOf(mirroring)
    .filter((place) => !isPlain(place))
    .map(({ host }) => host)
}

/** The edges and the primary, each host once. */
export function placesOf({ edges, primary }: Mirroring): readonly Endpoint[] {
  const places = primary === undefined ? edges : [...edges, primary]
  return places.filter(
    ({ host }, index) => places.findIndex((place) => place.host === host) === index,
  )
}

function isPlain({ url }: Endpoint): boolean {
  return url.startsWith('http:')
}

function tlsFor(
  place: Endpoint,
  { ca, skipVerify }: Mirroring,
): { readonly ca?: string; readonly skipVerify?: boolean } {
  // With TLS options containerd would try https first at a host that speaks plain http.
  if (isPlain(place)) return {}
  return { ...(ca === undefined ? {} : { ca }), ...(skipVerify ? { skipVerify } : {}) }
}

/** Where the images are that a registry's name stands for. */
function serverOf(registry: string): string {
  return `https://${registry === 'docker.io' ? 'registry-1.docker.io' : registry}`
}

/** The primary stands at the end: by its name alone it would be spoken to by https. */
function endpointsFor({ edges, primary, registries }: Mirroring) {
  const urls = edges.map(({ url }) => url)
  const ofOthers = registries.map((registry) => ({ registry, endpoints: urls }))
  if (primary === undefined) return ofOthers
  return [{ registry: primary.host, endpoints: [...urls, primary.url] }, ...ofOthers]
}

function configsFor(mirroring: Mirroring) {
  const { logIn } = mirroring
  return placesOf(mirroring).map((place) => ({
    host: place.host,
    logIn,
    ...tlsFor(place, mirroring),
  }))
}

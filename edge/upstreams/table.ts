import type { ClientCertificate } from '../../shared/http/door.ts'
import {
  createRegistries,
  type Registries,
  type RegistryEntry,
  type RegistryOptions,
} from '../../shared/upstream/registries.ts'
import type { UpstreamOptions } from '../config.ts'

/** The files that an upstream's configuration names, read. */
export interface UpstreamFiles {
  readonly ca: string | undefined
  readonly password: string | undefined
  readonly clientCertificate: ClientCertificate | undefined
}

/** The closed table of upstreams, from the configuration. */
export function createTable(
  upstreams: readonly UpstreamOptions[],
  filesOf: (upstream: UpstreamOptions) => UpstreamFiles,
): Registries {
  return createRegistries(upstreams.map((upstream) => entryOf(upstream, filesOf(upstream))))
}

/** Those of a table that a listener serves; the others are not there for it. */
export function narrow(
  { entries, resolve }: Registries,
  keep: (entry: RegistryEntry) => boolean,
): Registries {
  return {
    entries: entries.filter(keep),
    resolve(nameOrId) {
      const entry = resolve(nameOrId)
      return entry !== undefined && keep(entry) ? entry : undefined
    },
  }
}

function entryOf(
  upstream: UpstreamOptions,
  { ca, password, clientCertificate }: UpstreamFiles,
): RegistryOptions {
  const { id, names, url, limits } = upstream
  const username = upstream.credentials?.username
  return {
    id,
    names: names.filter((name) => name.toLowerCase() !== id),
    url: new URL(url),
    kind: upstream.kind === 'outport' ? 'primary' : 'registry',
    realmHosts: upstream.realm_hosts,
    redirectHosts: upstream.redirect_hosts,
    // Docker Hub alone has repositories whose first component goes without saying.
    libraryPrefix: names.includes('docker.io') || id === 'docker.io',
    redirectsManifests: upstream.redirect_manifests,
    maxBlobRequests: limits.connections,
    maxApiRequests: limits.manifest_connections,
    ...(ca !== undefined && { ca }),
    ...(clientCertificate !== undefined && { clientCertificate }),
    ...(username !== undefined && password !== undefined && { credential: { username, password } }),
  }
}

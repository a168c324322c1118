import type { ClientCertificate } from '../http/door.ts'
import type { RepositoryName } from '../oci/reference.ts'

/** A registry that we may speak to. The table of them is closed: nothing a client says adds one. */
export interface RegistryEntry {
  /** Immutable: keys of links, path prefix `/v2/<id>/…`, lane and log name. */
  readonly id: string
  /** What `?ns=` may say besides the id: `docker.io`, `registry.example:5000`. */
  readonly names: readonly string[]
  /** Where it is dialled: an origin, or an origin with the path before `/v2/`. */
  readonly url: URL
  readonly kind: RegistryKind
  /** PEM of the CAs that vouch for it, instead of the system's. */
  readonly ca?: string | undefined
  /** Shown to the url's origin only, where that asks for one. */
  readonly clientCertificate?: ClientCertificate | undefined
  /** The name that its certificate must be for, instead of the url's host. */
  readonly servername?: string | undefined
  /** Sent only to the url's origin and its realm hosts. */
  readonly credential?: Credential | undefined
  /** `host` or `host:port` besides the url's own that may issue its tokens. */
  readonly realmHosts: readonly string[]
  /** `host` or `host:port` that its blob downloads may be redirected to at whatever address. */
  readonly redirectHosts: readonly string[]
  /** Docker Hub's rule: a name of one component means `library/<name>`. */
  readonly libraryPrefix: boolean
  /** It is only a front: manifests too are where it redirects to, as those of registry.k8s.io. */
  readonly redirectsManifests: boolean
  /** Blob requests open at once. */
  readonly maxBlobRequests: number
  /** Manifest, tag and token requests open at once: their own lane, so that a layer never delays a tag. */
  readonly maxApiRequests: number
}

/** `primary`: an Outport primary, which names what it holds by signed statements. */
export type RegistryKind = 'registry' | 'primary'

export interface Credential {
  readonly username: string
  readonly password: string
}

/** What configuration gives; the rest has defaults. */
export type RegistryOptions = Pick<RegistryEntry, 'id' | 'url'> & Partial<RegistryEntry>

export interface Registries {
  readonly entries: readonly RegistryEntry[]
  /** By id or name, in any case; undefined for what is not listed: answer 404, never dial. */
  resolve(nameOrId: string): RegistryEntry | undefined
}

const idGrammar = /^[a-z0-9]+(?:[._-][a-z0-9]+)*$/

/**
 * The table of upstreams.
 * @throws Error on an id that is not `[a-z0-9._-]`, a name or id that two entries claim, or a URL that is not http(s)
 */
export function createRegistries(options: readonly RegistryOptions[]): Registries {
  const entries = options.map(createEntry)
  const byName = new Map<string, RegistryEntry>()
  for (const entry of entries) {
    for (const name of new Set([entry.id, ...entry.names].map(normaliseName))) {
      if (byName.has(name)) throw new Error(`two upstreams answer to the name ${name}`)
      byName.set(name, entry)
    }
  }
  return { entries, resolve: (nameOrId) => byName.get(normaliseName(nameOrId)) }
}

/** The repository's name at the upstream: `nginx` is `library/nginx` at Docker Hub. */
export function repositoryAt(entry: RegistryEntry, repository: RepositoryName): RepositoryName {
  if (!entry.libraryPrefix || repository.includes('/')) return repository
  return `library/${repository}` as RepositoryName
}

/**
 * What configuration names of an entry: its own origin, its realm hosts and those of its redirects. May be
 * dialled at any address; who gets credentials is another question.
 */
export function originsOf(entry: RegistryEntry): readonly URL[] {
  const named = [...entry.realmHosts, ...entry.redirectHosts].flatMap((host) => [
    new URL(`https://${host}`),
    ...(entry.url.protocol === 'http:' ? [new URL(`http://${host}`)] : []),
  ])
  return [entry.url, ...named]
}

function createEntry(options: RegistryOptions): RegistryEntry {
  const { id, url } = options
  if (!idGrammar.test(id)) throw new Error(`the upstream id ${id} may hold only a-z 0-9 . _ -`)
  if (url.protocol !== 'https:' && url.protocol !== 'http:')
    throw new Error(`the url of upstream ${id} must be http or https`)
  if (url.username !== '' || url.search !== '' || url.hash !== '')
    throw new Error(`the url of upstream ${id} may not hold credentials, a query or a fragment`)
  return {
    kind: 'registry',
    names: [],
    realmHosts: [],
    redirectHosts: [],
    libraryPrefix: false,
    redirectsManifests: false,
    maxBlobRequests: 16,
    maxApiRequests: 16,
    ...options,
  }
}

function normaliseName(name: string): string {
  return name.toLowerCase()
}

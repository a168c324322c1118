import { readyMade, type ReadyMade } from '../../shared/upstream/ready-made.ts'
import type { ConfiguredUpstream, RawOptions, UpstreamOptions } from '../config.ts'

/** The closed table: the primary first, then the ready-made ones that the file does not name, then the file's. */
export function upstreamTable(options: RawOptions): readonly UpstreamOptions[] {
  const configured: readonly ConfiguredUpstream[] = options.upstreams
  const named = new Set(
    configured.flatMap(({ id, names }) => [id, ...names.map((name) => name.toLowerCase())]),
  )
  const others = readyMade.filter(({ id }) => options.ready_made.includes(id) && !named.has(id))
  return [
    primaryUpstream(options),
    ...others.map((known) => readyMadeUpstream(known, options)),
    // Mapped, not spread: a configured one that is wrong is a hole, and stays one.
  ].concat(configured.map((upstream) => completed(upstream)))
}

/** What an entry leaves out that stands for a ready-made one: all of it, or but for the place. */
function completed(upstream: ConfiguredUpstream): UpstreamOptions {
  const known = readyMade.find(({ id }) => id === upstream.id)
  if (known === undefined) return { ...upstream, url: upstream.url ?? '' }
  const { url, aliases = [], realmHosts = [], redirectsManifests = false } = placeOf(known)
  const names = upstream.names.length === 0 ? aliases : upstream.names
  // Credentials for a stand-in are nothing for the token service of what it stands for.
  if (upstream.url !== undefined) return { ...upstream, url: upstream.url, names }
  return {
    ...upstream,
    url,
    names,
    realm_hosts: [...new Set([...realmHosts, ...upstream.realm_hosts])],
    redirect_manifests: redirectsManifests || upstream.redirect_manifests,
  }
}

function placeOf(known: ReadyMade): ReadyMade & { readonly url: string } {
  return { ...known, url: known.url ?? `https://${known.id}` }
}

export const primaryId = 'primary'

/** The primary, as one of the upstreams. */
export function primaryUpstream({
  id,
  credential_file,
  primary,
}: Pick<RawOptions, 'id' | 'credential_file' | 'primary'>): UpstreamOptions {
  const host = URL.parse(primary.url)?.host
  const names = host === undefined ? primary.names : [...new Set([host, ...primary.names])]
  const login =
    id === undefined || credential_file === undefined
      ? {}
      : { credentials: { username: `edge$${id}`, password_file: credential_file } }
  return {
    id: primaryId,
    kind: 'outport',
    names,
    url: primary.url,
    ...(primary.ca === undefined ? {} : { ca: primary.ca }),
    ...(primary.client_cert === undefined ? {} : { client_cert: primary.client_cert }),
    insecure_http: primary.insecure_http,
    ...login,
    realm_hosts: [],
    redirect_hosts: [],
    redirect_manifests: false,
    access: 'primary',
    mirrors: [],
    mirror_wait: 2000,
    tag_ttl: primary.tag_ttl,
    tag_wait: primary.tag_wait,
    ...(primary.max_stale === undefined ? {} : { max_stale: primary.max_stale }),
    negative_ttl: primary.negative_ttl,
    prefetch: primary.prefetch,
    rate_budget: 0,
    limits: primary.limits,
  }
}

function readyMadeUpstream(known: ReadyMade, { primary }: RawOptions): UpstreamOptions {
  const { id, url, aliases = [], realmHosts = [], redirectsManifests = false } = placeOf(known)
  return {
    id,
    kind: 'registry',
    names: aliases,
    url,
    insecure_http: false,
    realm_hosts: realmHosts,
    redirect_hosts: [],
    redirect_manifests: redirectsManifests,
    access: 'open',
    mirrors: [],
    mirror_wait: 2000,
    tag_ttl: 60_000,
    tag_wait: 2000,
    negative_ttl: 10_000,
    prefetch: 'off',
    rate_budget: 10,
    limits: primary.limits,
  }
}

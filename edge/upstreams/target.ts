import { OciError } from '../../shared/oci/errors.ts'
import type { OciPath, OciTarget } from '../../shared/oci/paths.ts'
import {
  repositoryAt,
  type Registries,
  type RegistryEntry,
} from '../../shared/upstream/registries.ts'
import { isRepositoryName, type RepositoryName } from '../../shared/oci/reference.ts'

/** A request, and the upstream that it is for. */
export interface Target {
  readonly upstream: RegistryEntry
  /** The path as the upstream knows it: without the prefix, with the default namespace. */
  readonly path: OciPath
  /** The `?ns=` that chose the upstream, to be said back. [distribution-spec main, Registry Proxying] */
  readonly namespace: string | undefined
}

/**
 * Chooses the upstream: `?ns=`, else the path prefix `/v2/<id>/…`, else the listener's default.
 * @throws OciError NAME_UNKNOWN for a namespace that is not in the table; nothing is ever asked there
 */
export function chooseTarget(
  { path, query }: OciTarget,
  { registries, fallback }: { readonly registries: Registries; readonly fallback: RegistryEntry },
): Target {
  const namespace = query.get('ns') ?? undefined
  if (namespace !== undefined) {
    const upstream = registries.resolve(namespace)
    if (upstream === undefined) {
      throw new OciError(
        'NAME_UNKNOWN',
        'this edge mirrors no registry of the name in ?ns=: list it under edge.upstreams',
        { detail: { ns: namespace.slice(0, 255) } },
      )
    }
    return { upstream, path: inNamespace(path, upstream), namespace }
  }
  const prefixed = splitPrefix(path, registries)
  if (prefixed !== undefined) {
    return {
      upstream: prefixed.upstream,
      path: inNamespace(prefixed.path, prefixed.upstream),
      namespace,
    }
  }
  return { upstream: fallback, path: inNamespace(path, fallback), namespace }
}

/** Splits an upstream's id off a repository's name: `docker.io/library/nginx` of a path-rewriting client. */
export function splitRepositoryPrefix(
  repository: RepositoryName,
  registries: Registries,
): { readonly upstream: RegistryEntry; readonly repository: RepositoryName } | undefined {
  const slash = repository.indexOf('/')
  if (slash < 0) return undefined
  const id = repository.slice(0, slash)
  const upstream = registries.entries.find((entry) => entry.id === id)
  const rest = repository.slice(slash + 1)
  return upstream !== undefined && isRepositoryName(rest)
    ? { upstream, repository: rest }
    : undefined
}

function splitPrefix(
  path: OciPath,
  registries: Registries,
): { readonly upstream: RegistryEntry; readonly path: OciPath } | undefined {
  if (!('repository' in path)) return undefined
  const split = splitRepositoryPrefix(path.repository, registries)
  return split && { upstream: split.upstream, path: { ...path, repository: split.repository } }
}

function inNamespace(path: OciPath, upstream: RegistryEntry): OciPath {
  return 'repository' in path
    ? { ...path, repository: repositoryAt(upstream, path.repository) }
    : path
}

import type { Scope } from '../../shared/auth/scope.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { OciError } from '../../shared/oci/errors.ts'
import { mediaTypes } from '../../shared/oci/media-types.ts'
import { referrersPath, tagsPath } from '../../shared/oci/paths.ts'
import type { RepositoryName } from '../../shared/oci/reference.ts'
import type { Caller, RepositoryFacts } from '../accounts/caller.ts'
import type { Lookups } from '../store/lookups.ts'
import type { Referrer, Referrers } from '../store/referrers.ts'
import type { Repositories } from '../store/repositories.ts'
import type { Tags } from '../store/tags.ts'
import { mayCatalog } from '../tokens/grant.ts'
import type { Access } from './access.ts'
import { cutPage, nextLink, parsePage, type NamePage } from './paging.ts'
import { digestInvalid, knownRepository } from './pull.ts'

const maxTagsPage = 10_000
const maxCatalogPage = 1000
const defaultCatalogPage = 100
/** Clients read at most 4 MiB of referrers; crane and cosign read one page only, so pages are as large as that. */
const referrersPageBytes = 4 * 1024 * 1024 - 64 * 1024

export interface DiscoveryDeps {
  readonly access: Access
  readonly lookups: Lookups
  readonly tags: Tags
  readonly referrers: Referrers
  readonly repositories: Repositories
  readonly challenge: (scopes: readonly Scope[], error?: 'insufficient_scope') => string
}

export interface ReferrersPage {
  readonly body: Buffer
  readonly filtered: boolean
  readonly link: string | undefined
}

interface Target {
  readonly caller: Caller
  readonly repository: RepositoryName
}

export type Discovery = ReturnType<typeof createDiscovery>

/** What a client may list. [distribution-spec, Content Discovery] */
export function createDiscovery(deps: DiscoveryDeps) {
  const { access, lookups } = deps

  /** undefined where there is none, also for who is told that there is not even a project. */
  const findRepository = async (target: Target): Promise<RepositoryFacts | undefined> => {
    try {
      return (await access.allow({ ...target, action: 'pull' })).repository
    } catch (error) {
      if (error instanceof OciError && error.code === 'NAME_UNKNOWN') return undefined
      throw error
    }
  }

  return {
    /** @throws OciError NAME_UNKNOWN, PAGINATION_NUMBER_INVALID, or a refusal of `allow` */
    async tags({
      caller,
      repository,
      query,
    }: Target & { readonly query: URLSearchParams }): Promise<NamePage> {
      const grant = await access.allow({ caller, repository, action: 'pull' })
      const { limit, after } = parsePage(query, { maxLimit: maxTagsPage })
      const known = knownRepository(grant, repository)
      const found = await deps.tags.list({
        repositoryId: known.id,
        after,
        limit: limit === undefined ? undefined : limit + 1,
      })
      return cutPage(found, { path: tagsPath(repository), limit })
    },

    /**
     * The referrers of a digest; an empty list when nobody refers to it, or nothing is known of it.
     * @throws OciError DIGEST_INVALID, PAGINATION_NUMBER_INVALID, or a refusal of `allow`
     */
    async referrers({
      caller,
      repository,
      digest,
      query,
    }: Target & {
      readonly digest: Digest | undefined
      readonly query: URLSearchParams
    }): Promise<ReferrersPage> {
      const known = await findRepository({ caller, repository })
      if (digest === undefined) throw digestInvalid()
      const artifactTypes = query
        .getAll('artifactType')
        .filter((type) => type !== '' && !type.includes('\0'))
      const { limit = Infinity, after } = parsePage(query, { maxLimit: maxTagsPage })
      if (!/^\d{0,15}$/.test(after)) {
        throw new OciError('PAGINATION_NUMBER_INVALID', 'last must be what a Link gave')
      }
      const listed =
        known &&
        deps.referrers.list({
          repositoryId: known.id,
          subject: digest,
          artifactTypes,
          after: Number(after),
        })
      const { parts, more } = await fillPage(listed, limit)
      const filtered = artifactTypes.length > 0
      return {
        body: indexOf(parts.map((part) => part.json)),
        filtered,
        link: more
          ? linkAfter(parts.at(-1), { path: referrersPath(repository, digest), query })
          : undefined,
      }
    },

    /** @throws OciError UNAUTHORIZED with the challenge, PAGINATION_NUMBER_INVALID */
    async catalog({
      caller,
      query,
    }: {
      readonly caller: Caller
      readonly query: URLSearchParams
    }): Promise<NamePage> {
      const facts = await lookups.caller(caller)
      if (!mayCatalog(facts, caller.access)) throw catalogRefusal(caller, deps.challenge)
      const { limit = defaultCatalogPage, after } = parsePage(query, {
        maxLimit: maxCatalogPage,
        defaultLimit: defaultCatalogPage,
      })
      const found = await deps.repositories.list({ projectIds: 'all', after, limit: limit + 1 })
      return cutPage(found, { path: '/v2/_catalog', limit })
    },
  }
}

interface PagePart {
  readonly id: number
  readonly json: string
}

async function fillPage(
  listed: AsyncGenerator<Referrer> | undefined,
  limit: number,
): Promise<{ readonly parts: readonly PagePart[]; readonly more: boolean }> {
  const parts: PagePart[] = []
  let bytes = 0
  if (listed === undefined) return { parts, more: false }
  for await (const referrer of listed) {
    const json = JSON.stringify(descriptorOf(referrer))
    bytes += Buffer.byteLength(json) + 1
    const full = parts.length >= limit || (bytes > referrersPageBytes && parts.length > 0)
    if (full) return { parts, more: true }
    parts.push({ id: referrer.id, json })
  }
  return { parts, more: false }
}

function descriptorOf(referrer: Referrer) {
  const { mediaType, digest, size, artifactType, annotations } = referrer
  return {
    mediaType,
    digest,
    size,
    ...(artifactType !== undefined && { artifactType }),
    ...(annotations !== undefined && { annotations }),
  }
}

function indexOf(descriptors: readonly string[]): Buffer {
  return Buffer.from(
    `{"schemaVersion":2,"mediaType":"${mediaTypes.ociIndex}","manifests":[${descriptors.join(',')}]}`,
  )
}

function linkAfter(
  last: PagePart | undefined,
  { path, query }: { readonly path: string; readonly query: URLSearchParams },
): string | undefined {
  if (last === undefined) return undefined
  const next = new URLSearchParams(query)
  next.set('last', String(last.id))
  return nextLink(path, next)
}

function catalogRefusal(caller: Caller, challenge: DiscoveryDeps['challenge']): OciError {
  const scope = { type: 'registry', name: 'catalog', actions: ['*'] }
  const error = caller.access === undefined ? undefined : 'insufficient_scope'
  return new OciError(
    'UNAUTHORIZED',
    'only administrators may list all repositories: list the tags of a repository, or use /api/v2.0',
    { headers: { 'WWW-Authenticate': challenge([scope], error) } },
  )
}

import { tagHeader } from '../replication/signed-tag.ts'
import { catalogPath, tagsPath } from '../oci/paths.ts'
import { isRepositoryName, isTag, type RepositoryName } from '../oci/reference.ts'
import { SourceError } from '../stream/blob-source.ts'
import type { Api } from './api.ts'
import type { CatalogPage, TagPage, UpstreamRequest } from './fetch.ts'
import { errorOfStatus } from './outcome.ts'
import { repositoryAt, type RegistryEntry } from './registries.ts'
import { urlAt } from './request.ts'

/** Lists are read up to this size. */
export const listMaxBytes = 4 * 1024 * 1024

/** What upstream response headers may go on to clients; never `Set-Cookie`, never `X-Accel-Redirect`. */
const passed = [
  'docker-content-digest',
  'etag',
  'last-modified',
  'oci-filters-applied',
  'oci-subject',
  tagHeader,
] as const

/** The headers of the allow-list. */
export function passedHeaders(
  headers: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> {
  const kept: Record<string, string> = {}
  for (const name of passed) {
    const value = headers[name]
    if (value !== undefined) kept[name] = value
  }
  return kept
}

/** @throws SourceError `broken` unless the body is a JSON object */
export function parseObject(entry: RegistryEntry, body: Buffer): Record<string, unknown> {
  try {
    const parsed: unknown = JSON.parse(body.toString())
    if (typeof parsed === 'object' && parsed !== null) return parsed as Record<string, unknown>
  } catch {
    // Falls through to the same complaint.
  }
  throw new SourceError('broken', `${entry.id} answers a list with something else`)
}

/**
 * The page that a `Link` calls the next one. Only its query is taken: it is asked at the place of the last one,
 * whatever origin and path the far side names.
 */
export function nextPage(here: URL, headers: Readonly<Record<string, string>>): URL | undefined {
  const [, target] = /<([^>]*)>[^,]*;\s*rel="?next"?/i.exec(headers['link'] ?? '') ?? []
  const named = target === undefined ? null : URL.parse(target, here.href)
  if (named === null) return undefined
  const next = new URL(here)
  next.search = named.search
  return next
}

/** Which page of a list is wanted. */
export interface PageAsked {
  readonly n?: number | undefined
  readonly last?: string | undefined
}

/** The lists of one upstream, page by page as clients ask for them. Both answer undefined for a 404. */
export function createLists({ entry, api }: { readonly entry: RegistryEntry; readonly api: Api }) {
  async function page(
    url: URL,
    { n, last }: PageAsked,
    { repository, options }: ListCall,
  ): Promise<ListPage | undefined> {
    if (n !== undefined) url.searchParams.set('n', String(n))
    if (last !== undefined) url.searchParams.set('last', last)
    const accept = 'application/json'
    const { answer } = await api({ url, accept, maxBytes: listMaxBytes, repository, options })
    if (answer.status === 404) return undefined
    if (answer.status !== 200) throw errorOfStatus(entry.id, answer.status, answer.headers)
    const next = nextPage(url, answer.headers)
    return {
      document: parseObject(entry, answer.body),
      nextAfter: (names) => next && (next.searchParams.get('last') ?? names.at(-1)),
    }
  }

  /** The names in a page's document; some registries write an empty list as null. */
  function namesIn<Name extends string>(
    { document }: ListPage,
    field: 'tags' | 'repositories',
    isName: (text: string) => text is Name,
  ): readonly Name[] {
    const names = document[field] ?? []
    if (!Array.isArray(names))
      throw new SourceError('broken', `${entry.id} gives no list of ${field}`)
    return names.filter((name: unknown): name is Name => typeof name === 'string' && isName(name))
  }

  return {
    async tags(
      name: RepositoryName,
      asked: PageAsked,
      options: UpstreamRequest | undefined,
    ): Promise<TagPage | undefined> {
      const repository = repositoryAt(entry, name)
      const found = await page(urlAt(entry, tagsPath(repository)), asked, { repository, options })
      if (found === undefined) return undefined
      const tags = namesIn(found, 'tags', isTag)
      return { tags, next: found.nextAfter(tags) }
    },
    async catalog(
      asked: PageAsked,
      options: UpstreamRequest | undefined,
    ): Promise<CatalogPage | undefined> {
      const found = await page(urlAt(entry, catalogPath), asked, { repository: undefined, options })
      if (found === undefined) return undefined
      const repositories = namesIn(found, 'repositories', isRepositoryName)
      return { repositories, next: found.nextAfter(repositories) }
    },
  }
}

interface ListCall {
  readonly repository: RepositoryName | undefined
  readonly options: UpstreamRequest | undefined
}

interface ListPage {
  readonly document: Record<string, unknown>
  readonly nextAfter: (names: readonly string[]) => string | undefined
}

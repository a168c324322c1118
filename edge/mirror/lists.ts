import { OciError } from '../../shared/oci/errors.ts'
import type { Digest } from '../../shared/oci/digest.ts'
import { mediaTypes } from '../../shared/oci/media-types.ts'
import { catalogPath, referrersPath, tagsPath } from '../../shared/oci/paths.ts'
import type { ReferrersPage, UpstreamClient } from '../../shared/upstream/fetch.ts'
import type { CachedBlobs } from '../cache/blobs.ts'
import type { CacheIndex, Origin } from '../cache/cache-index.ts'
import {
  commonHeaders,
  heldOnlyHeaders,
  jsonType,
  sendDocument,
  type Asked,
  type Asking,
  type AskingForCatalog,
} from './answers.ts'
import { isPassing } from '../upstreams/refused.ts'

export interface ListsDeps {
  readonly client: (upstream: string) => UpstreamClient
  readonly index: CacheIndex
  readonly blobs: CachedBlobs
  /** Milliseconds since a tag was confirmed, beyond which it is not listed without being so. */
  readonly maxStaleMs: (upstream: string) => number
  readonly now: () => number
}

/** Answers lists as the upstream gives them; while it is away, of what is held here, and marked so. */
export interface Lists {
  /** @throws OciError, SourceError */
  sendTags(asked: Asking): Promise<void>
  /** @throws SourceError */
  sendReferrers(asked: Asking, subject: Digest): Promise<void>
  /** The repositories of one upstream, as far as its credential sees them. @throws OciError, SourceError */
  sendCatalog(asked: AskingForCatalog): Promise<void>
}

/** A page, and whether it is of what is held. */
interface Page<Name extends string> {
  readonly names: readonly Name[]
  /** `last` of the next page. */
  readonly next: string | undefined
  readonly isHeld: boolean
}

export function createLists({ client, index, blobs, maxStaleMs, now }: ListsDeps): Lists {
  const isHeld = (origin: Origin, digest: Digest): boolean =>
    blobs.link(origin, digest) !== undefined && blobs.size(digest) !== undefined

  const tagsOf = async (asked: Asking, page: PageAsked): Promise<Page<string>> => {
    const { origin, upstreamRequest } = asked
    const { upstream, repository } = origin
    try {
      const found = await client(upstream).listTags(repository, page, upstreamRequest)
      if (found === undefined)
        throw new OciError('NAME_UNKNOWN', 'the upstream has no such repository')
      return { names: found.tags, next: found.next, isHeld: false }
    } catch (error) {
      if (!isPassing(error)) throw error
      const oldest = now() - maxStaleMs(upstream)
      const held = (await index.listTags(origin))
        .filter(({ entry }) => entry.checkedAt >= oldest && isHeld(origin, entry.digest))
        .map(({ tag }) => tag)
      if (held.length === 0) throw error
      return pageOf(held, page)
    }
  }

  const referrersOf = async (
    { origin, query, upstreamRequest }: Asking,
    subject: Digest,
  ): Promise<ReferrersPage & { readonly isHeld: boolean }> => {
    const artifactType = query.get('artifactType') ?? undefined
    const after = query.get('after') ?? undefined
    const asking = { artifactType, after }
    const { upstream, repository } = origin
    try {
      const page = await client(upstream).referrers(repository, subject, asking, upstreamRequest)
      return { ...page, isHeld: false }
    } catch (error) {
      if (!isPassing(error)) throw error
      // Nothing held is an answer too, but "none" would say that an image is not signed.
      const manifests = (await index.listReferrers(origin, subject)).filter(
        (descriptor) =>
          isHeld(origin, descriptor.digest) &&
          (artifactType === undefined || descriptor.artifactType === artifactType),
      )
      if (manifests.length === 0) throw error
      const mediaType = mediaTypes.ociIndex
      const body = Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType, manifests }))
      const headers = artifactType === undefined ? {} : { 'oci-filters-applied': 'artifactType' }
      return { body, mediaType, headers, isHeld: true }
    }
  }

  const catalogOf = async (
    { target: { upstream }, upstreamRequest }: AskingForCatalog,
    page: PageAsked,
  ): Promise<Page<string>> => {
    try {
      const found = await client(upstream.id).catalog(page, upstreamRequest)
      if (found !== undefined) return { names: found.repositories, next: found.next, isHeld: false }
    } catch (error) {
      if (!isPassing(error)) throw error
      const held = await index.listRepositories(upstream.id)
      if (held.length === 0) throw error
      return pageOf(held, page)
    }
    throw new OciError('UNSUPPORTED', 'the upstream lists its repositories to nobody', {
      status: 404,
    })
  }

  return {
    async sendTags(asked) {
      const { origin, query, repository } = asked
      const page = readPage(query)
      const { names, next, isHeld } = await tagsOf(asked, page)
      const head = {
        ...commonHeaders(asked),
        ...jsonType,
        ...linkTo(asked, tagsPath(repository), nextPage(page, next)),
        ...heldOnlyHeaders(isHeld),
      }
      const body = JSON.stringify({ name: origin.repository, tags: names })
      sendDocument(asked, head, Buffer.from(body))
    },
    async sendReferrers(asked, subject) {
      const { repository, query } = asked
      const artifactType = query.get('artifactType')
      const page = await referrersOf(asked, subject)
      const type = artifactType === null ? {} : { artifactType }
      const next = page.next === undefined ? undefined : { ...type, after: page.next }
      const filters = page.headers['oci-filters-applied']
      const head = {
        ...commonHeaders(asked),
        'Content-Type': page.mediaType,
        ...(filters !== undefined && { 'OCI-Filters-Applied': filters }),
        ...linkTo(asked, referrersPath(repository, subject), next),
        ...heldOnlyHeaders(page.isHeld),
      }
      sendDocument(asked, head, page.body)
    },
    async sendCatalog(asked) {
      const page = readPage(asked.query)
      const { names, next, isHeld } = await catalogOf(asked, page)
      const head = {
        ...commonHeaders(asked),
        ...jsonType,
        ...linkTo(asked, catalogPath, nextPage(page, next)),
        ...heldOnlyHeaders(isHeld),
      }
      sendDocument(asked, head, Buffer.from(JSON.stringify({ repositories: names })))
    },
  }
}

interface PageAsked {
  readonly n: number | undefined
  readonly last: string | undefined
}

/** @throws OciError */
function readPage(query: URLSearchParams): PageAsked {
  const n = query.get('n')
  if (n !== null && !/^\d{1,9}$/.test(n)) {
    throw new OciError('PAGINATION_NUMBER_INVALID', 'n must be a whole number, 0 or more')
  }
  return { n: n === null ? undefined : Number(n), last: query.get('last') ?? undefined }
}

/** A page of names that are all here; in the order of their bytes, as upstreams list them. */
function pageOf<Name extends string>(
  names: readonly Name[],
  { n = Infinity, last }: PageAsked,
): Page<Name> {
  const sorted = [...names].sort((one, other) => (one < other ? -1 : 1))
  const rest = last === undefined ? sorted : sorted.filter((name) => name > last)
  const page = rest.slice(0, n)
  return { names: page, next: page.length < rest.length ? page.at(-1) : undefined, isHeld: true }
}

function nextPage({ n }: PageAsked, next: string | undefined): Record<string, string> | undefined {
  return next === undefined ? undefined : { ...(n !== undefined && { n: String(n) }), last: next }
}

/** Leads to the next page of the same list of the same upstream, however the client chose it. [RFC 8288] */
function linkTo(
  { target }: Pick<Asked, 'target'>,
  path: string,
  query: Record<string, string> | undefined,
): Record<string, string> {
  if (query === undefined) return {}
  const { namespace } = target
  const next = new URLSearchParams({ ...query, ...(namespace !== undefined && { ns: namespace }) })
  return { Link: `<${path}?${next.toString()}>; rel="next"` }
}

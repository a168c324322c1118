import { algorithmOf, encodedOf, isDigest, type Digest } from '../oci/digest.ts'
import { mediaTypes } from '../oci/media-types.ts'
import { referrersPath } from '../oci/paths.ts'
import { isTag, type Reference, type RepositoryName } from '../oci/reference.ts'
import { SourceError } from '../stream/blob-source.ts'
import type { Api } from './api.ts'
import type { FetchedManifest, ReferrersPage, UpstreamRequest } from './fetch.ts'
import { listMaxBytes, nextPage, parseObject, passedHeaders } from './lists.ts'
import { errorOfStatus } from './outcome.ts'
import { repositoryAt, type RegistryEntry } from './registries.ts'
import { urlAt } from './request.ts'

export interface ReferrersDeps {
  readonly entry: RegistryEntry
  readonly api: Api
  readonly getManifest: (
    name: RepositoryName,
    reference: Reference,
    options: UpstreamRequest | undefined,
  ) => Promise<FetchedManifest | undefined>
}

export interface ReferrersQuestion {
  readonly name: RepositoryName
  readonly subject: Digest
  readonly artifactType: string | undefined
  /** The `next` of the page before this one; the first page without. */
  readonly after: string | undefined
  readonly options: UpstreamRequest | undefined
}

/** What an upstream without the endpoint answers, one way or the other. */
const withoutEndpoint: ReadonlySet<number> = new Set([400, 404, 405, 410, 501])

/** Pages that are joined for one answer: a far side that has small ones, or no last one, is not asked all night. */
const maxPages = 50

/** Asks for referrers as a client does that has no mirror. [distribution-spec, Listing Referrers] */
export function createReferrers({ entry, api, getManifest }: ReferrersDeps) {
  return async (question: ReferrersQuestion): Promise<ReferrersPage> => {
    const { name, subject, artifactType, after, options } = question
    const repository = repositoryAt(entry, name)
    const accept = mediaTypes.ociIndex
    const descriptors: unknown[] = []
    let headers: Readonly<Record<string, string>> = {}
    let total = 0
    let url: URL | undefined = urlAt(entry, referrersPath(repository, subject))
    if (after !== undefined) url.search = new URLSearchParams(after).toString()
    else if (artifactType !== undefined) url.searchParams.set('artifactType', artifactType)
    for (let page = 0; url !== undefined; page++) {
      const call = { url, accept, maxBytes: listMaxBytes, repository, options }
      const { answer } = await api(call)
      if (page === 0 && after === undefined && withoutEndpoint.has(answer.status))
        return referrersByTag(question)
      if (answer.status !== 200) throw errorOfStatus(entry.id, answer.status, answer.headers)
      const found = manifestsOf(entry, answer.body)
      total += answer.body.length
      // No client reads a longer index than that: the rest is for whoever asks for it.
      if (page > 0 && total > listMaxBytes)
        return { ...indexOf(descriptors), headers, next: url.searchParams.toString() }
      const here: string = url.href
      url = nextPage(url, answer.headers)
      if (page === 0) headers = passedHeaders(answer.headers)
      if (page === 0 && url === undefined)
        return { body: answer.body, mediaType: mediaTypes.ociIndex, headers }
      // A far side that names page after page with nothing in it, or one page again, would be asked for ever.
      if (found.length === 0) break
      descriptors.push(...found)
      if (url?.href === here) break
      if (url !== undefined && page + 1 === maxPages)
        return { ...indexOf(descriptors), headers, next: url.searchParams.toString() }
    }
    return { ...indexOf(descriptors), headers }
  }

  /** Where clients look when the endpoint is missing. [distribution-spec, Referrers Tag Schema] */
  async function referrersByTag(question: ReferrersQuestion): Promise<ReferrersPage> {
    const { name, subject, artifactType, options } = question
    const tag = `${algorithmOf(subject)}-${encodedOf(subject).slice(0, 64)}`
    const found = isTag(tag) ? await getManifest(name, { kind: 'tag', tag }, options) : undefined
    if (found?.manifest.isIndex !== true) return { ...indexOf([]), headers: {} }
    const all = manifestsOf(entry, found.bytes)
    if (artifactType === undefined) return { ...indexOf(all), headers: {} }
    const matching = all.filter((descriptor) => descriptor['artifactType'] === artifactType)
    return { ...indexOf(matching), headers: { 'oci-filters-applied': 'artifactType' } }
  }
}

/** @throws SourceError `broken` unless the body is an index of descriptors */
function manifestsOf(entry: RegistryEntry, body: Buffer): Record<string, unknown>[] {
  const { schemaVersion, manifests } = parseObject(entry, body)
  if (schemaVersion !== 2 || !Array.isArray(manifests) || !manifests.every(isDescriptor))
    throw new SourceError('broken', `${entry.id} answers referrers with something else`)
  return manifests
}

function isDescriptor(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false
  const { digest, size, mediaType } = value as Record<string, unknown>
  const hasDigest = typeof digest === 'string' && isDigest(digest)
  return hasDigest && Number.isSafeInteger(size) && typeof mediaType === 'string'
}

function indexOf(manifests: readonly unknown[]): { body: Buffer; mediaType: string } {
  const mediaType = mediaTypes.ociIndex
  const document = { schemaVersion: 2, mediaType, manifests }
  return { body: Buffer.from(JSON.stringify(document)), mediaType }
}

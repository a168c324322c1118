import { isDigest, type Digest } from './digest.ts'
import { OciError } from './errors.ts'
import {
  formatReference,
  parseReference,
  parseRepositoryName,
  type Reference,
  type RepositoryName,
} from './reference.ts'

/**
 * A request under `/v2/`, read from its raw URL. `reference: undefined` and `digest: undefined` mean
 * that the text in the path is not of the grammar: a read answers 404, a write 400.
 */
export type OciPath =
  | { readonly kind: 'ping' }
  | { readonly kind: 'catalog' }
  | {
      readonly kind: 'manifest'
      readonly repository: RepositoryName
      readonly reference: Reference | undefined
      readonly text: string
    }
  | {
      readonly kind: 'blob'
      readonly repository: RepositoryName
      readonly digest: Digest | undefined
      readonly text: string
    }
  | { readonly kind: 'uploads'; readonly repository: RepositoryName }
  | { readonly kind: 'upload'; readonly repository: RepositoryName; readonly id: string }
  | { readonly kind: 'tags'; readonly repository: RepositoryName }
  | {
      readonly kind: 'referrers'
      readonly repository: RepositoryName
      readonly digest: Digest | undefined
      readonly text: string
    }

export interface OciTarget {
  readonly path: OciPath
  readonly query: URLSearchParams
}

/** What is said of a path that cannot be decoded. */
export const badEncoding = 'the path is not valid percent-encoded UTF-8'

const uploadIdGrammar = /^[a-zA-Z0-9_.=-]{1,128}$/

/** Whether a raw URL is of the distribution API, well-formed or not: its clients know that API's codes alone. */
export function isRegistryUrl(rawUrl: string): boolean {
  return /^\/v2(?:[/?]|$)/.test(rawUrl)
}

/**
 * Reads the raw URL of a `/v2/` request. The path is split on `/` before each segment is decoded, and
 * read from its right end, so that `a/manifests/b` is a fine repository name. [distribution-spec, Endpoints]
 * @returns undefined when no endpoint has this form (404)
 * @throws OciError NAME_INVALID when the endpoint is known and the name is not of the grammar
 */
export function parseOciUrl(rawUrl: string): OciTarget | undefined {
  const mark = rawUrl.indexOf('?')
  const rawPath = mark < 0 ? rawUrl : rawUrl.slice(0, mark)
  const path = parseOciPath(rawPath)
  if (path === undefined) return undefined
  return { path, query: new URLSearchParams(mark < 0 ? '' : rawUrl.slice(mark + 1)) }
}

/** The path part of `parseOciUrl`; `rawPath` has no query. */
export function parseOciPath(rawPath: string): OciPath | undefined {
  if (rawPath === '/v2' || rawPath === '/v2/') return { kind: 'ping' }
  if (!rawPath.startsWith('/v2/')) return undefined
  const segments = rawPath.slice('/v2/'.length).split('/').map(decodeSegment)
  if (segments.length === 1 && segments[0] === '_catalog') return { kind: 'catalog' }

  const last = segments.at(-1) ?? ''
  const second = segments.at(-2)
  const third = segments.at(-3)
  const name = (fromRight: number) => parseRepositoryName(segments.slice(0, -fromRight).join('/'))

  if (third === 'blobs' && second === 'uploads' && last === '')
    return { kind: 'uploads', repository: name(3) }
  if (third === 'blobs' && second === 'uploads') {
    const repository = name(3)
    return uploadIdGrammar.test(last) ? { kind: 'upload', repository, id: last } : undefined
  }
  if (second === 'blobs' && last === 'uploads') return { kind: 'uploads', repository: name(2) }
  if (second === 'blobs') {
    return {
      kind: 'blob',
      repository: name(2),
      digest: isDigest(last) ? last : undefined,
      text: last,
    }
  }
  if (second === 'manifests') {
    return { kind: 'manifest', repository: name(2), reference: parseReference(last), text: last }
  }
  if (second === 'tags' && last === 'list') return { kind: 'tags', repository: name(2) }
  if (second === 'referrers') {
    return {
      kind: 'referrers',
      repository: name(2),
      digest: isDigest(last) ? last : undefined,
      text: last,
    }
  }
  return undefined
}

/** Where a blob is read. */
export function blobPath(repository: RepositoryName, digest: Digest): string {
  return `/v2/${repository}/blobs/${digest}`
}

/** Where a manifest is read. */
export function manifestPath(repository: RepositoryName, reference: Reference): string {
  return `/v2/${repository}/manifests/${formatReference(reference)}`
}

/** Where an upload session is continued. */
export function uploadPath(repository: RepositoryName, id: string): string {
  return `/v2/${repository}/blobs/uploads/${id}`
}

/** Where a client asks whether it may come in. */
export const pingPath = '/v2/'

/** Where the repositories are listed. */
export const catalogPath = '/v2/_catalog'

/** Where a repository's tags are listed. */
export function tagsPath(repository: RepositoryName): string {
  return `/v2/${repository}/tags/list`
}

/** Where the referrers of a subject are listed. */
export function referrersPath(repository: RepositoryName, subject: Digest): string {
  return `/v2/${repository}/referrers/${subject}`
}

function decodeSegment(segment: string): string {
  const decoded = segment.includes('%') ? decodePercent(segment) : segment
  // A decoded separator would let one segment pose as several behind the grammar's back.
  if (/[/\\\0]/.test(decoded) || decoded === '.' || decoded === '..') {
    throw new OciError(
      'NAME_INVALID',
      'a path segment may not hold an encoded slash, a backslash, NUL, . or ..',
    )
  }
  return decoded
}

function decodePercent(segment: string): string {
  try {
    return decodeURIComponent(segment)
  } catch (cause) {
    throw new OciError('NAME_INVALID', badEncoding, { cause })
  }
}

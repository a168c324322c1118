import { OciError } from '../../shared/oci/errors.ts'

/** The page that a client asks for. [distribution-spec, Listing Tags] */
export interface Page {
  /** undefined: everything. */
  readonly limit: number | undefined
  /** Names after this one. */
  readonly after: string
}

/** A page of names, and the Link to the next. */
export interface NamePage {
  readonly names: readonly string[]
  readonly link: string | undefined
}

const numberForm = /^\d+(?:e\d{1,2})?$/i

/**
 * Reads `n` and `last`.
 * @param maxLimit larger ones are cut to this: crane asks for 1000 of everybody
 * @throws OciError PAGINATION_NUMBER_INVALID when `n` is not a number, or negative
 */
export function parsePage(
  query: URLSearchParams,
  { maxLimit, defaultLimit }: { readonly maxLimit: number; readonly defaultLimit?: number },
): Page {
  return { limit: readLimit(query, maxLimit) ?? defaultLimit, after: readLast(query) }
}

function readLimit(query: URLSearchParams, maxLimit: number): number | undefined {
  const text = query.get('n')
  if (text === null || text === '') return undefined
  if (!numberForm.test(text)) {
    throw new OciError('PAGINATION_NUMBER_INVALID', 'n must be a whole number, 0 or more')
  }
  return Math.min(Number(text), maxLimit)
}

/** No name holds a NUL, and the database takes none: what stands before it orders the same. */
function readLast(query: URLSearchParams): string {
  return (query.get('last') ?? '').split('\0', 1).join('')
}

/** One more than the limit was asked for: what is too many says that there is another page. */
export function cutPage(
  found: readonly string[],
  { path, limit }: { readonly path: string; readonly limit: number | undefined },
): NamePage {
  if (limit === undefined || found.length <= limit) return { names: found, link: undefined }
  const names = found.slice(0, limit)
  const last = names.at(-1)
  if (last === undefined) return { names, link: undefined }
  return { names, link: nextLink(path, new URLSearchParams({ n: String(limit), last })) }
}

/** A relative Link: clients refuse another host or scheme. [RFC 8288] */
export function nextLink(path: string, query: URLSearchParams): string {
  return `<${path}?${query.toString()}>; rel="next"`
}

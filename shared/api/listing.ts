import { formatPageLinks, parsePage, type Page } from './paging.ts'
import { parseQuery, parseSort, type Fields, type Filter, type Sort } from './query.ts'

/** What a list request asks for, read. */
export interface Listing {
  readonly filters: readonly Filter[]
  readonly sorts: readonly Sort[]
  readonly page: Page
}

/**
 * Reads `q`, `sort`, `page` and `page_size`.
 * @param filterFields what may stand in `q` besides, and not in `sort`
 * @throws ApiError BAD_REQUEST, UNPROCESSABLE_ENTITY
 */
export function parseListing(
  query: {
    readonly q?: string | undefined
    readonly sort?: string | undefined
    readonly page?: unknown
    readonly page_size?: unknown
  },
  fields: Fields,
  filterFields: Fields = {},
): Listing {
  return {
    page: parsePage(query),
    filters: parseQuery(query.q, { ...fields, ...filterFields }),
    sorts: parseSort(query.sort, fields),
  }
}

/** One page of a list, as it is answered: with `X-Total-Count` and `Link`. */
export function listAnswer(
  body: readonly unknown[],
  { url, page, total }: { readonly url: string; readonly page: Page; readonly total: number },
): {
  readonly status: 200
  readonly headers: Readonly<Record<string, string | undefined>>
  readonly body: readonly unknown[]
} {
  const headers = { 'X-Total-Count': String(total), Link: formatPageLinks(url, page, total) }
  return { status: 200, headers, body }
}

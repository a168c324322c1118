import { ApiError } from './errors.ts'

const defaultPageSize = 10
const maxPageSize = 100
const maxPage = 1_000_000_000

/** Which part of a list is wanted. */
export interface Page {
  /** From 1. */
  readonly number: number
  readonly size: number
  /** How many rows come before it. */
  readonly offset: number
}

/**
 * Reads `page` and `page_size` as Harbor does: 1 and 10 unless given, at most 100 a page.
 * @throws ApiError UNPROCESSABLE_ENTITY
 */
export function parsePage(query: { readonly page?: unknown; readonly page_size?: unknown }): Page {
  const number = parseNumber(query.page, { name: 'page', fallback: 1, max: maxPage })
  const size = parseNumber(query.page_size, {
    name: 'page_size',
    fallback: defaultPageSize,
    max: maxPageSize,
  })
  return { number, size, offset: (number - 1) * size }
}

/**
 * The `Link` header of a page: `prev` and `next` where there are such pages, with the other parameters kept.
 * @param url the request's own path and query
 * @returns undefined when the list has no other page
 */
export function formatPageLinks(url: string, page: Page, total: number): string | undefined {
  const mark = url.indexOf('?')
  const path = mark < 0 ? url : url.slice(0, mark)
  const link = (number: number, rel: string): string => {
    const query = new URLSearchParams(mark < 0 ? '' : url.slice(mark + 1))
    query.set('page', String(number))
    query.set('page_size', String(page.size))
    return `<${path}?${query.toString()}>; rel="${rel}"`
  }
  const links: string[] = []
  if (page.number > 1 && (page.number - 1) * page.size < total + page.size) {
    links.push(link(page.number - 1, 'prev'))
  }
  if (page.number * page.size < total) links.push(link(page.number + 1, 'next'))
  return links.length === 0 ? undefined : links.join(', ')
}

function parseNumber(
  value: unknown,
  { name, fallback, max }: { name: string; fallback: number; max: number },
): number {
  if (value === undefined || value === '') return fallback
  const number = typeof value === 'string' && /^[0-9]{1,10}$/.test(value) ? Number(value) : NaN
  if (number >= 1 && number <= max) return number
  throw new ApiError('UNPROCESSABLE_ENTITY', `${name} must be a number from 1 to ${max}`)
}

import type { TString } from 'typebox'
import { Type } from '../schema/type.ts'

/** A text in a body or query. PostgreSQL takes no NUL, which nobody has a use for. */
export function text(maxLength: number, options: { readonly description?: string } = {}): TString {
  return Type.String({ maxLength, pattern: '^[^\\u0000]*$', ...options })
}

/** A time as the API shows it: RFC 3339, UTC, milliseconds. */
export const timestamp = Type.String({ format: 'date-time' })

/** Go's zero time, which Harbor's clients take for never. */
export const never = '0001-01-01T00:00:00.000Z'

/** `page` and `page_size`; `parsePage` reads them, since what they must be is answered with 422. */
export const pageParameters = {
  page: Type.Optional(text(20, { description: 'From 1.' })),
  page_size: Type.Optional(text(20, { description: 'At most 100; 10 if left out.' })),
}

/** `q`, `sort`, `page` and `page_size`. */
export const listParameters = {
  ...pageParameters,
  q: Type.Optional(
    text(2048, { description: 'k=v exact, k=~v fuzzy, k=[min~max], k={v1 v2} or, k=(v1 v2) and' }),
  ),
  sort: Type.Optional(text(2048, { description: 'Field names, `-` before one that descends.' })),
}

/** Query parameters of a list that is filtered and sorted. */
export const listQuery = Type.Object(listParameters)

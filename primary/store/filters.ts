import { sql, type Expression, type SelectQueryBuilder, type Simplify, type SqlBool } from 'kysely'
import type { Listing } from '../../shared/api/listing.ts'
import type { FieldValue, Filter, Sort } from '../../shared/api/query.ts'

/**
 * Adds the conditions of `q` to a query. Columns come from the resource's allow-list alone; values are
 * bound, never written into the statement.
 */
export function applyFilters<DB, TB extends keyof DB, O>(
  query: SelectQueryBuilder<DB, TB, O>,
  filters: readonly Filter[],
): SelectQueryBuilder<DB, TB, O> {
  return filters.reduce((narrowed, filter) => narrowed.where(conditionOf(filter)), query)
}

/** Orders a query, by `last` in the end. */
function applySorts<DB, TB extends keyof DB, O>(
  query: SelectQueryBuilder<DB, TB, O>,
  sorts: readonly Sort[],
  last: Sort,
): SelectQueryBuilder<DB, TB, O> {
  return [...sorts, last].reduce(
    (sorted, { column, descending }) =>
      sorted.orderBy(sql.ref(column), descending ? 'desc' : 'asc'),
    query,
  )
}

/**
 * One page of what a query finds, and how many rows there are in all.
 * @param query without columns yet, which `select` adds
 */
export async function readPage<DB, TB extends keyof DB, O, Row>(
  query: SelectQueryBuilder<DB, TB, O>,
  {
    sorts,
    page,
    last,
    select,
  }: Pick<Listing, 'sorts' | 'page'> & {
    /** Orders them in the end, so that no two pages show one row. */
    readonly last: Sort
    readonly select: (query: SelectQueryBuilder<DB, TB, O>) => SelectQueryBuilder<DB, TB, Row>
  },
): Promise<{ readonly rows: readonly Simplify<Row>[]; readonly total: number }> {
  const { total } = await query
    .select(sql<number>`count(*)`.as('total'))
    .$castTo<{ total: number }>()
    .executeTakeFirstOrThrow()
  const rows = await select(applySorts(query, sorts, last))
    .limit(page.size)
    .offset(page.offset)
    .execute()
  return { rows, total }
}

/** The condition of one filter, on its column unless it is on something else. */
export function conditionOf(
  filter: Filter,
  column: Expression<unknown> = sql.ref(filter.column),
): Expression<SqlBool> {
  switch (filter.kind) {
    case 'exact':
      return sql<SqlBool>`${column} = ${bind(filter.value)}`
    case 'fuzzy':
      return sql<SqlBool>`${column} ILIKE ${`%${escapeLike(filter.value)}%`}::text`
    case 'range': {
      const { min, max } = filter
      const ends = [
        ...(min === undefined ? [] : [sql`${column} >= ${bind(min)}`]),
        ...(max === undefined ? [] : [sql`${column} <= ${bind(max)}`]),
      ]
      return sql<SqlBool>`(${sql.join(ends, sql` AND `)})`
    }
    case 'any':
      return sql<SqlBool>`${column} IN (${sql.join(filter.values.map(bind))})`
    case 'all':
      return sql<SqlBool>`(${sql.join(
        filter.values.map((value) => sql`${column} = ${bind(value)}`),
        sql` AND `,
      )})`
  }
}

/** A number that is too large for its column must find nothing, and not fail: hence the wide types. */
function bind(value: FieldValue) {
  switch (typeof value) {
    case 'number':
      return sql`${value}::bigint`
    case 'boolean':
      return sql`${value}::boolean`
    case 'string':
      return sql`${value}::text`
    default:
      return sql`${value}::timestamptz`
  }
}

/** A text to look for, with LIKE's own signs taken literally. */
export function escapeLike(text: string): string {
  return text.replaceAll(/[\\%_]/g, '\\$&')
}

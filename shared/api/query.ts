import { ApiError } from './errors.ts'

/** What a list may be filtered and sorted by: the name in `q` and `sort`, and the column behind it. */
export interface Field {
  readonly column: string
  readonly type: 'text' | 'integer' | 'time' | 'boolean'
}

/** The allow-list of one resource. What is not in it cannot be asked for: a password hash is no field. */
export type Fields = Readonly<Record<string, Field>>

export type FieldValue = string | number | boolean | Date

/** One condition of `q`, with its column from the allow-list and its values of the column's type. */
export type Filter =
  | { readonly kind: 'exact'; readonly column: string; readonly value: FieldValue }
  /** The text occurs anywhere, in any case. */
  | { readonly kind: 'fuzzy'; readonly column: string; readonly value: string }
  /** Both ends included; one may be open. */
  | {
      readonly kind: 'range'
      readonly column: string
      readonly min: FieldValue | undefined
      readonly max: FieldValue | undefined
    }
  | { readonly kind: 'any'; readonly column: string; readonly values: readonly FieldValue[] }
  | { readonly kind: 'all'; readonly column: string; readonly values: readonly FieldValue[] }

/** One key of `sort`. */
export interface Sort {
  readonly column: string
  readonly descending: boolean
}

const maxLength = 2048
const maxConditions = 20
const maxValues = 100

/**
 * Reads `q`: conditions separated by commas, each `k=v` exact, `k=~v` fuzzy, `k=[min~max]` range,
 * `k={v1 v2}` any of, `k=(v1 v2)` all of; a value may stand in quotes. Key names are compared without
 * case and underscores, since Harbor takes `ProjectID` and `project_id`. [harbor src/lib/q/builder.go]
 * @throws ApiError BAD_REQUEST for a broken condition or a field that is not in the allow-list
 */
export function parseQuery(text: string | undefined, fields: Fields): readonly Filter[] {
  if (text === undefined || text === '') return []
  if (text.length > maxLength) throw refused(`q has more than ${maxLength} characters`)
  const parts = splitConditions(text.includes('=') ? text : decode(text))
  if (parts.length > maxConditions) throw refused(`q has more than ${maxConditions} conditions`)
  return parts.map((part) => parseCondition(part, fields))
}

/**
 * Reads `sort`: field names separated by commas, `-` before one that descends.
 * @throws ApiError BAD_REQUEST for a field that is not in the allow-list
 */
export function parseSort(text: string | undefined, fields: Fields): readonly Sort[] {
  if (text === undefined || text === '') return []
  if (text.length > maxLength) throw refused(`sort has more than ${maxLength} characters`)
  const keys = text.split(',').map((key) => key.trim())
  if (keys.length > maxConditions) throw refused(`sort has more than ${maxConditions} keys`)
  return keys.map((key) => {
    const descending = key.startsWith('-')
    const { column } = findField(descending ? key.slice(1) : key, fields)
    return { column, descending }
  })
}

function parseCondition(part: string, fields: Fields): Filter {
  const equals = part.indexOf('=')
  const name = equals < 0 ? '' : part.slice(0, equals).trim()
  const value = part.slice(equals + 1).trim()
  if (name === '' || value === '') {
    throw refused(`q must be conditions of the form key=value, but one is "${shorten(part)}"`)
  }
  const field = findField(name, fields)
  const { column } = field
  if (value.startsWith('~')) {
    const wanted = unquote(value.slice(1))
    if (wanted === '') throw refused(`${name}=~ lacks the text to look for`)
    if (field.type !== 'text') throw refused(`${name} is no text: it cannot be matched by ~`)
    return { kind: 'fuzzy', column, value: wanted }
  }
  if (value.startsWith('[')) return parseRange(name, value, field)
  if (value.startsWith('{')) {
    return { kind: 'any', column, values: parseList(name, value, { field, close: '}' }) }
  }
  if (value.startsWith('(')) {
    return { kind: 'all', column, values: parseList(name, value, { field, close: ')' }) }
  }
  // Harbor's way to look for a text that begins with one of the signs above.
  const literal = value.startsWith('\\') ? value.slice(1) : unquote(value)
  return { kind: 'exact', column, value: readValue(name, literal, field) }
}

function parseRange(name: string, value: string, field: Field): Filter {
  const ends = value.endsWith(']') ? value.slice(1, -1).split('~') : []
  const [min = '', max = ''] = ends.map((end) => unquote(end.trim()))
  if (ends.length !== 2 || (min === '' && max === '')) {
    throw refused(`${name} must be a range of the form [min~max], of which one end may be missing`)
  }
  return {
    kind: 'range',
    column: field.column,
    min: min === '' ? undefined : readValue(name, min, field),
    max: max === '' ? undefined : readValue(name, max, field),
  }
}

function parseList(
  name: string,
  value: string,
  { field, close }: { field: Field; close: string },
): readonly FieldValue[] {
  const inside = value.endsWith(close) ? value.slice(1, -1) : undefined
  const texts = inside?.match(/"[^"]*"|'[^']*'|[^\s"']+/g) ?? []
  if (inside === undefined || texts.length === 0) {
    throw refused(`${name} must be a list of the form ${value.charAt(0)}v1 v2${close}`)
  }
  if (texts.length > maxValues) throw refused(`${name} lists more than ${maxValues} values`)
  return texts.map((text) => readValue(name, unquote(text), field))
}

function readValue(name: string, text: string, field: Field): FieldValue {
  // PostgreSQL has no NUL in texts: such a value can only be an attempt.
  if (text.includes('\0')) throw refused(`${name} holds a NUL character`)
  switch (field.type) {
    case 'text':
      return text
    case 'integer':
      if (/^-?[0-9]{1,15}$/.test(text)) return Number(text)
      throw refused(`${name} must be a whole number`)
    case 'boolean':
      if (/^(?:true|1)$/i.test(text)) return true
      if (/^(?:false|0)$/i.test(text)) return false
      throw refused(`${name} must be true or false`)
    case 'time':
      return readTime(name, text)
  }
}

const timeForm = /^(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d:\d\d(?:\.\d{1,9})?)(Z|[+-]\d\d:\d\d)?)?$/

/** RFC 3339, or Harbor's `2020-04-09 02:36:00`, which is UTC. */
function readTime(name: string, text: string): Date {
  const [, day = '', clock = '00:00:00', zone = 'Z'] = timeForm.exec(text) ?? []
  const time = new Date(`${day}T${clock}${zone}`)
  if (day !== '' && !Number.isNaN(time.getTime())) return time
  throw refused(`${name} must be a time such as 2026-01-02 03:04:05`)
}

function findField(name: string, fields: Fields): Field {
  const wanted = normalise(name)
  const found = Object.entries(fields).find(([known]) => normalise(known) === wanted)
  if (found !== undefined) return found[1]
  const allowed = Object.keys(fields).join(', ')
  throw refused(`"${shorten(name)}" is no field to filter or sort by here; these are: ${allowed}`)
}

function normalise(name: string): string {
  return name.trim().replaceAll('_', '').toLowerCase()
}

/** Splits at commas that stand outside quotes. */
function splitConditions(text: string): readonly string[] {
  return text.match(/(?:"[^"]*"|'[^']*'|[^,"']|["'])+/g) ?? []
}

function unquote(text: string): string {
  const quoted = /^(?:"([^"]*)"|'([^']*)')$/.exec(text)
  return quoted?.[1] ?? quoted?.[2] ?? text
}

/** Some clients encode `q` twice (`tags%3Dnil`). */
function decode(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function shorten(text: string): string {
  return text.length > 64 ? `${text.slice(0, 64)}…` : text
}

function refused(message: string): ApiError {
  return new ApiError('BAD_REQUEST', message)
}

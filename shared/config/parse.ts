import type { OptionSchema } from './options.ts'
import { didYouMean } from './problems.ts'
import { isRecord } from './record.ts'
import { formatUnit, parseDuration, parseRate, parseSize, type Unit } from './units.ts'

/** Says that the option at `path` is wrong. */
export type Report = (path: string, message: string) => void

const unitParsers: Readonly<Record<Unit, (value: string | number) => number | undefined>> = {
  size: parseSize,
  duration: parseDuration,
  rate: parseRate,
}

const unitExamples: Readonly<Record<Unit, string>> = {
  size: 'a size like 64MiB',
  duration: 'a duration like 30s or 5m',
  rate: 'a rate like 512B/s',
}

/** The path of a member: `primary` and `listeners` make `primary.listeners`. */
export function memberPath(path: string, member: string | number): string {
  return path === '' ? String(member) : `${path}.${member}`
}

/**
 * Turns what the file, the environment and the flags hold together into the option's value: defaults filled
 * in, units converted, unknown keys refused. Reports every problem and goes on.
 * @returns the value; undefined when it is absent or was reported
 */
export function parseOptions(
  schema: OptionSchema,
  input: unknown,
  at: { readonly path: string; readonly report: Report },
): unknown {
  // `key:` with nothing behind it is null in YAML, and means what leaving the line out means.
  const given = input === null ? undefined : input
  if (schema.properties !== undefined) return parseGroup(schema, given, at)
  const value = given ?? schema.default
  if (value === undefined) return undefined
  if (schema.items !== undefined) return parseList(schema.items, value, at)
  return parseLeaf(schema, value, at)
}

type At = Parameters<typeof parseOptions>[2]

function parseGroup(schema: OptionSchema, input: unknown, { path, report }: At): unknown {
  if (input !== undefined && !isRecord(input)) {
    report(path, `must be a group of options, not ${show(input)}`)
    return undefined
  }
  const properties = schema.properties ?? {}
  for (const key of Object.keys(input ?? {})) {
    if (Object.hasOwn(properties, key)) continue
    report(memberPath(path, key), `unknown option${didYouMean(key, Object.keys(properties))}`)
  }
  const parsed: Record<string, unknown> = {}
  for (const [key, member] of Object.entries(properties)) {
    const given = input?.[key] ?? undefined
    const isRequired = schema.required?.includes(key) ?? false
    // An optional group that is absent stays absent: its members' defaults must not conjure it up.
    if (given === undefined && !isRequired) continue
    const value = parseOptions(member, given, { path: memberPath(path, key), report })
    if (value !== undefined) parsed[key] = value
    else if (given === undefined) report(memberPath(path, key), 'is required')
  }
  return parsed
}

function parseList(items: OptionSchema, input: unknown, { path, report }: At): unknown {
  if (!Array.isArray(input)) {
    report(path, `must be a list, not ${show(input)}`)
    return undefined
  }
  return Array.from(input, (item: unknown, index) => {
    const itemPath = memberPath(path, index)
    if (item === undefined || item === null) {
      report(itemPath, 'is missing: the elements of a list are numbered from 0 without a gap')
      return undefined
    }
    return parseOptions(items, item, { path: itemPath, report })
  })
}

function parseLeaf(schema: OptionSchema, input: unknown, { path, report }: At): unknown {
  const value = convertUnit(schema, input)
  const problem = leafProblem(schema, value)
  if (problem === undefined) return value
  const shown = schema.secret === true ? '' : `, not ${show(input)}`
  report(path, `${problem}${shown}`)
  return undefined
}

function convertUnit(schema: OptionSchema, input: unknown): unknown {
  if (schema.unit === undefined) return input
  if (typeof input !== 'string' && typeof input !== 'number') return undefined
  return unitParsers[schema.unit](input)
}

/** What is wrong with a leaf's value, in words; undefined when nothing is. */
function leafProblem(schema: OptionSchema, value: unknown): string | undefined {
  if (schema.enum !== undefined) {
    if (typeof value === 'string' && schema.enum.includes(value)) return undefined
    return `must be ${schema.enum.map((word) => `'${word}'`).join(' or ')}`
  }
  const broken = brokenKeyword(schema, value)
  if (broken === undefined) return undefined
  if (schema.form !== undefined) return `must be ${schema.form}`
  if (schema.unit !== undefined && value === undefined)
    return `must be ${unitExamples[schema.unit]}`
  if (broken === 'minimum') return `must be at least ${showNumber(schema, schema.minimum)}`
  if (broken === 'maximum') return `must be at most ${showNumber(schema, schema.maximum)}`
  if (broken === 'type') return `must be ${typeNames[schema.type ?? ''] ?? 'something else'}`
  if (broken === 'minLength') return 'must not be empty'
  return `must match ${schema.pattern ?? ''}`
}

/** The first JSON Schema keyword that a leaf's value does not keep, of those that `options.ts` writes. */
function brokenKeyword(
  { type, minLength = 0, pattern, minimum = -Infinity, maximum = Infinity }: OptionSchema,
  value: unknown,
): 'type' | 'minLength' | 'pattern' | 'minimum' | 'maximum' | undefined {
  if (typeof value === 'string') {
    if (type !== 'string') return 'type'
    if (value.length < minLength) return 'minLength'
    return pattern === undefined || new RegExp(pattern, 'u').test(value) ? undefined : 'pattern'
  }
  if (typeof value === 'boolean') return type === 'boolean' ? undefined : 'type'
  if (typeof value !== 'number' || type !== 'integer' || !Number.isInteger(value)) return 'type'
  if (value < minimum) return 'minimum'
  return value > maximum ? 'maximum' : undefined
}

function showNumber({ unit }: OptionSchema, value: number | undefined): string {
  return unit === undefined || value === undefined ? String(value) : formatUnit(unit, value)
}

const typeNames: Readonly<Record<string, string>> = {
  string: 'text (in quotes, if it looks like a number)',
  integer: 'a whole number',
  boolean: 'true or false',
}

/** A value in an error message, cut short. */
function show(value: unknown): string {
  if (Array.isArray(value)) return 'a list'
  if (isRecord(value)) return 'a group'
  const text = JSON.stringify(value) ?? 'nothing'
  return text.length > 80 ? `${text.slice(0, 77)}…` : text
}

import { accessSync, constants, readFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import type { TObject } from 'typebox'
import { parseDocument } from 'yaml'
import { readEnvironment, type Assignment } from './environment.ts'
import { asOption, choice, group, path, type Loaded, type OptionSchema } from './options.ts'
import { memberPath, parseOptions, type Report } from './parse.ts'
import { isRecord } from './record.ts'
import { ConfigError, type ConfigProblem } from './problems.ts'

const defaultData = './data'

/** What every command reads, whatever it starts. */
const commonOptions = {
  data: path({
    default: defaultData,
    description: 'The folder that holds everything the program keeps.',
  }),
  log: group({
    level: choice(['debug', 'info', 'warn', 'error'], {
      default: 'info',
      description: 'The least important line that is logged.',
    }),
  }),
}

export type CommonConfig = Loaded<TObject<typeof commonOptions>>

export type Environment = Readonly<Record<string, string | undefined>>

/**
 * A rule over several options. It runs when every option in `reads` was fine by itself; an element of a list that was
 * not is a hole, which `forEach`, `map` and `some` pass over.
 */
export interface SectionCheck<Options> {
  /** Names of the section's options. */
  readonly reads: readonly (keyof Options & string)[]
  /** Reports paths inside the section: `listeners.0.tls`. */
  readonly check: (options: Options, report: Report, common: CommonConfig) => void
}

/** One program's part of the configuration. */
export interface ConfigSection<Name extends string, Result> {
  readonly name: Name
  readonly schema: OptionSchema
  readonly checks: readonly SectionCheck<Record<string, unknown>>[]
  /** Fills in what follows from other options, and from variables that other programs read too. */
  complete(options: unknown, common: CommonConfig, env: Environment): Result
}

/**
 * Declares a program's part: its schema, the rules over several options, and what follows from others
 * (`complete` runs last, on a configuration without problems).
 */
export function defineSection<const Name extends string, Schema extends TObject, Result>(section: {
  readonly name: Name
  readonly schema: Schema
  readonly checks: readonly SectionCheck<Loaded<Schema>>[]
  readonly complete: (options: Loaded<Schema>, common: CommonConfig, env: Environment) => Result
}): ConfigSection<Name, Result> {
  return {
    name: section.name,
    schema: asOption(section.schema),
    // The loader calls these with what it parsed by this same schema.
    checks: section.checks as unknown as readonly SectionCheck<Record<string, unknown>>[],
    complete: (options, common, env) => section.complete(options as Loaded<Schema>, common, env),
  }
}

/** The configuration that these sections make together. */
export type ConfigOf<Sections extends readonly ConfigSection<string, unknown>[]> = CommonConfig & {
  readonly [Section in Sections[number] as Section['name']]: ReturnType<Section['complete']>
}

export interface ConfigSources<Sections extends readonly ConfigSection<string, unknown>[]> {
  readonly sections: Sections
  /** The YAML file. Paths in it are relative to its folder. */
  readonly file?: string | undefined
  readonly env: Environment
  /** Of the shape of the file; members that are undefined change nothing, list elements merge by index. */
  readonly flags?: unknown
  /** What relative paths outside the file start from; the process's working folder if left out. */
  readonly workingFolder?: string
  /** Looks whether the files are there that a program would read: for one that is to start on this machine. */
  readonly files?: FileCheck
  readonly fallbacks?: Fallbacks
}

/**
 * What stands where file, environment and flags say nothing, before the defaults of the schema: what the data folder
 * itself knows.
 * @param written the data folder, and what is said of everything, unchecked
 */
export type Fallbacks = (written: {
  readonly data: string
  readonly options: Readonly<Record<string, unknown>>
}) => { readonly options: unknown; readonly source: string } | undefined

export interface FileCheck {
  /** The sections of the programs that are to start. */
  readonly sections: readonly string[]
  /** Whether the start itself makes the file. */
  readonly isMade?: (file: string, options: Readonly<Record<string, unknown>>) => boolean
}

/**
 * Reads the configuration: flags override the environment, the environment the file, the file what the data folder
 * knows (`fallbacks`), and that the defaults. The whole is checked, and frozen at every level.
 * @throws ConfigError with every problem
 */
export function loadConfig<const Sections extends readonly ConfigSection<string, unknown>[]>(
  sources: ConfigSources<Sections>,
): ConfigOf<Sections> {
  const { sections, env, workingFolder = process.cwd() } = sources
  const problems: ConfigProblem[] = []
  const origins = new Map<string, string>()
  const report: Report = (at, message) => {
    const origin = origins.get(at)
    problems.push({ path: at, message: origin === undefined ? message : `${message} (${origin})` })
  }
  const schema = wholeSchema(sections)
  const tree = sources.file === undefined ? {} : readFile(schema, sources.file, report)
  const assignments = [
    ...readEnvironment(schema, env, {
      report,
      readValue: (name) => readValueFile(resolve(workingFolder, name)),
    }),
    ...flattenValues(sources.flags, 'a flag'),
  ]
  const place = (assignment: Assignment) => {
    assign(schema, tree, assignment)
    origins.set(assignment.path.join('.'), `from ${assignment.source}`)
  }
  assignments.forEach(place)
  const data = resolve(workingFolder, typeof tree['data'] === 'string' ? tree['data'] : defaultData)
  const fallback = sources.fallbacks?.({ data, options: tree })
  if (fallback !== undefined) {
    const filling = flattenValues(fallback.options, fallback.source)
    filling.filter(({ path: steps }) => !isSaid(tree, steps)).forEach(place)
  }
  const parsed = parseOptions(schema, tree, { path: '', report })
  const located = resolvePaths(schema, parsed, workingFolder) as CommonConfig &
    Record<string, Record<string, unknown>>
  for (const section of sections) checkSection(section, located, { problems, report })
  for (const { name, schema: part } of sections) {
    const { files } = sources
    if (files?.sections.includes(name) !== true) continue
    const isMade = (file: string) => files.isMade?.(file, located) ?? false
    checkFiles(part, located[name], { path: name, report, isMade })
  }
  if (problems.length > 0) throw new ConfigError(problems)
  const completed = sections.map(
    (section) => [section.name, section.complete(located[section.name], located, env)] as const,
  )
  const config = { data: located.data, log: located.log, ...Object.fromEntries(completed) }
  return deepFreeze(config) as ConfigOf<Sections>
}

/** The schema of the whole file. */
export function wholeSchema(sections: readonly ConfigSection<string, unknown>[]): OptionSchema {
  return asOption(
    group({
      ...commonOptions,
      ...Object.fromEntries(sections.map(({ name, schema }) => [name, schema])),
    }),
  )
}

function checkSection(
  section: ConfigSection<string, unknown>,
  config: CommonConfig & Readonly<Record<string, Record<string, unknown>>>,
  { problems, report }: { readonly problems: readonly ConfigProblem[]; readonly report: Report },
): void {
  const options = config[section.name]
  if (options === undefined) return
  const broken = problems.map((problem) => `${problem.path}.`)
  const isBroken = (path: string) => broken.some((each) => each.startsWith(`${path}.`))
  for (const { reads, check } of section.checks) {
    const readable = reads.map((name) => {
      const path = memberPath(section.name, name)
      const value = options[name]
      if (!Array.isArray(value) || broken.includes(`${path}.`)) return !isBroken(path)
      return [name, withHoles(value, (index) => isBroken(memberPath(path, index)))] as const
    })
    if (readable.includes(false)) continue
    const lists = Object.fromEntries(readable.filter((each) => typeof each !== 'boolean'))
    const reportIn: Report = (at, message) => report(memberPath(section.name, at), message)
    check({ ...options, ...lists }, reportIn, config)
  }
}

function withHoles(list: readonly unknown[], isBroken: (index: number) => boolean): unknown[] {
  const sparse = new Array<unknown>(list.length)
  list.forEach((element, index) => {
    if (!isBroken(index)) sparse[index] = element
  })
  return sparse
}

/** Reports the files that must be there and are not, or cannot be read. */
function checkFiles(
  schema: OptionSchema,
  value: unknown,
  at: {
    readonly path: string
    readonly report: Report
    readonly isMade: (file: string) => boolean
  },
): void {
  if (schema.existing === true && typeof value === 'string' && !at.isMade(value)) {
    try {
      accessSync(value, constants.R_OK)
    } catch (cause) {
      at.report(at.path, `cannot read ${value}: ${reasonOf(cause)}`)
    }
  }
  const members: readonly (readonly [string | number, OptionSchema | undefined, unknown])[] =
    Array.isArray(value)
      ? value.map((item: unknown, index) => [index, schema.items, item])
      : isRecord(value)
        ? Object.entries(value).map(([key, member]) => [key, schema.properties?.[key], member])
        : []
  for (const [key, memberSchema, member] of members) {
    if (memberSchema === undefined) continue
    checkFiles(memberSchema, member, { ...at, path: memberPath(at.path, key) })
  }
}

function readFile(schema: OptionSchema, file: string, report: Report): Record<string, unknown> {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (cause) {
    report(file, `cannot be read: ${reasonOf(cause)}`)
    return {}
  }
  const document = parseDocument(text, { uniqueKeys: true })
  for (const error of document.errors) {
    // The first line says what and where; the rest repeats the source, which may hold a secret.
    report(file, `is not valid YAML: ${error.message.split('\n')[0] ?? ''}`)
  }
  if (document.errors.length > 0) return {}
  // A document that only has comments is an empty configuration.
  const tree: unknown = document.toJS({ maxAliasCount: 100 }) ?? {}
  if (!isRecord(tree)) {
    report(file, 'must hold options (`data: …`), not a list or a single value')
    return {}
  }
  return resolvePaths(schema, tree, resolve(dirname(file))) as Record<string, unknown>
}

function readValueFile(file: string): string {
  try {
    // Editors and `echo` end a file with a newline that is not part of a password.
    return readFileSync(file, 'utf8').replace(/\r?\n$/, '')
  } catch (cause) {
    throw new Error(`cannot read ${file}: ${reasonOf(cause)}`, { cause })
  }
}

function reasonOf(cause: unknown): string {
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined
  if (code === 'ENOENT') return 'no such file'
  if (code === 'EACCES' || code === 'EPERM') return 'permission denied'
  if (code === 'EISDIR') return 'it is a folder'
  return cause instanceof Error ? cause.message : String(cause)
}

/** Makes the paths in a tree absolute; leaves everything else, wrong things included, as it is. */
function resolvePaths(schema: OptionSchema, value: unknown, folder: string): unknown {
  if (schema.path === true && typeof value === 'string') return resolve(folder, value)
  if (Array.isArray(value)) {
    const { items } = schema
    return items === undefined
      ? value
      : value.map((item: unknown) => resolvePaths(items, item, folder))
  }
  if (!isRecord(value)) return value
  return Object.fromEntries(
    Object.entries(value).map(([key, member]) => {
      const properties: Readonly<Record<string, OptionSchema>> = schema.properties ?? {}
      const memberSchema = Object.hasOwn(properties, key) ? properties[key] : undefined
      return [key, memberSchema === undefined ? member : resolvePaths(memberSchema, member, folder)]
    }),
  )
}

function flattenValues(
  values: unknown,
  source: string,
  at: readonly (string | number)[] = [],
): readonly Assignment[] {
  if (values === undefined) return []
  if (Array.isArray(values)) {
    // A list of words replaces; a list of groups merges into the elements that are there.
    if (!values.some((item) => isRecord(item))) return [{ path: at, value: values, source }]
    return values.flatMap((item: unknown, index) => flattenValues(item, source, [...at, index]))
  }
  if (isRecord(values)) {
    return Object.entries(values).flatMap(([key, member]) =>
      flattenValues(member, source, [...at, key]),
    )
  }
  return [{ path: at, value: values, source }]
}

/** Whether something stands there, or something wrong on the way there, which the parser reports. */
function isSaid(tree: unknown, steps: readonly (string | number)[]): boolean {
  let node = tree
  for (const step of steps) {
    if (node === undefined || node === null) return false
    if (typeof node !== 'object') return true
    node = (node as Record<string | number, unknown>)[step]
  }
  return node !== undefined && node !== null
}

/** Writes a value into the tree, making the levels above it. A list starts from its default. */
function assign(
  schema: OptionSchema,
  tree: Record<string, unknown>,
  { path: steps, value }: Assignment,
): void {
  let node: Record<string | number, unknown> = tree
  let current: OptionSchema | undefined = schema
  for (const [index, step] of steps.entries()) {
    if (index === steps.length - 1) {
      node[step] = value
      return
    }
    current = typeof step === 'number' ? current?.items : current?.properties?.[step]
    let next = node[step]
    if (next === undefined || next === null) {
      next = structuredClone(current?.default) ?? (typeof steps[index + 1] === 'number' ? [] : {})
      node[step] = next
    }
    // Something else is in the way, and the parser reports that.
    if (typeof next !== 'object' || next === null) return
    node = next as Record<string | number, unknown>
  }
}

function deepFreeze<Value>(value: Value): Value {
  if (typeof value === 'object' && value !== null && !Object.isFrozen(value)) {
    for (const member of Object.values(value)) deepFreeze(member)
    Object.freeze(value)
  }
  return value
}

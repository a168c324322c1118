import type { OptionSchema } from './options.ts'
import { memberPath, type Report } from './parse.ts'
import { didYouMean } from './problems.ts'

/** One value and where in the configuration it belongs. */
export interface Assignment {
  readonly path: readonly (string | number)[]
  readonly value: unknown
  /** The variable or flag that says so, for error messages. */
  readonly source: string
}

const prefix = 'OUTPORT_'

/** Variables that are not options: read by the launcher, the command line, the tests and the benches. */
const processVariables = /^OUTPORT_(?:CONFIG|(?:TEST|BENCH|CLIENTS|SOAK)(?:_\w+)?)$/

/**
 * What Kubernetes puts into every pod's environment for a Service whose name starts with `outport`
 * [kubernetes docs, Services, Environment variables]; refusing those would keep a pod from starting.
 */
const kubernetesService =
  /^OUTPORT_(?:[A-Z0-9]+_)*(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_\d+_(?:TCP|UDP)(?:_(?:PROTO|PORT|ADDR))?)?)$/

/** The one alias: what issue trackers and compose files call the bootstrap password. */
const aliases: Readonly<Record<string, string>> = {
  OUTPORT_ADMIN_PASSWORD: 'OUTPORT_PRIMARY__ADMIN_PASSWORD',
  OUTPORT_ADMIN_PASSWORD_FILE: 'OUTPORT_PRIMARY__ADMIN_PASSWORD_FILE',
}

/**
 * Reads the `OUTPORT_…` variables as options: `__` between levels, list elements by index, a list of
 * words also comma-separated, `…_FILE` takes the value from a file. A variable with an empty value counts
 * as not set. Reports unknown ones.
 * @param readValue reads a `…_FILE`'s file; what it throws is reported
 */
export function readEnvironment(
  schema: OptionSchema,
  env: Readonly<Record<string, string | undefined>>,
  { report, readValue }: { readonly report: Report; readonly readValue: (file: string) => string },
): readonly Assignment[] {
  const assignments: Assignment[] = []
  for (const name of Object.keys(env).sort()) {
    const value = env[name] ?? ''
    if (!name.startsWith(prefix) || value === '') continue
    if (processVariables.test(name) || isKubernetesService(name, value)) continue
    const alias = aliases[name]
    if (alias !== undefined && !hasOption(schema, alias)) continue
    const target = findOption(schema, alias ?? name)
    if (typeof target === 'string') {
      report(name, target)
      continue
    }
    try {
      const written = target.fromFile ? readValue(value) : value
      assignments.push({ path: target.path, value: coerce(target.schema, written), source: name })
    } catch (cause) {
      report(name, cause instanceof Error ? cause.message : String(cause))
    }
  }
  return assignments
}

/** The variable that sets the option at a path: `primary.database.url` is `OUTPORT_PRIMARY__DATABASE__URL`. */
export function variableOf(path: string): string {
  return prefix + path.replaceAll('.', '__').toUpperCase()
}

interface Target {
  readonly path: readonly (string | number)[]
  readonly schema: OptionSchema
  readonly fromFile: boolean
}

function isKubernetesService(name: string, value: string): boolean {
  if (!kubernetesService.test(name)) return false
  // OUTPORT_PRIMARY_PORT is also what a person may write for OUTPORT_PRIMARY__…; theirs is a number.
  return (
    !name.endsWith('_PORT') ||
    /^(?:tcp|udp):\/\//.test(value) ||
    name.includes('SERVICE') ||
    /_\d+_(?:TCP|UDP)_PORT$/.test(name)
  )
}

function hasOption(schema: OptionSchema, name: string): boolean {
  return typeof findOption(schema, name) !== 'string'
}

/** The option that a variable names, or what is wrong with the name. */
function findOption(schema: OptionSchema, name: string): Target | string {
  const words = name.slice(prefix.length).toLowerCase().split('__')
  const path: (string | number)[] = []
  let current = schema
  let fromFile = false
  for (const [index, word] of words.entries()) {
    if (current.items !== undefined) {
      if (!/^\d{1,4}$/.test(word)) {
        return `unknown variable: the option '${path.join('.')}' is a list, its elements are numbered from 0 (${variableOf(`${path.join('.')}.0`)}…)`
      }
      path.push(Number(word))
      current = current.items
      continue
    }
    const properties: Readonly<Record<string, OptionSchema>> = current.properties ?? {}
    let key = word
    // An option's own name wins: `key_file` is an option, not the file that holds `key`.
    if (!Object.hasOwn(properties, key) && index === words.length - 1 && key.endsWith('_file')) {
      key = key.slice(0, -'_file'.length)
      fromFile = true
    }
    const member = Object.hasOwn(properties, key) ? properties[key] : undefined
    if (member === undefined) {
      const siblings = Object.keys(properties).map((sibling) =>
        variableOf(memberPath(path.join('.'), sibling)),
      )
      const written = variableOf(memberPath(path.join('.'), word))
      return `unknown variable${didYouMean(written, siblings) || ' (a level of the configuration is separated by two underscores)'}`
    }
    path.push(key)
    current = member
  }
  if (current.properties !== undefined) {
    return `names a group of options: set one of ${Object.keys(current.properties).join(', ')}`
  }
  if (current.items?.properties !== undefined) {
    return `names a list of groups: set its elements' options (${variableOf(`${path.join('.')}.0.${Object.keys(current.items.properties)[0] ?? ''}`)})`
  }
  return { path, schema: current, fromFile }
}

/** A variable's text as the option's type; what does not fit stays text and is refused by the parser. */
function coerce(schema: OptionSchema, written: string): unknown {
  if (schema.items !== undefined) {
    const { items } = schema
    return written
      .split(',')
      .map((word) => word.trim())
      .filter((word) => word !== '')
      .map((word) => coerce(items, word))
  }
  if (schema.type === 'boolean' && (written === 'true' || written === 'false')) {
    return written === 'true'
  }
  if (schema.type === 'integer' && schema.unit === undefined && /^-?\d+$/.test(written)) {
    return Number(written)
  }
  return written
}

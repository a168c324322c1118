import { variableOf } from './environment.ts'
import { wholeSchema, type ConfigSection } from './load.ts'
import type { OptionSchema } from './options.ts'
import { isRecord } from './record.ts'

/**
 * The configuration reference: one markdown table a section, one row an option, with its variable, default
 * and meaning. Pure: the README's part between its markers must equal it.
 */
export function configReference(sections: readonly ConfigSection<string, unknown>[]): string {
  const names = new Set(sections.map(({ name }) => name))
  const whole = wholeSchema(sections).properties ?? {}
  const common = Object.entries(whole).filter(([name]) => !names.has(name))
  return [
    table(
      'Common',
      common.flatMap(([name, schema]) => rows(schema, name)),
    ),
    ...sections.map(({ name, schema }) => table(`\`${name}\``, rows(schema, name))),
  ].join('\n')
}

const required = '**required**'

interface Row {
  readonly option: string
  readonly variable: string
  readonly preset: string
  readonly description: string
}

function table(title: string, lines: readonly Row[]): string {
  return [
    `#### ${title}`,
    '',
    '| option | variable | default | meaning |',
    '| --- | --- | --- | --- |',
    ...lines.map(
      (row) => `| \`${row.option}\` | \`${row.variable}\` | ${row.preset} | ${row.description} |`,
    ),
    '',
  ].join('\n')
}

/** @param absent what the default says of an option that has none */
function rows(schema: OptionSchema, path: string, absent = required): readonly Row[] {
  if (schema.properties !== undefined) {
    // Of a group that may be left out whole, a member is required only with it.
    const needed = absent === '' ? `${required} with \`${path.split('.').at(-1) ?? ''}\`` : required
    return Object.entries(schema.properties).flatMap(([key, member]) =>
      rows(member, `${path}.${key}`, schema.required?.includes(key) === true ? needed : ''),
    )
  }
  const row = {
    option: path,
    variable: variableOf(path.replaceAll('[]', '.N').replaceAll('..', '.')),
    preset: preset(schema) ?? absent,
    description: describe(schema),
  }
  if (schema.items?.properties === undefined) return [row]
  const items = rows(schema.items, `${path}[]`)
  return [{ ...row, option: `${path}[]`, variable: `${variableOf(path)}__N__…` }, ...items]
}

function preset(schema: OptionSchema): string | undefined {
  const value = schema.default
  if (value === undefined) return undefined
  if (!Array.isArray(value)) return code(typeof value === 'string' ? value : JSON.stringify(value))
  if (value.length === 0) return 'none'
  if (schema.items?.properties === undefined) return code(value.join(', '))
  return value.map(presetElement).join(', ')
}

/** As it would be written in the file: `{name: edge, port: 8081}`. */
function presetElement(element: unknown): string {
  if (!isRecord(element)) return code(JSON.stringify(element))
  const members = Object.entries(element).map(([key, member]) => `${key}: ${String(member)}`)
  return members.length === 0 ? 'one with its defaults' : code(`{${members.join(', ')}}`)
}

function describe(schema: OptionSchema): string {
  const words = schema.enum === undefined ? '' : ` One of ${schema.enum.map(code).join(', ')}.`
  const secret = schema.secret === true ? ' Secret.' : ''
  return `${schema.description ?? ''}${words}${secret}`.replaceAll('|', '\\|').replaceAll('\n', ' ')
}

function code(text: string): string {
  return `\`${text}\``
}

import { stringify } from 'yaml'
import { wholeSchema, type ConfigSection } from './load.ts'
import type { OptionSchema } from './options.ts'
import { isRecord } from './record.ts'
import { formatUnit } from './units.ts'

/**
 * The resolved configuration as YAML, what follows from other options included. Secrets that are set read
 * `(set)`.
 * @param config what loadConfig returned for these sections
 */
export function describeConfig(
  config: object,
  sections: readonly ConfigSection<string, unknown>[],
): string {
  return stringify(describe(wholeSchema(sections), config), { lineWidth: 0 })
}

function describe(schema: OptionSchema | undefined, value: unknown): unknown {
  // What no schema describes is not printed: nobody has said that it is not secret.
  if (schema === undefined) return undefined
  if (schema.secret === true) return value === undefined ? undefined : '(set)'
  if (Array.isArray(value)) return value.map((item: unknown) => describe(schema.items, item))
  if (isRecord(value)) {
    return Object.fromEntries(
      Object.entries(value).map(([key, member]) => [
        key,
        describe(schema.properties?.[key], member),
      ]),
    )
  }
  if (typeof value === 'number' && schema.unit !== undefined) return formatUnit(schema.unit, value)
  return value
}

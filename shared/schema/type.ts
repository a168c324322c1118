import type Typebox from 'typebox'
import type { TSchema } from 'typebox'

type Keywords = Readonly<Record<string, unknown>>

const mayBeAbsent = Symbol('the property may be left out')

/**
 * typebox's builders, with its types: what they make is the same JSON Schema. Its own are 370 modules, and as many
 * check values by them, which was a third of the time in which a program started.
 */
export const Type = {
  Any: (keywords?: Keywords) => ({ ...keywords }),
  Unknown: (keywords?: Keywords) => ({ ...keywords }),
  Null: (keywords?: Keywords) => ({ type: 'null', ...keywords }),
  Boolean: (keywords?: Keywords) => ({ type: 'boolean', ...keywords }),
  Integer: (keywords?: Keywords) => ({ type: 'integer', ...keywords }),
  Number: (keywords?: Keywords) => ({ type: 'number', ...keywords }),
  String: (keywords?: Keywords) => ({ type: 'string', ...keywords }),
  Literal: (value: string | number | boolean, keywords?: Keywords) => ({
    type: typeof value,
    const: value,
    ...keywords,
  }),
  Array: (items: TSchema, keywords?: Keywords) => ({ type: 'array', items, ...keywords }),
  Union: (anyOf: TSchema[], keywords?: Keywords) => ({ anyOf, ...keywords }),
  Record: (key: { pattern?: string }, value: TSchema, keywords?: Keywords) => ({
    type: 'object',
    patternProperties: { [key.pattern ?? '^.*$']: value },
    ...keywords,
  }),
  Object: (properties: Readonly<Record<string, TSchema>>, keywords?: Keywords) => {
    const required = Object.keys(properties).filter((name) => !isOptional(properties[name]))
    return {
      type: 'object',
      ...(required.length > 0 && { required }),
      properties,
      ...keywords,
    }
  },
  /** A property that may be left out. */
  Optional: (schema: TSchema) => ({ ...schema, [mayBeAbsent]: true }),
} as unknown as Pick<
  typeof Typebox,
  | 'Any'
  | 'Unknown'
  | 'Null'
  | 'Boolean'
  | 'Integer'
  | 'Number'
  | 'String'
  | 'Literal'
  | 'Array'
  | 'Union'
  | 'Record'
  | 'Object'
  | 'Optional'
>

function isOptional(schema: TSchema | undefined): boolean {
  return schema !== undefined && mayBeAbsent in schema
}

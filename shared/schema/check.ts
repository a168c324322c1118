import { createRequire } from 'node:module'
import type { Ajv as AjvClass, AnySchema, ErrorObject, Options, ValidateFunction } from 'ajv'

const options: Options = {
  // Formats describe what goes out; what comes in is looked at by patterns.
  validateFormats: false,
  // An unknown keyword or an odd type is seen by nobody at run time: the types and the tests of the routes look.
  strict: false,
}

const load = createRequire(import.meta.url)
const compilers = new Map<boolean, AjvClass>()

/** Whether a value is of a schema; else what is wrong with it. */
export type Check = (value: unknown) => readonly ErrorObject[] | undefined

/**
 * Makes the check of a schema. Both the check and its compiler are made when a value comes: a primary has hundreds of
 * schemas, and most of its starts use few.
 * @param coerce takes text for the numbers and booleans that it spells, and puts these in its place: for parameters
 */
export function checkOf(schema: unknown, { coerce = false } = {}): Check {
  let validate: ValidateFunction | undefined
  return (value) => {
    validate ??= compilerFor(coerce).compile(schema as AnySchema)
    return validate(value) ? undefined : (validate.errors ?? [])
  }
}

function compilerFor(coerce: boolean): AjvClass {
  const known = compilers.get(coerce)
  if (known !== undefined) return known
  const { Ajv } = load('ajv') as { readonly Ajv: typeof AjvClass }
  const compiler = new Ajv({ ...options, coerceTypes: coerce })
  compilers.set(coerce, compiler)
  return compiler
}

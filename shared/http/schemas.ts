import { createRequire } from 'node:module'
import type buildSerializer from 'fast-json-stringify'
import type { FastifySchema, FastifySchemaCompiler } from 'fastify'
import type { FastifySerializerCompiler } from 'fastify/types/schema.js'
import { checkOf } from '../schema/check.ts'

// What a schema compiles to is made when it is first used: a primary has hundreds, and most starts use few.

/** Checks what comes in. A body says of what type its values are; a path and a query are text. */
export const compileValidator: FastifySchemaCompiler<FastifySchema> = ({ schema, httpPart }) => {
  const check = checkOf(schema, { coerce: httpPart !== 'body' })
  const flags = httpPart === 'querystring' ? flagsOf(schema) : []
  return (value: unknown) => {
    for (const name of flags) readFlag(value as Record<string, unknown>, name)
    const errors = check(value)
    return errors === undefined ? { value } : { error: [...errors] }
  }
}

/** Harbor's clients write `True`, `1` and `yes`, too. [github.com/go-openapi/swag, ConvertBool] */
const flagWords: ReadonlyMap<string, boolean> = new Map([
  ...wordsFor(true, 'true 1 yes ok y on selected checked t enabled'),
  ...wordsFor(false, 'false 0 no n off f disabled'),
])

function wordsFor(value: boolean, words: string): (readonly [string, boolean])[] {
  return words.split(' ').map((word) => [word, value])
}

function flagsOf(schema: unknown): string[] {
  const { properties = {} } = schema as { properties?: Record<string, { type?: unknown }> }
  return Object.keys(properties).filter((name) => properties[name]?.type === 'boolean')
}

function readFlag(query: Record<string, unknown>, name: string): void {
  const word = query[name]
  if (typeof word === 'string') query[name] = flagWords.get(word.toLowerCase()) ?? word
}

const load = createRequire(import.meta.url)

/** Shapes what goes out as fastify does by default. */
export const compileSerializer: FastifySerializerCompiler<FastifySchema> = ({ schema }) => {
  let serialize: ((body: unknown) => string) | undefined
  return (body: unknown) => (serialize ??= serializerOf(schema))(body)
}

function serializerOf(schema: FastifySchema): (body: unknown) => string {
  const build = load('fast-json-stringify') as typeof buildSerializer
  return build(schema)
}

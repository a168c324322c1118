import { createRequire } from 'node:module'
import { TypeBoxValidatorCompiler } from '@fastify/type-provider-typebox'
import type buildSerializer from 'fast-json-stringify'
import type { FastifySchema, FastifySchemaCompiler } from 'fastify'
import type { FastifySerializerCompiler } from 'fastify/types/schema.js'

// What a schema compiles to is made when it is first used: a primary has hundreds, and most starts use few.

/** Checks what comes in by typebox. */
export const compileValidator: FastifySchemaCompiler<FastifySchema> = (route) => {
  let validate: ReturnType<typeof TypeBoxValidatorCompiler> | undefined
  return (value) => (validate ??= TypeBoxValidatorCompiler(route))(value)
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

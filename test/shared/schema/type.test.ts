import assert from 'node:assert/strict'
import { test } from 'node:test'
import Typebox from 'typebox'
import { Type } from '../../../shared/schema/type.ts'

test("what it builds is the JSON Schema of typebox's own builders", () => {
  const build = (type: typeof Type) => [
    type.Any(),
    type.Unknown({ description: 'anything' }),
    type.Null({ description: 'done' }),
    type.Boolean(),
    type.Integer({ minimum: 1, maximum: 9 }),
    type.Number({ default: 0.5 }),
    type.String({ maxLength: 3, pattern: '^a' }),
    type.Literal('a', { description: 'one' }),
    type.Literal(3),
    type.Literal(true),
    type.Array(type.String(), { maxItems: 3 }),
    type.Union([type.Literal('a'), type.Null()], { default: 'a' }),
    type.Record(type.String(), type.Any()),
    type.Record(type.String({ maxLength: 9, pattern: '^[a-z]+$' }), type.String(), {
      maxProperties: 3,
    }),
    type.Object({}),
    type.Object({ a: type.Optional(type.String()) }),
    type.Object(
      {
        a: type.Optional(type.Array(type.Object({ b: type.Integer() }))),
        c: type.String(),
      },
      { description: 'both' },
    ),
    type.Optional(type.Union([type.Integer(), type.Null()])),
  ]
  assert.equal(JSON.stringify(build(Type)), JSON.stringify(build(Typebox)))
})

import assert from 'node:assert/strict'
import { test } from 'node:test'
import { checkOf } from '../../../shared/schema/check.ts'
import { Type } from '../../../shared/schema/type.ts'

const schema = Type.Object({
  name: Type.String({ maxLength: 4 }),
  count: Type.Optional(Type.Integer({ minimum: 1 })),
  isOpen: Type.Optional(Type.Boolean()),
})

test('a value of the schema has no errors, whatever else it says', () => {
  const check = checkOf(schema)
  assert.equal(check({ name: 'a' }), undefined)
  assert.equal(check({ name: 'a', count: 2, isOpen: false, more: [] }), undefined)
})

test('what is wrong is said by its place', () => {
  const check = checkOf(schema)
  const found = (value: unknown) =>
    check(value)?.map(({ instancePath, message }) => `${instancePath} ${message}`)
  assert.deepEqual(found({}), [" must have required property 'name'"])
  assert.deepEqual(found({ name: 'abcde' }), ['/name must NOT have more than 4 characters'])
  assert.deepEqual(found({ name: 'a', count: '2' }), ['/count must be integer'])
  assert.deepEqual(found({ name: 'a', count: 2.5 }), ['/count must be integer'])
  assert.deepEqual(found('a'), [' must be object'])
  assert.deepEqual(found(null), [' must be object'])
})

test('text is taken for what it spells where it is asked for, and put in its place', () => {
  const check = checkOf(schema, { coerce: true })
  const value = { name: 'a', count: '2', isOpen: 'true' }
  assert.equal(check(value), undefined)
  assert.deepEqual(value, { name: 'a', count: 2, isOpen: true })
  for (const count of ['', 'x', '1.5', '0', ['1']])
    assert.notEqual(check({ name: 'a', count }), undefined, String(count))
})

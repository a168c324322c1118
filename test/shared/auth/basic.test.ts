import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { formatBasic, isAnonymous, parseBasic } from '../../../shared/auth/basic.ts'

test('credentials survive the header, colons in the password and any script included', () => {
  const name = fc.string({ unit: 'grapheme', maxLength: 40 }).filter((text) => !text.includes(':'))
  fc.assert(
    fc.property(name, fc.string({ unit: 'grapheme', maxLength: 60 }), (username, password) => {
      const header = formatBasic({ username, password })
      assert.deepEqual(parseBasic(header), { username, password })
    }),
  )
})

test('the scheme has any case, and Og== is nobody', () => {
  for (const header of ['Basic Og==', 'basic Og==', 'BASIC  Og==']) {
    const credentials = parseBasic(header)
    assert.ok(credentials !== undefined && isAnonymous(credentials))
  }
  assert.ok(!isAnonymous({ username: 'alice', password: '' }))
})

test('what is not Basic is not read', () => {
  const others = [
    '',
    'Basic',
    'Bearer abc',
    'Basic !!!!',
    'Basic YWxpY2U=',
    'Basic Og== x',
    'Negotiate',
  ]
  for (const header of others) assert.equal(parseBasic(header), undefined, header)
  assert.equal(parseBasic(`Basic ${'A'.repeat(5000)}`), undefined)
})

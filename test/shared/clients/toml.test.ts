import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { tomlString, tomlStrings } from '../../../shared/clients/toml.ts'

test('quotes, backslashes, line ends and control characters are escaped', () => {
  assert.equal(tomlString('a"b\\c\nd\te\u0000f\u007f'), '"a\\"b\\\\c\\nd\\te\\u0000f\\u007f"')
  assert.equal(tomlString('https://ü.example:5443'), '"https://ü.example:5443"')
  assert.equal(tomlString('\ud800'), '"\ufffd"')
})

test('a list is on one line', () => {
  assert.equal(tomlStrings(['pull', 'a"b']), '["pull", "a\\"b"]')
})

test('any text stays one string on one line, and reads back the same', () => {
  // TOML's basic strings, as written here, are JSON's strings.
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const written = tomlString(text)
      assert.doesNotMatch(written, /[\n\r]/)
      assert.equal(JSON.parse(written), text.toWellFormed())
    }),
  )
})
